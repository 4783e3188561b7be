//! Products by cudarc, as candle asks for them, against sums in f64.

use cudarc::cublas::{CudaBlas, Gemm as _, GemmConfig, StridedBatchedConfig, sys::cublasOperation_t};
use cudarc::driver::CudaContext;
use half::{bf16, f16};

const M: usize = 5;
const N: usize = 7;
const K: usize = 19;
const BATCH: usize = 3;

fn values(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 977) >> 20) as f32 / 512.0 - 4.0)
        .collect()
}

/// The operation of matrix A: as stored, or transposed.
fn check<T>(from: fn(f32) -> T, to: fn(T) -> f32, tolerance: f64, transposes: bool)
where
    T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits + Copy,
    CudaBlas: cudarc::cublas::Gemm<T>,
{
    emulated_cuda::testing::load(1);
    load_cublas();
    let stream = CudaContext::new(0).expect("a context").new_stream().expect("a stream");
    let blas = CudaBlas::new(stream.clone()).expect("a handle");
    let (a, b) = (values(BATCH * M * K, 1), values(BATCH * K * N, 2));
    let upload = |values: &[f32]| {
        let values: Vec<T> = values.iter().map(|value| from(*value)).collect();
        stream.clone_htod(&values).expect("an upload")
    };
    let (da, db) = (upload(&a), upload(&b));
    let mut dc = stream.alloc_zeros::<T>(BATCH * M * N).expect("memory");
    let (transa, lda) =
        if transposes { (cublasOperation_t::CUBLAS_OP_T, K) } else { (cublasOperation_t::CUBLAS_OP_N, M) };
    let gemm = GemmConfig {
        transa,
        transb: cublasOperation_t::CUBLAS_OP_N,
        m: M as i32,
        n: N as i32,
        k: K as i32,
        alpha: from(1.0),
        lda: lda as i32,
        ldb: K as i32,
        beta: from(0.0),
        ldc: M as i32,
    };
    let config = StridedBatchedConfig {
        gemm,
        batch_size: BATCH as i32,
        stride_a: (M * K) as i64,
        stride_b: (K * N) as i64,
        stride_c: (M * N) as i64,
    };
    // SAFETY: the sizes are those of the memory.
    unsafe { blas.gemm_strided_batched(config, &da, &db, &mut dc) }.expect("a product");
    let found = stream.clone_dtoh(&dc).unwrap_or_else(|error| panic!("{error}: {}", emulated_cuda::testing::faults()));
    for (index, found) in found.into_iter().enumerate() {
        let (z, j, i) = (index / (M * N), index / M % N, index % M);
        let left = |l| f64::from(to(from(a[z * M * K + if transposes { i * K + l } else { l * M + i }])));
        let right = |l| f64::from(to(from(b[z * K * N + j * K + l])));
        let expected: f64 = (0..K).map(|l| left(l) * right(l)).sum();
        let error = (f64::from(to(found)) - expected).abs() / (1.0 + expected.abs());
        assert!(error < tolerance, "element {index} is {}, not {expected}", to(found));
    }
}

/// Loads the library by its path. cudarc then finds it as `libcublas.so.13`.
fn load_cublas() {
    static LIBRARY: std::sync::OnceLock<libloading::Library> = std::sync::OnceLock::new();
    LIBRARY.get_or_init(|| emulated_cuda::testing::load_beside("libemulated_cublas.so"));
}

#[test]
fn products_are_right_in_every_type() {
    for transposes in [false, true] {
        check::<f32>(|value| value, |value| value, 1e-5, transposes);
        check::<f16>(f16::from_f32, f16::to_f32, 2e-3, transposes);
        check::<bf16>(bf16::from_f32, bf16::to_f32, 2e-2, transposes);
    }
}
