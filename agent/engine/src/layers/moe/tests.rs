//! Routing is the same for a row in any batch, and a router keeps its stored numbers.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use candle_core::{DType, Device};
use lockstep_collectives::Grid;
use lockstep_collectives::solo::Solo;
use lockstep_kernels::Context;

use super::*;
use crate::layers::Batch;
use crate::loader::LoadOptions;
use crate::placement::{Devices, Placement, Sizes, StepSize};
use crate::shard::Shard;
use crate::weights::Weights;
use crate::{BlockFormat, open};

fn config(experts_per_token: usize, normalize: bool) -> MoeConfig {
    MoeConfig {
        num_experts: 4,
        experts_per_token,
        intermediate_size: 1,
        normalize,
        prefix: "mlp",
        projections: ["gate_proj", "up_proj", "down_proj"],
    }
}

#[test]
fn tokens_go_to_their_best_experts() {
    let logits = [vec![0.0, 2.0, 1.0, -1.0], vec![3.0, 1.0, 3.0, 3.0]];
    let routing = Routing::new(&logits, &config(2, true)).unwrap();
    // Equal logits go to the lower expert.
    assert_eq!(routing.rows_of, [vec![1], vec![0], vec![0, 1], vec![]]);
    assert_eq!(routing.slots, [1, 2, 0, 3]);
    let of = |a: f64, b: f64| (a.exp() / (a.exp() + b.exp())) as f32;
    assert_eq!(routing.weights, [of(2.0, 1.0), of(1.0, 2.0), 0.5, 0.5]);
}

#[test]
fn weights_sum_to_one_only_if_normalized() {
    let logits = [1.0, 1.0, 1.0, 1.0];
    assert_eq!(choose_experts(&logits, &config(2, true)).unwrap(), [(0, 0.5), (1, 0.5)]);
    assert_eq!(choose_experts(&logits, &config(2, false)).unwrap(), [(0, 0.25), (1, 0.25)]);
    assert!(choose_experts(&[1.0, f32::NAN, 0.0, 0.0], &config(2, true)).is_err());
}

/// GGUF files have the router in F32 beside blocks, and a router does not fit into the type of blocks.
#[test]
fn a_router_keeps_its_stored_numbers() {
    let files = open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/gguf/mixtral.gguf")).unwrap();
    let config = ModelConfig::from_files(files.as_ref()).unwrap();
    let (moe, weights) = (config.moe.unwrap(), Weights::open(files).unwrap());
    let shard = Shard::new(&config, Grid::new(0, 1, 1).unwrap()).unwrap();
    let shape = [moe.num_experts, config.hidden_size];
    let name = "model.layers.0.block_sparse_moe.gate.weight";
    let stored = weights.rows(name, &shape, 0..moe.num_experts).unwrap();
    assert_eq!((stored.dtype(), weights.main_dtype()), (DType::F32, DType::F16));
    let (host, step) = (Context::cpu(1).unwrap(), StepSize { context_length: 1, working_bytes: 0 });
    for (dtype, quantization) in [(DType::F16, None), (DType::BF16, Some(BlockFormat::Q8_0))] {
        let sizes = Sizes::estimate(&weights, &config, &shard, dtype, quantization);
        let placement = Placement::new(&Devices::default(), &host, shard.layers.clone(), &sizes, 0, &step).unwrap();
        let mut report = |_: u64, _: u64| ();
        let options = LoadOptions {
            weights: &weights,
            placement: &placement,
            shard: &shard,
            dtype,
            quantization,
            progress: RefCell::new(&mut report),
            bytes_total: 0,
        };
        let loader = Loader::new(&options).child("model.layers.0.block_sparse_moe");
        let layer = SparseMoe::load(&loader, &config, moe, MlpNames::Separate(["w1", "w3", "w2"])).unwrap();
        let (batch, mut communicator, progress) = (Batch::default(), Solo::new().unwrap(), AtomicU64::new(0));
        let pass = Pass { context: &host, batch: &batch, communicator: &mut communicator, progress: &progress };
        // A row of the identity gives a column of the matrix, to the last bit.
        let ones = Tensor::eye(config.hidden_size, DType::F32, &Device::Cpu).unwrap();
        let columns: Vec<Vec<f32>> = layer.router.forward(&pass, &ones).unwrap().to_vec2().unwrap();
        assert_eq!(columns, stored.t().unwrap().to_vec2::<f32>().unwrap(), "{dtype:?}, {quantization:?}");
    }
}

/// A row's experts and weights do not depend on the other rows.
#[test]
fn routing_does_not_depend_on_the_batch() {
    let rows: Vec<Vec<f32>> =
        (0..50u16).map(|row| (0..4u16).map(|e| f32::from((row * 7 + e * 13) % 17)).collect()).collect();
    let together = Routing::new(&rows, &config(3, false)).unwrap();
    for (row, logits) in rows.iter().enumerate() {
        let alone = Routing::new(std::slice::from_ref(logits), &config(3, false)).unwrap();
        assert_eq!(alone.weights, together.weights[row * 3..row * 3 + 3]);
        let visits = |routing: &Routing, row: u32| -> Vec<usize> {
            (0..4).filter(|expert| routing.rows_of[*expert].contains(&row)).collect()
        };
        assert_eq!(visits(&alone, 0), visits(&together, u32::try_from(row).unwrap()));
    }
    let mut slots = together.slots.clone();
    slots.sort_unstable();
    assert_eq!(slots, (0..150).collect::<Vec<u32>>());
}
