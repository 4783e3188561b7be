//! Quantized checkpoints of Hugging Face: the logits and tokens of transformers with the weights that each format's own
//! library unpacks; and checkpoints whose tensors do not fit together.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lockstep_engine::{Accelerator, Devices, open, weight_facts};

use crate::common::{GroupSetup, fixture_folder, parity_names};
use crate::parity::{F32_TOLERANCE, furthest_logit};

/// Ranks and pipeline stages.
const GRIDS: [(usize, usize); 5] = [(1, 1), (2, 1), (3, 1), (4, 1), (4, 2)];

/// Iterates over the checkpoints, by their path from the folder of fixtures.
fn checkpoints() -> impl Iterator<Item = String> {
    parity_names("quantized").into_iter().map(|name| format!("../quantized/{name}"))
}

#[test]
fn logits_and_tokens_match_transformers() {
    for name in checkpoints() {
        for (world_size, stages) in GRIDS {
            let setup = GroupSetup { stages, ..GroupSetup::new(&name, world_size) };
            let furthest = furthest_logit(&name, &setup, true);
            assert!(furthest < F32_TOLERANCE, "{name} at {world_size} ranks in {stages} stages: {furthest}");
        }
    }
}

#[test]
fn devices_without_kernels_compute_the_same() {
    for name in checkpoints() {
        let devices = Devices { accelerators: vec![Accelerator::plain(1 << 30)], rest_on_cpu: false };
        let setup = GroupSetup { devices, ..GroupSetup::new(&name, 2) };
        let furthest = furthest_logit(&name, &setup, true);
        assert!(furthest < F32_TOLERANCE, "{name}: {furthest}");
    }
}

#[test]
fn the_format_is_named() {
    let format = |name: &str| {
        let facts = weight_facts(open(&fixture_folder(name).display().to_string()).unwrap()).unwrap();
        assert!(facts.is_quantized, "{name}");
        // Two layers of seven matrices, two tables of 288 rows, five norms.
        assert_eq!(facts.parameters, 2 * (64 * 64 * 2 + 32 * 64 * 2 + 96 * 64 * 3) + 2 * 288 * 64 + 5 * 64, "{name}");
        facts.dtype
    };
    let formats: Vec<_> = checkpoints().map(|name| format(&name)).collect();
    for expected in ["gptq", "awq", "fp8", "int4", "int8", "nf4", "fp4", "nvfp4"] {
        assert!(formats.contains(&expected), "{expected}: {formats:?}");
    }
}

/// Copies a checkpoint with other tensors.
fn damaged(name: &str, damage: impl Fn(&mut HashMap<String, Tensor>)) -> tempfile::TempDir {
    let (from, to) = (fixture_folder(&format!("../quantized/{name}")), tempfile::tempdir().unwrap());
    let weights = Path::new("model.safetensors");
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    let mut tensors = candle_core::safetensors::load(from.join(weights), &Device::Cpu).unwrap();
    damage(&mut tensors);
    candle_core::safetensors::save(&tensors, to.path().join(weights)).unwrap();
    to
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    type Damage = fn(&mut HashMap<String, Tensor>);
    const PLACE: &str = "model.layers.1.mlp.up_proj";
    fn replace(tensors: &mut HashMap<String, Tensor>, name: &str, tensor: candle_core::Result<Tensor>) {
        tensors.insert(format!("{PLACE}.{name}"), tensor.unwrap());
    }
    fn zeros(shape: &[usize], dtype: DType) -> candle_core::Result<Tensor> {
        Tensor::zeros(shape, dtype, &Device::Cpu)
    }
    let cases: [(&str, Damage, &str); 12] = [
        ("gptq", |t| drop(t.remove(&format!("{PLACE}.scales"))), "`scales` is missing"),
        ("gptq", |t| replace(t, "qzeros", zeros(&[2, 5], DType::I32)), "zeros of 5 words do not fit 96 outputs"),
        ("gptq", |t| replace(t, "qweight", zeros(&[8, 96], DType::F32)), "not I32"),
        ("gptq", |t| replace(t, "g_idx", zeros(&[7], DType::I32)), "has 7 entries for 64 inputs"),
        ("gptq", |t| replace(t, "scales", zeros(&[2, 96], DType::I64)), "its scales are"),
        ("awq", |t| replace(t, "qzeros", zeros(&[2, 5], DType::I32)), "do not fit words"),
        ("fp8-block", |t| drop(t.remove(&format!("{PLACE}.weight_scale_inv"))), "`weight_scale` is missing"),
        ("fp8-block", |t| replace(t, "weight_scale_inv", zeros(&[7, 3], DType::F32)), "fit no blocks of [40, 24]"),
        ("compressed-w4a16", |t| drop(t.remove(&format!("{PLACE}.weight_shape"))), "`weight_shape` is missing"),
        ("compressed-w4a16", |t| replace(t, "weight_scale", zeros(&[5, 2], DType::F32)), "do not fit 96 outputs"),
        ("bnb-nf4", |t| drop(t.remove(&format!("{PLACE}.weight.quant_state.bitsandbytes__nf4"))), "no `quant_state`"),
        (
            "bnb-nf4",
            |t| drop(t.remove(&format!("{PLACE}.weight.nested_quant_map"))),
            "`weight.nested_quant_map` is missing",
        ),
    ];
    for (name, damage, expected) in cases {
        let folder = damaged(name, damage);
        let message = weight_facts(open(folder.path().to_str().unwrap()).unwrap()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(PLACE), "{name}, {expected}: {message}");
    }
}

/// Only a rank reads the numbers, so only a rank can find that they are wrong.
#[test]
fn numbers_that_are_wrong_are_named() {
    type Damage = fn(&mut HashMap<String, Tensor>);
    const PLACE: &str = "model.layers.1.mlp.up_proj";
    let cases: [(&str, Damage, &str); 2] = [
        (
            "gptq",
            |tensors| {
                let groups = Tensor::full(9i32, 64, &Device::Cpu).unwrap();
                tensors.insert(format!("{PLACE}.g_idx"), groups);
            },
            "has no scale",
        ),
        (
            "fp8-channel",
            |tensors| {
                let scales = Tensor::full(f32::NAN, (96, 1), &Device::Cpu).unwrap();
                tensors.insert(format!("{PLACE}.weight_scale"), scales);
            },
            "a scale is not finite",
        ),
    ];
    for (name, damage, expected) in cases {
        let folder = damaged(name, damage);
        let setup = GroupSetup { source: folder.path().display().to_string(), ..GroupSetup::new("qwen3", 1) };
        let message = lockstep_engine::Runner::load(setup.config(0), &mut |_, _| ()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(PLACE), "{name}, {expected}: {message}");
    }
}
