//! Quantizing while loading: logits against a model whose matrices are the decoded blocks, at every world size.

use std::collections::HashMap;
use std::path::Path;

use crate::common::{Ranks, Setup, expected, folder};
use crate::parity::plan;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lockstep_engine::{DTypeChoice, Quantization, Runner};
use lockstep_schedule::plan::PlanTokens;

/// Dense models; a mixture may route otherwise after any rounding.
const DENSE: [&str; 9] = [
    "llama2",
    "llama3-sharded",
    "llama3-bf16",
    "llama-bias",
    "awkward-mha",
    "awkward-gqa",
    "qwen2",
    "qwen3",
    "mistral",
];
/// Root of the mean square that logits may be from those of the same model with decoded weights, and of another world
/// size (blocks that a cut goes through round otherwise), over that of the logits: what rounding activations to eight
/// bits moves in these models, whose gains are above one.
const TOLERANCE: f64 = 0.1;

/// Numbers as a library's encoder and decoder leave them, on the grid of whole rows.
fn through_blocks(tensor: &Tensor, dtype: GgmlDType) -> Tensor {
    let (rows, columns) = tensor.dims2().unwrap();
    let padded = columns.next_multiple_of(dtype.block_size());
    let zeros = Tensor::zeros((rows, padded - columns), tensor.dtype(), &Device::Cpu).unwrap();
    let whole = Tensor::cat(&[tensor, &zeros], 1).unwrap();
    let decoded = QTensor::quantize(&whole, dtype).unwrap().dequantize(&Device::Cpu).unwrap();
    decoded.narrow(1, 0, columns).unwrap().contiguous().unwrap()
}

/// A copy of a fixture whose matrices went through blocks, but for the embedding, and whose output is not tied.
fn decoded_copy(fixture: &str, dtype: GgmlDType, to: &Path) {
    let mut tensors = HashMap::new();
    for file in std::fs::read_dir(folder(fixture)).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors")
            && !path.ends_with("expected.safetensors")
        {
            tensors.extend(candle_core::safetensors::load(&path, &Device::Cpu).unwrap());
        }
    }
    if !tensors.contains_key("lm_head.weight") {
        tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    }
    for (name, tensor) in &mut tensors {
        let wide = tensor.to_dtype(candle_core::DType::F32).unwrap();
        *tensor = if wide.rank() == 2 && !name.contains("embed") { through_blocks(&wide, dtype) } else { wide };
    }
    candle_core::safetensors::save(&tensors, to.join("model.safetensors")).unwrap();
    let config = std::fs::read(folder(fixture).join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["tie_word_embeddings"] = false.into();
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
}

/// The logits after each prompt of a fixture, and after one token more.
fn logits(fixture: &str, setup: &Setup) -> Vec<Vec<f32>> {
    let cases = expected(fixture);
    let ranks = Ranks::start(setup);
    let prompts: Vec<_> = cases.iter().map(|case| (0, PlanTokens::Given(case.prompt.clone()))).collect();
    let mut logits = ranks.step(&plan(&ranks, 1, setup, &prompts)).logits;
    let next: Vec<_> = cases.iter().map(|case| (case.prompt.len(), PlanTokens::Given(vec![case.greedy[0]]))).collect();
    logits.extend(ranks.step(&plan(&ranks, 2, setup, &next)).logits);
    logits
}

/// The root mean square of the differences, over that of `b`.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let differences = squares(&mut a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a - b));
    (differences / squares(&mut b.iter().flatten().copied())).sqrt()
}

#[test]
fn quantized_logits_are_those_of_the_decoded_weights() {
    for (quantization, dtype) in [(Quantization::Q8_0, GgmlDType::Q8_0), (Quantization::Q4K, GgmlDType::Q4K)] {
        for fixture in DENSE {
            let copy = tempfile::tempdir().unwrap();
            decoded_copy(fixture, dtype, copy.path());
            let source = copy.path().display().to_string();
            let reference = logits(fixture, &Setup { source, ..Setup::new(fixture, 1) });
            let mut alone = Vec::new();
            for world_size in 1..=3 {
                let got = logits(fixture, &Setup { quantization, ..Setup::new(fixture, world_size) });
                let from_decoded = distance(&got, &reference);
                println!("{fixture} in {quantization} at {world_size} ranks: {from_decoded} from the decoded weights");
                assert!(from_decoded < TOLERANCE, "{fixture} in {quantization} at {world_size} ranks: {from_decoded}");
                if world_size == 1 {
                    alone = got;
                } else {
                    let moved = distance(&got, &alone);
                    assert!(moved < TOLERANCE, "{fixture} in {quantization} at {world_size} ranks: {moved}");
                }
            }
        }
    }
}

#[test]
fn a_quantized_rank_says_so() {
    for (quantization, dtype, expected) in
        [(Quantization::Q8_0, DTypeChoice::Auto, "q8_0"), (Quantization::Q4K, DTypeChoice::Bf16, "q4_k")]
    {
        let setup = Setup { quantization, dtype, ..Setup::new("qwen3", 2) };
        let runner = Runner::load(setup.config(1), &mut |_, _| {}).unwrap();
        assert_eq!(runner.facts().dtype, expected);
    }
}
