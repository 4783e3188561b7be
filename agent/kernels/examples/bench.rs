//! Products of Llama-3.2-1B's shapes, one row and many, beside a plain read of memory.
//!
//! `cargo run --release -p lockstep-kernels --example bench [threads] [isa]`. One-row products are
//! bound by memory, and what a shared machine gives moves from second to second, so reads of the same
//! size are interleaved with them and the share of the read is what counts.

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{Context, Isa, Matrix, Result, ThreadPool, linear};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// (name, in, out) of the projections of one layer.
const SHAPES: [(&str, usize, usize); 4] =
    [("qkv", 2048, 3072), ("o", 2048, 2048), ("gate_up", 2048, 16384), ("down", 8192, 2048)];
/// Copies of each layer, so that weights come from memory and not from a cache.
const LAYERS: usize = 4;
/// Measurements of which the median counts.
const ROUNDS: usize = 9;

/// Reads `bytes` with all threads, eight independent sums each.
fn read(ctx: &Context, words: &[u64]) -> f64 {
    let total = AtomicU64::new(0);
    let start = Instant::now();
    ctx.pool().for_each_chunk(words.len(), 1 << 15, &|range| {
        let mut sums = [0u64; 8];
        for chunk in words[range].chunks_exact(8) {
            sums.iter_mut().zip(chunk).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
        }
        total.fetch_add(sums.iter().fold(0, |a, b| a ^ b), Ordering::Relaxed);
    });
    black_box(total.into_inner());
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// All projections of all layers for `tokens` rows; seconds.
fn layers(ctx: &Context, weights: &[Vec<Matrix>], inputs: &[Tensor]) -> Result<f64> {
    let start = Instant::now();
    for (matrices, x) in weights.iter().zip(inputs) {
        for matrix in matrices {
            black_box(linear(ctx, x, matrix, None)?);
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

fn weights(ctx: &Context, dtype: DType) -> Result<Vec<Vec<Matrix>>> {
    let mut weights = Vec::new();
    for (_, inputs, outputs) in SHAPES {
        let tensor = Tensor::randn(0f32, 0.1, (outputs, inputs), &Device::Cpu)?.to_dtype(dtype)?;
        let copies = (0..LAYERS).map(|_| Matrix::new(ctx, &tensor)).collect::<Result<_>>()?;
        weights.push(copies);
    }
    Ok(weights)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|n| n.parse().ok());
    let mut ctx = Context::cpu(threads.unwrap_or_else(ThreadPool::available))?;
    if let Some(isa) = arguments.next() {
        ctx = ctx.force_isa(&isa)?;
    }
    let (isa, threads) = (ctx.isa(), ctx.threads());
    println!("{isa}, {threads} threads; machine has {:?}", Isa::available());
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let weights = weights(&ctx, dtype)?;
        let bytes: usize = weights.iter().flatten().map(Matrix::bytes).sum();
        let numbers = bytes / dtype.size_in_bytes();
        let words = vec![1u64; bytes / 8];
        for tokens in [1, 2, 4, 8, 12, 16, 64, 512] {
            let make = |(_, inputs, _)| Tensor::randn(0f32, 1.0, (tokens, inputs), &Device::Cpu);
            let inputs: Vec<Tensor> = SHAPES.into_iter().map(make).collect::<candle_core::Result<_>>()?;
            let rounds = if tokens > 16 { 3 } else { ROUNDS };
            let (mut times, mut reads) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                reads.push(read(&ctx, &words));
                times.push(layers(&ctx, &weights, &inputs)?);
            }
            let (time, read) = (median(times), median(reads));
            let gbs = bytes as f64 / time / 1e9;
            let gflops = 2.0 * (numbers * tokens) as f64 / time / 1e9;
            let share = 100.0 * read / time;
            println!(
                "{dtype:?} {tokens:4} rows: {:8.2} ms {gbs:6.1} GB/s ({share:3.0}% of a read at {:.1}) {gflops:7.1} GFLOP/s",
                time * 1e3,
                bytes as f64 / read / 1e9,
            );
        }
    }
    Ok(())
}
