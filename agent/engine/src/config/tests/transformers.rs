//! Files of each family as transformers reads them: defaults, keys, windows and biases.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{parse, windows};
use crate::EngineError;
use crate::config::Architecture;

/// `tests/parity/defaults.json`: what transformers makes of files of each family.
#[derive(Deserialize)]
struct Expected {
    defaults: Vec<WrittenOut>,
    biases: Vec<Biases>,
}

/// A file that leaves keys out, and the same file with every key that transformers takes for them.
#[derive(Deserialize)]
struct WrittenOut {
    left_out: Value,
    written_out: Value,
}

/// A file, and the projections of its model that have a bias.
#[derive(Deserialize)]
struct Biases {
    config: Value,
    biases: Vec<String>,
}

fn expected() -> Expected {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/defaults.json"));
    serde_json::from_str(text).unwrap()
}

#[test]
fn keys_that_a_file_leaves_out_mean_what_transformers_takes_for_them() {
    let Expected { defaults, .. } = expected();
    for WrittenOut { left_out, written_out } in &defaults {
        let with = |key: &str| {
            let mut file = left_out.clone();
            file[key] = written_out[key].clone();
            parse(&file)
        };
        let plain = parse(left_out).unwrap();
        let keys = written_out.as_object().unwrap().keys();
        let wrong: Vec<_> = keys.filter(|key| !with(key).is_ok_and(|config| config == plain)).collect();
        let family = &left_out["architectures"][0];
        assert!(wrong.is_empty(), "{family}: the defaults of {wrong:?} are not transformers'");
        assert!(plain == parse(written_out).unwrap(), "{family}: the keys together mean another model");
    }
    for family in Architecture::ALL {
        let names = defaults.iter().map(|pair| &pair.left_out["architectures"][0]);
        assert!(names.into_iter().any(|name| name == family.name()), "defaults.json lacks {family:?}");
    }
}

/// Keys that transformers' configuration classes have, and that change nothing when a model answers.
const IGNORED: &[&str] = &[
    "_sliding_window_pattern",
    "attention_dropout",
    "bos_token_id",
    "embd_pdrop",
    "initializer_range",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "use_cache",
];

/// Keys that a family's configuration class has, and that the family's model in transformers does not use.
const IGNORED_BY_FAMILY: &[(&str, &str)] = &[
    // Gemma 3's attention passes no cap on.
    ("Gemma3ForCausalLM", "attn_logit_softcapping"),
    // The older name of `rope_type`, which takes precedence.
    ("Phi3ForCausalLM", "rope_parameters/type"),
    // The key of this name outside of the parameters takes precedence, and always has a value.
    ("Phi3ForCausalLM", "rope_parameters/original_max_position_embeddings"),
];

#[test]
fn every_key_of_a_family_changes_its_model_unless_a_list_says_so() {
    let Expected { defaults, .. } = expected();
    for name in Architecture::ALL.iter().map(|family| family.name()) {
        let files: Vec<_> = defaults.iter().filter(|pair| pair.left_out["architectures"][0] == name).collect();
        let mut keys: BTreeSet<String> = files.iter().flat_map(|pair| list_keys(&pair.written_out)).collect();
        keys.retain(|key| key != "architectures");
        let is_ignored = |key: &str| IGNORED.contains(&key) || IGNORED_BY_FAMILY.contains(&(name, key));
        let (ignored, read): (BTreeSet<_>, BTreeSet<_>) = keys.into_iter().partition(|key| is_ignored(key));
        let changes_model = |key: &&String| files.iter().any(|pair| changes_model(pair, key));
        let unread: Vec<_> = read.iter().filter(|key| !changes_model(key)).collect();
        assert!(unread.is_empty(), "{name}: no value of {unread:?} changes the model: read the keys, or list them");
        let listed: Vec<_> = ignored.iter().filter(changes_model).collect();
        assert!(listed.is_empty(), "{name}: {listed:?} change the model: take them out of the lists of ignored keys");
    }
}

/// Returns the keys of a file. The path of a key in a mapping has the mapping's key before it: `rope_parameters/type`.
fn list_keys(value: &Value) -> Vec<String> {
    let fields = value.as_object().into_iter().flatten();
    let paths = |(key, value): (&String, &Value)| match value {
        Value::Object(_) => list_keys(value).into_iter().map(|below| format!("{key}/{below}")).collect(),
        _ => vec![key.clone()],
    };
    fields.flat_map(paths).collect()
}

/// Returns true if another value of the key means another model, or is refused for its meaning.
fn changes_model(pair: &WrittenOut, key: &str) -> bool {
    let pointer = format!("/{key}");
    let Some(value) = pair.written_out.pointer(&pointer) else { return false };
    let plain = parse(&pair.left_out).unwrap();
    let outer = key.split('/').next().unwrap();
    other_values(value).into_iter().any(|other| {
        let mut file = pair.left_out.clone();
        file[outer] = pair.written_out[outer].clone();
        *file.pointer_mut(&pointer).unwrap() = other;
        match parse(&file) {
            Ok(model) => model != plain,
            Err(EngineError::Config { .. }) => true,
            // The value has a type that the key never has.
            Err(_) => false,
        }
    })
}

/// Returns values of the same type. The type of `null` is unknown.
fn other_values(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => vec![json!(true), json!(7), json!([0])],
        Value::Bool(on) => vec![json!(!on)],
        Value::Number(number) => match number.as_u64() {
            Some(whole) => vec![json!(whole + 1)],
            None => vec![json!(2.0 * number.as_f64().unwrap())],
        },
        Value::String(_) => vec![json!("another")],
        Value::Array(list) => vec![list.split_last().map_or(json!([0]), |(_, rest)| json!(rest))],
        Value::Object(_) => Vec::new(),
    }
}

/// A family whose class has no `sliding_window` has no window. No other test sees a default window of such a family: no key
/// leads to it, and the texts of the parity tests are shorter.
#[test]
fn layers_slide_as_in_transformers() {
    for WrittenOut { left_out, written_out } in &expected().defaults {
        let is_used = written_out["use_sliding_window"] != json!(false);
        let window =
            written_out["sliding_window"].as_u64().filter(|_| is_used).map(|size| usize::try_from(size).unwrap());
        let model = parse(left_out).unwrap();
        let slides = |layer: usize| written_out["layer_types"][layer] != json!("full_attention");
        let transformers: Vec<_> = (0..model.num_layers).map(|layer| window.filter(|_| slides(layer))).collect();
        assert_eq!(windows(&model), transformers, "the windows of {left_out} are not transformers'");
    }
}

#[test]
fn projections_have_the_biases_that_transformers_gives_them() {
    for Biases { config, biases } in &expected().biases {
        let model = parse(config).unwrap();
        let has = |names: &[&str]| biases.iter().any(|bias| names.contains(&bias.as_str()));
        let transformers = (has(&["q_proj", "qkv_proj"]), has(&["o_proj"]), has(&["up_proj", "gate_up_proj"]));
        let own = (model.attention.qkv_bias, model.attention.o_bias, model.mlp.bias);
        assert_eq!(own, transformers, "queries, output and feed-forward of {config}");
    }
}
