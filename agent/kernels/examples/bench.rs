//! Products of Llama-3.2-1B's shapes, one row and many, beside a plain read of memory.
//!
//! `cargo run -p lockstep-kernels --example bench [threads] [isa] [rounds] [formats] [rows]`. The last two are lists with
//! commas; without them, all formats are measured, and several numbers of rows. Formats that can be made while loading are
//! made, and the time of that is measured, too. The others have random bits.
//!
//! Memory bounds one-row products, and the bandwidth of a shared machine changes from moment to moment. So the program
//! pairs each product with a read of as many bytes just before it, and takes the best round of each. The share of the read
//! is the figure to look at.

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{BlockFormat, Code, CodedWeight, Context, Isa, Matrix, Result, ThreadPool, linear};
use std::hint::black_box;
use std::iter::repeat_with;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// (name, in, out) of the projections of one layer.
const SHAPES: [(&str, usize, usize); 4] =
    [("qkv", 2048, 3072), ("o", 2048, 2048), ("gate_up", 2048, 16384), ("down", 8192, 2048)];
/// Copies of each layer, so that weights come from memory and not from a cache.
const LAYERS: usize = 4;
/// Number of rounds if the command line names none. The best time of all rounds counts.
const ROUNDS: usize = 15;

/// One weight, and memory of its size to read.
struct Workload {
    matrix: Matrix,
    words: Vec<u64>,
}

/// Returns the seconds that reading `words` takes with all threads: two streams each, eight sums per stream.
fn read_words(ctx: &Context, words: &[u64]) -> f64 {
    let total = AtomicU64::new(0);
    let start = Instant::now();
    ctx.pool().for_each_chunk(words.len(), 1 << 15, &|range| {
        let mut sums = [0u64; 8];
        let (low, high) = words[range.clone()].split_at(range.len() / 2);
        for (low, high) in low.chunks_exact(8).zip(high.chunks_exact(8)) {
            for (sum, (low, high)) in sums.iter_mut().zip(low.iter().zip(high)) {
                *sum = sum.wrapping_add(*low).wrapping_add(*high);
            }
        }
        total.fetch_add(sums.iter().fold(0, |a, b| a ^ b), Ordering::Relaxed);
    });
    black_box(total.into_inner());
    start.elapsed().as_secs_f64()
}

/// Format of the weights in memory.
#[derive(Clone, Copy)]
enum WeightKind {
    Float(DType),
    Blocks(BlockFormat),
    /// Codes with a scale for each group of so many columns.
    Codes(&'static str, Code, usize),
}

/// Numbers of a code of four bits.
static INTEGERS: [f32; 16] = [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];

/// Formats of quantized checkpoints.
const CODES: [WeightKind; 3] = [
    WeightKind::Codes("fp8", Code::E4m3, 128),
    WeightKind::Codes("int8", Code::Int8, 8192),
    WeightKind::Codes("int4", Code::Table(&INTEGERS), 128),
];

impl WeightKind {
    fn name(self) -> &'static str {
        match self {
            WeightKind::Float(dtype) => dtype.as_str(),
            WeightKind::Blocks(format) => format.name(),
            WeightKind::Codes(name, ..) => name,
        }
    }
}

fn workloads(ctx: &Context, kind: WeightKind) -> Result<Vec<Workload>> {
    let mut workloads = Vec::new();
    let mut state = 1u64;
    let mut random_byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let (mut numbers, mut seconds) = (0, 0.0);
    for (_, inputs, outputs) in SHAPES {
        let numbers_of_row: Vec<f32> =
            repeat_with(|| (f32::from(random_byte()) + f32::from(random_byte()) - 255.0) / 1024.0)
                .take(inputs + 7)
                .collect();
        let tensor: Vec<f32> = (0..outputs).flat_map(|row| numbers_of_row[row % 7..][..inputs].to_vec()).collect();
        let tensor = Tensor::from_vec(tensor, (outputs, inputs), &Device::Cpu)?;
        for _ in 0..LAYERS {
            let start = Instant::now();
            let matrix = match kind {
                WeightKind::Float(dtype) => Matrix::new(ctx, &tensor.to_dtype(dtype)?)?,
                WeightKind::Blocks(format) if format.is_encodable() => {
                    Matrix::quantize(ctx, &tensor, format, 0..inputs)?
                }
                WeightKind::Blocks(format) => {
                    let bytes = outputs * inputs / format.columns() * format.bytes();
                    let bytes: Vec<u8> = repeat_with(&mut random_byte).take(bytes).collect();
                    Matrix::from_blocks(ctx, format, &bytes, outputs, 0..inputs)?
                }
                WeightKind::Codes(name, code, group) => {
                    let bits = |byte: u8| if code.per_byte() == 2 { byte & 0x0F } else { byte & 0x7E };
                    let bits: Vec<u8> = repeat_with(|| bits(random_byte())).take(outputs * inputs).collect();
                    let group_of: Vec<u32> = (0..inputs).map(|column| (column / group) as u32).collect();
                    let weight = CodedWeight {
                        format: name,
                        code,
                        out_features: outputs,
                        in_features: inputs,
                        bits: &bits,
                        strides: [inputs, 1],
                        group_of: &group_of,
                        scales: &vec![0.01; inputs.div_ceil(group) * outputs],
                        zeros: None,
                    };
                    Matrix::from_codes(ctx, &weight)?
                }
            };
            (numbers, seconds) = (numbers + outputs * inputs, seconds + start.elapsed().as_secs_f64());
            let words = vec![1u64; matrix.bytes() / 8];
            workloads.push(Workload { matrix, words });
        }
    }
    if matches!(kind, WeightKind::Blocks(format) if format.is_encodable()) {
        println!("{:7} {:.1} million numbers/s are quantized", kind.name(), numbers as f64 / seconds / 1e6);
    }
    Ok(workloads)
}

/// Returns the best seconds of all products of `tokens` rows, and of the reads.
fn measure(ctx: &Context, workloads: &[Workload], tokens: usize, rounds: usize) -> Result<[f64; 2]> {
    let mut best = vec![[f64::INFINITY; 2]; workloads.len()];
    for _ in 0..rounds {
        for (workload, best) in workloads.iter().zip(&mut best) {
            let shape = (tokens, workload.matrix.in_features());
            let x = Tensor::ones(shape, DType::F32, &Device::Cpu)?;
            let reading = read_words(ctx, &workload.words);
            let start = Instant::now();
            black_box(linear(ctx, &x, &workload.matrix, None)?);
            let product = start.elapsed().as_secs_f64();
            *best = [best[0].min(product), best[1].min(reading)];
        }
    }
    Ok(best.iter().fold([0.0; 2], |sum, best| [sum[0] + best[0], sum[1] + best[1]]))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|n| n.parse().ok());
    let mut ctx = Context::cpu(threads.unwrap_or_else(ThreadPool::available))?;
    if let Some(isa) = arguments.next() {
        ctx = ctx.force_isa(&isa)?;
    }
    let rounds = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let names = arguments.next();
    let rows = arguments.next().map(|rows| rows.split(',').filter_map(|rows| rows.parse().ok()).collect());
    let rows: Vec<usize> = rows.unwrap_or_else(|| vec![1, 2, 4, 8, 12, 16, 64, 256]);
    let is_wanted =
        |kind: &WeightKind| names.as_ref().is_none_or(|names| names.split(',').any(|name| name == kind.name()));
    println!("{}, {} threads; machine has {:?}", ctx.isa(), ctx.threads(), Isa::available());
    let floats = [DType::BF16, DType::F16, DType::F32].map(WeightKind::Float);
    for kind in BlockFormat::ALL.map(WeightKind::Blocks).into_iter().chain(CODES).chain(floats).filter(is_wanted) {
        let workloads = workloads(&ctx, kind)?;
        let bytes: usize = workloads.iter().map(|workload| workload.matrix.bytes()).sum();
        let numbers = (LAYERS * SHAPES.iter().map(|(_, inputs, outputs)| inputs * outputs).sum::<usize>()) as f64;
        for &tokens in &rows {
            let rounds = rounds.div_ceil(1 + tokens / 8);
            let [product, read] = measure(&ctx, &workloads, tokens, rounds)?;
            println!(
                "{:7} {tokens:4} rows: {:8.2} ms {:6.1} GB/s = {:3.0}% of a read ({:5.1}) {:7.1} GFLOP/s",
                kind.name(),
                product * 1e3,
                bytes as f64 / product / 1e9,
                100.0 * read / product,
                bytes as f64 / read / 1e9,
                2.0 * numbers * tokens as f64 / product / 1e9,
            );
        }
    }
    Ok(())
}
