//! A `libcublas.so.13` with the functions that candle calls: handles, streams, and one product of matrices. The work is done in the
//! order of the stream of the emulated driver, which checks the memory.
//!
//! The product is exact to the rounding of f32 sums, in an order of its own.

mod gemm;

use std::collections::HashMap;
use std::ffi::{c_int, c_longlong, c_void};
use std::sync::Mutex;

use gemm::{Gemm, Matrix};

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 7;
const EXECUTION_FAILED: c_int = 13;
const NOT_SUPPORTED: c_int = 15;

/// Streams of the handles that are in use, by handle.
static STREAMS: Mutex<(usize, Option<HashMap<usize, usize>>)> = Mutex::new((0, None));

fn with_streams<R>(work: impl FnOnce(&mut usize, &mut HashMap<usize, usize>) -> R) -> R {
    let mut guard = STREAMS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (last, streams) = &mut *guard;
    work(last, streams.get_or_insert_default())
}

/// # Safety
/// `handle` is a place for a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasCreate_v2(handle: *mut usize) -> c_int {
    let made = with_streams(|last, streams| {
        *last += 1;
        streams.insert(*last, 0);
        *last
    });
    // SAFETY: the caller passes a place.
    unsafe { handle.write(made) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasDestroy_v2(handle: usize) -> c_int {
    if with_streams(|_, streams| streams.remove(&handle)).is_some() { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasSetStream_v2(handle: usize, stream: usize) -> c_int {
    match with_streams(|_, streams| streams.get_mut(&handle).map(|own| *own = stream)) {
        Some(()) => SUCCESS,
        None => INVALID_VALUE,
    }
}

/// C = alpha × op(A) × op(B) + beta × C for each of `batch` matrices, by columns (cuBLAS, `cublasGemmStridedBatchedEx`). Sums
/// are f32.
///
/// # Safety
/// `alpha` and `beta` are numbers of the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGemmStridedBatchedEx(
    handle: usize,
    transposes_a: c_int,
    transposes_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: u64,
    a_type: c_int,
    a_rows: c_int,
    a_stride: c_longlong,
    b: u64,
    b_type: c_int,
    b_rows: c_int,
    b_stride: c_longlong,
    beta: *const c_void,
    c: u64,
    c_type: c_int,
    c_rows: c_int,
    c_stride: c_longlong,
    batch: c_int,
    _compute_type: c_int,
    _algorithm: c_int,
) -> c_int {
    let Some(stream) = with_streams(|_, streams| streams.get(&handle).copied()) else { return INVALID_VALUE };
    // SAFETY: the caller passes numbers of the host. All products that candle asks for have sums of 32 bits.
    let (alpha, beta) = unsafe { (*alpha.cast::<f32>(), *beta.cast::<f32>()) };
    let matrix = |address, kind, rows: c_int, stride: c_longlong, transposed: c_int| {
        Some(Matrix {
            address,
            kind: gemm::Kind::parse(kind)?,
            rows: rows as usize,
            stride: stride as usize,
            transposed: transposed != 0,
        })
    };
    let (a, b, c) = (
        matrix(a, a_type, a_rows, a_stride, transposes_a),
        matrix(b, b_type, b_rows, b_stride, transposes_b),
        matrix(c, c_type, c_rows, c_stride, 0),
    );
    let (Some(a), Some(b), Some(c)) = (a, b, c) else { return NOT_SUPPORTED };
    if m < 0 || n < 0 || k < 0 || batch < 0 {
        return INVALID_VALUE;
    }
    let sizes = [m, n, k, batch].map(|size| size as usize);
    let gemm = Gemm { sizes, alpha, beta, a, b, c };
    match gemm.submit(stream) {
        0 => SUCCESS,
        _ => EXECUTION_FAILED,
    }
}

/// The same for matrices of f32.
///
/// # Safety
/// `alpha` and `beta` are numbers of the host.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasSgemmStridedBatched(
    handle: usize,
    transposes_a: c_int,
    transposes_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const f32,
    a: u64,
    a_rows: c_int,
    a_stride: c_longlong,
    b: u64,
    b_rows: c_int,
    b_stride: c_longlong,
    beta: *const f32,
    c: u64,
    c_rows: c_int,
    c_stride: c_longlong,
    batch: c_int,
) -> c_int {
    const F32: c_int = 0;
    // SAFETY: the caller's promise is the same.
    unsafe {
        cublasGemmStridedBatchedEx(
            handle,
            transposes_a,
            transposes_b,
            m,
            n,
            k,
            alpha.cast(),
            a,
            F32,
            a_rows,
            a_stride,
            b,
            F32,
            b_rows,
            b_stride,
            beta.cast(),
            c,
            F32,
            c_rows,
            c_stride,
            batch,
            0,
            0,
        )
    }
}
