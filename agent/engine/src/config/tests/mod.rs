//! `config.json` of each family: what it means, and what is refused.

mod transformers;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": [2, 3]
    })
}

/// The same sizes in another family, with fields of its own.
fn family(name: &str, layers: usize, own: Value) -> Value {
    let mut config = llama();
    config["architectures"] = json!([name]);
    config["num_hidden_layers"] = json!(layers);
    let Value::Object(own) = own else { panic!("fields") };
    own.into_iter().for_each(|(field, value)| config[field] = value);
    config
}

fn parse(value: &Value) -> Result<ModelConfig, EngineError> {
    ModelConfig::parse(value.to_string().as_bytes())
}

fn windows(config: &ModelConfig) -> Vec<Option<usize>> {
    config.layers.iter().map(|layer| layer.window).collect()
}

#[test]
fn a_llama_reads_with_its_defaults() {
    let config = parse(&llama()).unwrap();
    assert_eq!(config.architecture, Architecture::Llama);
    assert_eq!((config.head_dim, config.queries_per_kv()), (16, 2));
    assert_eq!(config.dtype, Some(DType::BF16));
    assert_eq!(config.eos_token_ids, [2, 3]);
    assert_eq!(config.ropes, [Rope { theta: 10_000.0, rotary_dim: 16, scaling: RopeScaling::None }]);
    assert_eq!(config.layers, [LayerConfig { window: None, rope: 0, sparse: false }; 2]);
    assert_eq!((config.attention_scale, config.activation), (0.25, Activation::Silu));
    assert!(!config.tie_word_embeddings && config.moe.is_none() && config.embedding_scale.is_none());
}

#[test]
fn the_number_of_experts_has_two_names() {
    let count = |name, own| parse(&family(name, 2, own)).unwrap().moe.map(|moe| moe.num_experts);
    for (name, first) in [("MixtralForCausalLM", 10), ("Qwen3MoeForCausalLM", 11)] {
        assert_eq!(count(name, json!({"num_experts": 10})), Some(10));
        assert_eq!(count(name, json!({"num_local_experts": 11})), Some(11));
        assert_eq!(count(name, json!({"num_experts": 10, "num_local_experts": 11})), Some(first));
    }
}

#[test]
fn both_spellings_of_rope_mean_the_same() {
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let mut old = llama();
    old["rope_theta"] = json!(500000.0);
    old["rope_scaling"] = scaling.clone();
    let mut new = llama();
    new["rope_parameters"] = scaling;
    new["rope_parameters"]["rope_theta"] = json!(500000.0);
    let expected =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_length: 64 };
    for value in [old, new] {
        let ropes = parse(&value).unwrap().ropes;
        assert_eq!(ropes, [Rope { theta: 500_000.0, rotary_dim: 16, scaling: expected.clone() }]);
    }
}

#[test]
fn windows_slide_where_each_family_says() {
    let (some, none) = (Some(16), None);
    let qwen2 = |own| parse(&family("Qwen2ForCausalLM", 3, own)).unwrap();
    let sliding = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1});
    assert_eq!(windows(&qwen2(sliding)), [none, some, some]);
    // As the hub has them.
    assert_eq!(windows(&qwen2(json!({"use_sliding_window": false, "sliding_window": 16}))), [none; 3]);
    let types = json!({"use_sliding_window": true, "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"]});
    assert_eq!(windows(&qwen2(types)), [some, none, none]);

    let mistral = |own| parse(&family("MistralForCausalLM", 2, own)).unwrap();
    assert_eq!(windows(&mistral(json!({"sliding_window": 16}))), [some; 2]);
    assert_eq!(windows(&mistral(json!({"sliding_window": null}))), [none; 2]);
    assert_eq!(windows(&mistral(json!({}))), [Some(4096); 2]);
    let phi3 = parse(&family("Phi3ForCausalLM", 2, json!({"sliding_window": 16}))).unwrap();
    assert_eq!(windows(&phi3), [some; 2]);

    let gemma2 = parse(&family("Gemma2ForCausalLM", 3, json!({"sliding_window": 16}))).unwrap();
    assert_eq!(windows(&gemma2), [some, none, some]);
    let gemma3 = json!({"sliding_window": 16, "sliding_window_pattern": 3});
    let gemma3 = parse(&family("Gemma3ForCausalLM", 4, gemma3)).unwrap();
    assert_eq!(windows(&gemma3), [some, some, none, some]);
}

#[test]
fn gemmas_read_with_their_own_numbers() {
    let gemma2 = parse(&family("Gemma2ForCausalLM", 2, json!({"query_pre_attn_scalar": 16, "head_dim": 8}))).unwrap();
    assert_eq!((gemma2.attention_scale, gemma2.embedding_scale), (0.25, Some(8.0)));
    assert_eq!((gemma2.attention_soft_cap, gemma2.logit_soft_cap), (Some(50.0), Some(30.0)));
    assert_eq!((gemma2.norm_offset, gemma2.activation), (1.0, Activation::GeluTanh));
    assert!(gemma2.tie_word_embeddings);
    let uncapped = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    let uncapped = parse(&family("Gemma2ForCausalLM", 2, uncapped)).unwrap();
    assert_eq!((uncapped.attention_soft_cap, uncapped.logit_soft_cap, uncapped.head_dim), (None, None, 256));
}

#[test]
fn gemma3_has_two_ropes_in_both_spellings() {
    let old = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "head_dim": 16,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let new = json!({"head_dim": 16, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}});
    for own in [old, new] {
        let config = parse(&family("Gemma3ForCausalLM", 6, own)).unwrap();
        let global = Rope { theta: 1e6, rotary_dim: 16, scaling: RopeScaling::Linear { factor: 8.0 } };
        assert_eq!(config.ropes, [global, Rope { theta: 1e4, rotary_dim: 16, scaling: RopeScaling::None }]);
        assert_eq!(config.layers.iter().map(|layer| layer.rope).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 0]);
    }
}

#[test]
fn the_text_part_of_a_multimodal_gemma3_reads_with_its_defaults() {
    let whole = json!({"architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 106],
        "torch_dtype": "bfloat16", "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}});
    let config = parse(&whole).unwrap();
    assert_eq!((config.architecture, config.weights_prefix), (Architecture::Gemma3, Some("language_model")));
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (8, 4, 256));
    assert_eq!((config.vocab_size, config.layers[0].window, config.layers[5].window), (262_208, Some(1024), None));
    assert_eq!((config.dtype, config.eos_token_ids.as_slice()), (Some(DType::BF16), [1, 106].as_slice()));
    for text in [json!(null), json!([]), json!("x")] {
        let mut broken = whole.clone();
        broken["text_config"] = text;
        assert!(parse(&broken).is_err());
    }
}

#[test]
fn experts_are_where_the_configuration_says() {
    let own = json!({"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "norm_topk_prob": true,
        "decoder_sparse_step": 2, "mlp_only_layers": [3]});
    let config = parse(&family("Qwen3MoeForCausalLM", 6, own)).unwrap();
    let expected = MoeConfig {
        num_experts: 8,
        experts_per_token: 3,
        intermediate_size: 24,
        normalize: true,
        prefix: "mlp",
        projections: ["gate_proj", "up_proj", "down_proj"],
    };
    assert_eq!(config.moe, Some(expected));
    let sparse: Vec<bool> = config.layers.iter().map(|layer| layer.sparse).collect();
    assert_eq!(sparse, [false, true, false, false, false, true]);

    let own = json!({"num_local_experts": 8, "num_experts_per_tok": 2});
    let config = parse(&family("MixtralForCausalLM", 2, own)).unwrap();
    let expected = MoeConfig {
        num_experts: 8,
        experts_per_token: 2,
        intermediate_size: 96,
        normalize: true,
        prefix: "block_sparse_moe",
        projections: ["w1", "w3", "w2"],
    };
    assert_eq!((config.moe, config.layers[0].sparse), (Some(expected), true));
}

#[test]
fn yarn_and_longrope_take_the_factors_that_are_suggested() {
    let scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    let config = parse(&family("Qwen3ForCausalLM", 2, json!({"rope_scaling": scaling}))).unwrap();
    let RopeScaling::Yarn(yarn) = &config.ropes[0].scaling else { panic!("{config:?}") };
    assert!((yarn.attention_factor - 1.138_629_4).abs() < 1e-6, "{yarn:?}");
    assert_eq!((yarn.beta_fast, yarn.beta_slow, yarn.truncate), (32.0, 1.0, true));

    for kind in ["longrope", "su", "yarn"] {
        let scaling = json!({"type": kind, "short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [2, 3, 4, 5]});
        let own = json!({"rope_scaling": scaling, "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 32});
        let config = parse(&family("Phi3ForCausalLM", 2, own)).unwrap();
        let RopeScaling::LongRope(long) = &config.ropes[0].scaling else { panic!("{config:?}") };
        // √(1 + ln 4 / ln 32)
        assert!((long.attention_factor - 1.183_216).abs() < 1e-6, "{long:?}");
        assert_eq!((long.original_context_length, long.long.as_slice()), (32, [2.0, 3.0, 4.0, 5.0].as_slice()));
    }
}

#[test]
fn values_that_transformers_takes_are_taken() {
    let plain = parse(&llama()).unwrap();
    for (field, value) in [
        ("attention_bias", json!(null)),
        ("mlp_bias", json!(null)),
        ("eos_token_id", json!([2, 3, -1])),
        ("rope_scaling", json!({"type": "dynamic", "factor": 2.0})),
    ] {
        let mut config = llama();
        config[field] = value;
        assert_eq!(parse(&config).unwrap(), plain, "{field}");
    }
}

#[test]
fn wrong_values_are_named() {
    let cases = [
        ("architectures", json!(["GPT2LMHeadModel"]), "supported: LlamaForCausalLM, MistralForCausalLM"),
        ("hidden_size", json!(null), "`hidden_size`: invalid type: null, expected usize"),
        ("hidden_size", json!("64"), "expected usize"),
        ("hidden_size", json!(0), "hidden_size is 0"),
        ("num_attention_heads", json!(0), "num_attention_heads is 0"),
        ("num_key_value_heads", json!(3), "num_attention_heads (4) is no multiple of num_key_value_heads (3)"),
        ("num_key_value_heads", json!(0), "num_key_value_heads is 0"),
        ("head_dim", json!(15), "head_dim is 15"),
        ("vocab_size", json!(1_000_000_000), "vocab_size is 1000000000"),
        ("num_hidden_layers", json!(1_000_000_000_000u64), "num_hidden_layers is 1000000000000"),
        ("max_position_embeddings", json!(1u64 << 40), "max_position_embeddings is"),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps is -1"),
        ("rms_norm_eps", json!(0.0), "rms_norm_eps is 0"),
        ("hidden_act", json!("gelu"), "hidden_act `gelu`"),
        ("torch_dtype", json!("int8"), "dtype `int8`"),
        ("quantization_config", json!({"quant_method": "hqq"}), "quant_method `hqq` is not supported; supported: fp8"),
        ("use_sliding_window", json!(true), "sliding"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "every layer of a LlamaForCausalLM is full"),
        ("layer_types", json!(["full_attention"]), "layer_types has 1 entries, num_hidden_layers is 2"),
        ("layer_types", json!(["full_attention", "mamba"]), "layer_types holds `mamba`"),
        ("rope_scaling", json!({"type": "ntk", "factor": 2.0}), "rope type `ntk`"),
        ("rope_scaling", json!({"type": "yarn", "factor": -2.0}), "factor of rope type `yarn` is -2"),
        ("rope_scaling", json!({"type": "yarn", "original_max_position_embeddings": 0}), "is 0"),
        ("rope_scaling", json!({"type": "longrope"}), "needs short_factor"),
        ("rope_scaling", json!({"type": "longrope", "short_factor": [1.0]}), "short_factor has 1 numbers"),
        ("rope_scaling", json!({"type": "linear"}), "factor"),
        ("rope_scaling", json!({"type": "linear", "factor": 0.0}), "factor"),
        ("rope_scaling", json!({"type": "linear", "factor": 1e300}), "factor"),
        ("rope_theta", json!(-5.0), "rope_theta"),
        ("partial_rotary_factor", json!(1e-9), "at least 2"),
        ("partial_rotary_factor", json!(1.5), "partial_rotary_factor is 1.5"),
    ];
    for (field, value, expected) in cases {
        let mut config = llama();
        config[field] = value;
        let message = parse(&config).expect_err(field).to_string();
        assert!(message.contains(expected), "{field}: {message}");
    }
    for text in ["", "[]", "{", "{\"architectures\": []}"] {
        assert!(ModelConfig::parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn wrong_values_of_a_family_are_named() {
    let moe = json!({"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24});
    let (moe, gemma) = (family("Qwen3MoeForCausalLM", 2, moe), family("Gemma2ForCausalLM", 2, json!({})));
    let cases = [
        (&moe, "num_experts", json!(0), "num_experts_per_tok is 3"),
        (&moe, "num_experts", json!(1u64 << 40), "the number of experts is"),
        (&moe, "num_experts", json!(null), "num_experts is null"),
        (&moe, "num_experts_per_tok", json!(9), "from 1 to the number of experts (8)"),
        (&moe, "num_experts_per_tok", json!(0), "num_experts_per_tok is 0"),
        (&moe, "moe_intermediate_size", json!(0), "moe_intermediate_size is 0"),
        (&moe, "decoder_sparse_step", json!(0), "decoder_sparse_step is 0"),
        (&gemma, "sliding_window", json!(null), "sliding_window is not set"),
        (&gemma, "sliding_window", json!(0), "sliding_window is 0"),
        (&gemma, "query_pre_attn_scalar", json!(-1), "query_pre_attn_scalar is -1"),
        (&gemma, "attn_logit_softcapping", json!(0.0), "attn_logit_softcapping is 0"),
        (&gemma, "final_logit_softcapping", json!(-30.0), "final_logit_softcapping is -30"),
        (&gemma, "hidden_activation", json!("relu"), "hidden_activation `relu`"),
        (&gemma, "use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
    ];
    for (base, field, value, expected) in cases {
        let mut config = base.clone();
        config[field] = value;
        let message = parse(&config).expect_err(field).to_string();
        assert!(message.contains(expected), "{field}: {message}");
    }
}

/// Numbers at the edges of what JSON and Rust's types hold.
fn absurd() -> impl Strategy<Value = Value> {
    let numbers = [0.0, -1.0, 0.5, 1e-300, 1e300, 1e-40, 3.4e38];
    prop_oneof![
        any::<u64>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        (0u64..70).prop_map(|bits| json!(1u64.checked_shl(bits as u32).unwrap_or(u64::MAX))),
        proptest::sample::select(numbers.to_vec()).prop_map(|number| json!(number)),
        Just(json!(null)),
        Just(json!([])),
        Just(json!({})),
        Just(json!(true)),
    ]
}

/// The texts of all fixtures.
fn texts() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("config.json"));
    files.map(|file| std::fs::read(file).unwrap()).collect()
}

proptest! {
    /// A text that was cut and overwritten anywhere is read or refused.
    #[test]
    fn damaged_texts_never_panic(
        text in proptest::sample::select(texts()),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut text = text;
        edits.iter().for_each(|(at, byte)| *at.get_mut(&mut text) = *byte);
        text.truncate(cut.map_or(text.len(), |cut| cut.index(text.len())));
        if let Ok(config) = ModelConfig::parse(&text) {
            prop_assert!(config.layers.len() <= MAX_LAYERS);
        }
    }

    /// Whatever a few fields say, the answer is a configuration within bounds, or an error.
    #[test]
    fn absurd_numbers_neither_panic_nor_allocate(
        name in proptest::sample::select(Architecture::ALL.iter().map(|family| family.name()).collect::<Vec<_>>()),
        changes in proptest::collection::vec((0usize..40, absurd()), 0..4),
    ) {
        let own = json!({"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
            "moe_intermediate_size": 24, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [1],
            "head_dim": 16, "use_sliding_window": true, "sliding_window": 16, "sliding_window_pattern": 2,
            "max_window_layers": 1, "rope_theta": 1e4, "rope_local_base_freq": 1e4, "partial_rotary_factor": 0.5,
            "query_pre_attn_scalar": 16.0, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0,
            "original_max_position_embeddings": 64, "rope_scaling": {"type": "longrope", "factor": 2.0,
            "short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [1.0, 1.0, 1.0, 1.0]}});
        let mut config = family(name, 2, own);
        let facts = Architecture::ALL.iter().map(|family| family.facts()).find(|facts| facts.name == name).unwrap();
        if matches!(facts.window, families::WindowKey::Unsupported) {
            config["use_sliding_window"] = json!(false);
        }
        prop_assert!(!changes.is_empty() || parse(&config).is_ok());
        let fields: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (index, value) in changes {
            config[&fields[index % fields.len()]] = value;
        }
        if let Ok(config) = parse(&config) {
            prop_assert!(config.num_layers <= MAX_LAYERS && config.layers.len() == config.num_layers);
            prop_assert!(config.ropes.iter().all(|rope| (2..=config.head_dim).contains(&rope.rotary_dim)));
            for rope in &config.ropes {
                prop_assert_eq!(rope.inverse_frequencies(config.context_length).len(), rope.rotary_dim / 2);
            }
            prop_assert!(config.layers.iter().all(|layer| layer.rope < config.ropes.len()));
            prop_assert!(config.layers.iter().all(|layer| layer.window != Some(0)));
            prop_assert!(config.moe.is_none_or(|moe| (1..=moe.num_experts).contains(&moe.experts_per_token)));
            prop_assert!(config.layers.iter().all(|layer| !layer.sparse || config.moe.is_some()));
            prop_assert!(config.attention_scale.is_normal());
            let _ = crate::shard::largest_world_size(&config);
        }
    }
}
