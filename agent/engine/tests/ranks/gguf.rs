//! GGUF files: logits against the gguf package's own dequantization, at every world size; the files of a model folder
//! that a GGUF file gives; and damaged headers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::common::{GroupSetup, Ranks, parity_names};
use crate::parity::plan;
use candle_core::{Device, Tensor};
use lockstep_engine::{Accelerator, Devices, Runner, describe, gguf, open, resolve, verify, weight_facts};
use lockstep_schedule::plan::PlanTokens;

/// Iterates over the names of all files: one for each family that llama.cpp has a name for.
fn names() -> impl Iterator<Item = &'static str> {
    static FILES: LazyLock<Vec<String>> = LazyLock::new(|| parity_names("gguf"));
    FILES.iter().filter_map(|file| file.strip_suffix(".gguf"))
}

/// Greatest distance of a logit, of 2 to 4, from the reference with the same weights in f64: the effect of rounding
/// activations to eight bits.
const TOLERANCE: f32 = 0.3;
/// Greatest distance from the same reference with activations that are rounded so.
const ROUNDED_TOLERANCE: f32 = 1e-5;

fn path(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/gguf")).join(file)
}

/// Iterates over the names of the files that llama.cpp's quantizer wrote, relative to [`path`].
fn quantizer_names() -> impl Iterator<Item = String> {
    let files = parity_names("llamacpp").into_iter();
    files.filter_map(|file| file.strip_suffix(".gguf").map(|name| format!("../llamacpp/{name}")))
}

fn setup(name: &str, world_size: usize) -> GroupSetup {
    GroupSetup { source: path(&format!("{name}.gguf")).display().to_string(), ..GroupSetup::new("qwen3", world_size) }
}

/// Ranks and pipeline stages.
const GRIDS: [(usize, usize); 5] = [(1, 1), (2, 1), (3, 1), (4, 1), (4, 2)];

/// Returns the greatest distance of any logit.
fn max_distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Returns the logits after each token of a prompt that is fed one by one.
fn logits(setup: &GroupSetup, prompt: &[u32]) -> Vec<Vec<f32>> {
    let ranks = Ranks::start(setup);
    let step = |(position, token): (usize, &u32)| {
        let rows = [(position, PlanTokens::Given(vec![*token]))];
        ranks.step(&plan(&ranks, position as u64 + 1, setup, &rows)).logits.remove(0)
    };
    prompt.iter().enumerate().map(step).collect()
}

#[test]
fn logits_match_the_dequantization_of_the_package() {
    for name in names() {
        check_logits(name, &GRIDS);
    }
}

/// The rows of these files have 256, 576, 896 and 1152 numbers. The quantizer falls back to blocks of 32 for all but the first.
/// Ranks cut blocks of both sizes.
#[test]
fn logits_of_files_from_llama_cpp_s_quantizer_match() {
    assert!(quantizer_names().count() >= 6);
    for name in quantizer_names() {
        check_logits(&name, &[(1, 1), (2, 1), (3, 1), (4, 2)]);
    }
}

/// Compares the logits of a file on some grids of ranks and stages with the recorded ones.
fn check_logits(name: &str, grids: &[(usize, usize)]) {
    let expected: HashMap<String, Tensor> =
        candle_core::safetensors::load(path(&format!("{name}.safetensors")), &Device::Cpu).unwrap();
    let prompt: Vec<u32> = expected["prompt"].to_vec1().unwrap();
    for (world_size, stages) in grids {
        let logits = logits(&GroupSetup { stages: *stages, ..setup(name, *world_size) }, &prompt);
        let from = |name: &str| max_distance(&logits, &expected[name].to_vec2().unwrap());
        let (exact, rounded) = (from("exact"), from(&format!("rounded.{}", world_size / stages)));
        println!("{name}.gguf at {world_size} ranks in {stages} stages: {exact}, {rounded} where rounded");
        assert!(exact < TOLERANCE, "{name}.gguf at {world_size} ranks in {stages} stages: {exact}");
        assert!(rounded < ROUNDED_TOLERANCE, "{name}.gguf at {world_size} ranks in {stages} stages: {rounded}");
    }
}

/// Blocks stay blocks on a device without kernels too. There candle rounds up to 256 activations at once.
#[test]
fn a_file_is_read_onto_a_device() {
    let on_device = || Devices { accelerators: vec![Accelerator::plain(1 << 30)], rest_on_cpu: false };
    // Only the CPU computes with formats whose quants are indices of a table.
    let tables = GroupSetup { devices: on_device(), ..setup("qwen3", 1) };
    let refused = Runner::load(tables.config(0), &mut |_, _| {}).map(drop).unwrap_err().to_string();
    assert!(refused.contains("works only on the CPU"), "{refused}");
    for name in names().filter(|name| *name != "qwen3") {
        let expected: HashMap<String, Tensor> =
            candle_core::safetensors::load(path(&format!("{name}.safetensors")), &Device::Cpu).unwrap();
        let setup = GroupSetup { devices: on_device(), ..setup(name, 1) };
        let found = max_distance(
            &logits(&setup, &expected["prompt"].to_vec1().unwrap()),
            &expected["exact"].to_vec2().unwrap(),
        );
        println!("{name}.gguf on a device: {found}");
        assert!(found < TOLERANCE, "{name}.gguf on a device: {found}");
    }
}

#[test]
fn a_file_is_described_as_a_model() {
    for name in names() {
        let files = open(&path(&format!("{name}.gguf")).display().to_string()).unwrap();
        let model = describe(files.as_ref()).unwrap();
        assert_eq!(model.architecture.to_lowercase(), format!("{name}forcausallm"));
        assert_eq!((model.bos_token.as_deref(), model.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
        assert_eq!((model.generation.eos_token_ids.as_slice(), model.vocab_size), (&[2][..], 48));
        assert!(model.chat_template.as_ref().unwrap().contains("m['role']"));
        let tokenizer = tokenizers::Tokenizer::from_bytes(&model.tokenizer_json).unwrap();
        let ids = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        if name.starts_with("qwen") {
            // `the` and `Ġthe`.
            assert_eq!(ids("the the</s>"), [31, 32, 2], "{name}");
        } else if name.starts_with("gemma") {
            // `the` and `▁an` after `<s>`: nothing is put before a text.
            assert_eq!(ids("the an"), [1, 6, 10], "{name}");
        } else {
            // `▁the` and `▁an` after `<s>`.
            assert_eq!(ids("the an"), [1, 7, 10], "{name}");
            assert_eq!(tokenizer.decode(&[1, 7, 10], true).unwrap(), "the an");
        }
    }
    let facts = weight_facts(open(&setup("llama", 1).source).unwrap()).unwrap();
    assert_eq!((facts.dtype, facts.parameters), ("q6_k", 124_160));
}

#[test]
fn a_folder_with_one_file_opens_as_that_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path("qwen3.gguf"), folder.path().join("a-Q4_K_M.gguf")).unwrap();
    let source = folder.path().display().to_string();
    let resolved = resolve(open(&source).unwrap().as_ref()).unwrap();
    let names: Vec<_> = resolved.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.gguf"]);
    verify(open(&source).unwrap().as_ref(), &resolved).unwrap();
    let setup = GroupSetup { source: source.clone(), dtype: None, ..setup("qwen3", 2) };
    let runner = Runner::load(setup.config(1), &mut |_, _| {}).unwrap();
    // A rank reads its part of every matrix, and keeps it in its format.
    assert_eq!(runner.facts().dtype, "q4_0");
    assert!((50_000..65_000).contains(&runner.bytes_read()), "{}", runner.bytes_read());
    std::fs::copy(path("llama.gguf"), folder.path().join("b.gguf")).unwrap();
    let message = open(&source).unwrap_err().to_string();
    for part in ["several GGUF files: name one of them; it offers Q4_K_M (", " kB, a-Q4_K_M.gguf)", "b.gguf ("] {
        assert!(message.contains(part), "{message}");
    }
    // What accompanies a model is none.
    std::fs::rename(folder.path().join("b.gguf"), folder.path().join("mmproj-b.gguf")).unwrap();
    open(&source).unwrap();
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
        (replaced(b"GGUF\x03\0\0\0\x15", b"GGUF\x03\0\0\0\xff\xff\xff\xff"), "are more than any model has"),
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

/// Whatever a byte of the header becomes, the result is a model or an error, soon and in bounded memory.
#[test]
fn changed_headers_give_a_model_or_an_error() {
    for name in names() {
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
