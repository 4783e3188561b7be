//! GGUF files: logits against the gguf package's own dequantization, at every world size; what is made of metadata; and
//! that nothing in a header does harm.

use std::path::PathBuf;

use crate::common::{Ranks, Setup};
use crate::parity::plan;
use lockstep_engine::{DTypeChoice, Runner, describe, gguf, open, resolve, verify, weight_facts};
use lockstep_schedule::plan::PlanTokens;

const NAMES: [&str; 2] = ["llama", "qwen3"];
/// Furthest that a logit may be from the reference in f64 with the same weights: what rounding activations to eight bits
/// moves. Logits reach 3.8.
const TOLERANCE: f32 = 0.3;
/// And from the same reference with activations that are rounded so, where no cut goes through 32 columns.
const ROUNDED_TOLERANCE: f32 = 2e-3;

fn path(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/gguf")).join(file)
}

fn setup(name: &str, world_size: usize) -> Setup {
    Setup { source: path(&format!("{name}.gguf")).display().to_string(), ..Setup::new("qwen3", world_size) }
}

#[test]
fn logits_are_those_of_the_packages_dequantization() {
    for name in NAMES {
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path(&format!("{name}.json"))).unwrap()).unwrap();
        let prompt: Vec<u32> = serde_json::from_value(json["prompt"].clone()).unwrap();
        let rows = |key: &str| -> Vec<Vec<f32>> { serde_json::from_value(json[key].clone()).unwrap() };
        let (expected, rounded) = (rows("logits"), rows("rounded"));
        for world_size in 1..=4 {
            let setup = setup(name, world_size);
            let ranks = Ranks::start(&setup);
            let (mut furthest, mut furthest_rounded) = (0f32, 0f32);
            for (position, token) in prompt.iter().enumerate() {
                let rows = [(position, PlanTokens::Given(vec![*token]))];
                let logits = &ranks.step(&plan(&ranks, position as u64 + 1, &setup, &rows)).logits[0];
                let distance = |expected: &[f32]| {
                    assert_eq!(logits.len(), expected.len());
                    logits.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()))
                };
                furthest = furthest.max(distance(&expected[position]));
                furthest_rounded = furthest_rounded.max(distance(&rounded[position]));
            }
            println!("{name}.gguf at {world_size} ranks: {furthest}, {furthest_rounded} where rounded");
            assert!(furthest < TOLERANCE, "{name}.gguf at {world_size} ranks: {furthest}");
            let whole = world_size != 3;
            assert!(!whole || furthest_rounded < ROUNDED_TOLERANCE, "{name}.gguf at {world_size}: {furthest_rounded}");
        }
    }
}

#[test]
fn a_file_is_a_model() {
    let files = |name: &str| open(&path(&format!("{name}.gguf")).display().to_string()).unwrap();
    let described = NAMES.map(|name| describe(files(name).as_ref()).unwrap());
    let tokenizers =
        described.each_ref().map(|model| tokenizers::Tokenizer::from_bytes(&model.tokenizer_json).unwrap());
    let ids = |index: usize, text: &str| tokenizers[index].encode(text, true).unwrap().get_ids().to_vec();
    assert_eq!(described[0].architecture, "LlamaForCausalLM");
    assert_eq!(described[1].architecture, "Qwen3ForCausalLM");
    // `▁the` and `▁an` after `<s>`; `the` and `Ġthe`.
    assert_eq!(ids(0, "the an"), [1, 7, 10]);
    assert_eq!(ids(1, "the the</s>"), [31, 32, 2]);
    assert_eq!(tokenizers[0].decode(&[1, 7, 10], true).unwrap(), "the an");
    for model in &described {
        assert_eq!((model.bos_token.as_deref(), model.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
        assert_eq!((model.generation.eos_token_ids.as_slice(), model.vocab_size), (&[2][..], 96));
        assert!(model.chat_template.as_ref().unwrap().contains("m['role']"));
    }
    let facts = weight_facts(files("llama")).unwrap();
    assert_eq!((facts.dtype, facts.parameters), ("q4_k", 443_136));
}

#[test]
fn a_folder_with_one_file_is_that_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path("qwen3.gguf"), folder.path().join("a-Q4_K_M.gguf")).unwrap();
    let source = folder.path().display().to_string();
    let resolved = resolve(open(&source).unwrap().as_ref()).unwrap();
    let names: Vec<_> = resolved.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.gguf"]);
    verify(open(&source).unwrap().as_ref(), &resolved).unwrap();
    let setup = Setup { source: source.clone(), dtype: DTypeChoice::Auto, ..setup("qwen3", 2) };
    let runner = Runner::load(setup.config(1), &mut |_, _| {}).unwrap();
    // A rank reads its part of every matrix, and keeps it in its format.
    assert_eq!(runner.facts().dtype, "q4_k");
    assert!((170_000..220_000).contains(&runner.bytes_read()), "{}", runner.bytes_read());
    std::fs::copy(path("llama.gguf"), folder.path().join("b.gguf")).unwrap();
    let message = open(&source).unwrap_err().to_string();
    assert!(message.contains("several GGUF files; name one of a-Q4_K_M.gguf, b.gguf"), "{message}");
}

#[test]
fn damaged_headers_are_refused_by_name() {
    let bytes = std::fs::read(path("llama.gguf")).unwrap();
    gguf::check_bytes(&bytes).unwrap();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let cases: [(Vec<u8>, &str); 8] = [
        (b"GGUF".to_vec(), "cut short: it has 4 bytes, 8"),
        (b"PK\x03\x04and so on".to_vec(), "it is no GGUF file"),
        (replaced(b"GGUF\x03", b"GGUF\x01"), "GGUF version 1"),
        (replaced(b"GGUF\x03\0\0\0\x0c", b"GGUF\x03\0\0\0\xff\xff\xff\xff"), "are more than any model has"),
        (replaced(b"llama.block_count", b"llama.block_cnt.."), "`llama.block_count`: it is missing"),
        (replaced(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba"), "architecture `mamba (in model.gguf)`"),
        (replaced(b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"), "tensor `blk.0.attn_k.weight` is there twice"),
        (bytes[..bytes.len() / 2].to_vec(), "model.gguf is cut short"),
    ];
    for (bytes, expected) in cases {
        let message = gguf::check_bytes(&bytes).expect_err(expected).to_string();
        assert!(message.contains(expected) && !message.contains('\u{0}'), "{message}");
    }
}

/// Whatever a byte of the header becomes, the answer is a model or an error, soon and in bounded memory.
#[test]
fn no_header_does_harm() {
    for name in NAMES {
        let whole = std::fs::read(path(&format!("{name}.gguf"))).unwrap();
        let header = whole.windows(4).rposition(|window| window == b"blk.").unwrap() + 64;
        for length in (0..header).step_by(7) {
            assert!(gguf::check_bytes(&whole[..length]).is_err(), "{name} cut at {length}");
        }
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        let mut bytes = whole.clone();
        for _ in 0..1500 {
            let places: Vec<usize> = (0..1 + random(3)).map(|_| random(header)).collect();
            for place in &places {
                bytes[*place] = [0, 1, 255, 128, u8::try_from(random(256)).unwrap()][random(5)];
            }
            _ = gguf::check_bytes(&bytes);
            places.iter().for_each(|place| bytes[*place] = whole[*place]);
        }
    }
}
