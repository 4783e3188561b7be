//! Row-wise kernels against their plain twins, and bit for bit over threads, sets and company.

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{Context, Isa, Matrix, Result, RotaryTable, plain};
use lockstep_kernels::{add_rms_norm, embedding, embedding_of, rms_norm, rotary, silu_mul};

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 2.0, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// `kernel` must be near `twin`, the same on every set and thread count, and the same row by row.
fn check(
    x: &Tensor,
    kernel: impl Fn(&Context, &Tensor, usize) -> Result<Tensor>,
    twin: impl Fn(&Context, &Tensor) -> Result<Tensor>,
) {
    let one = Context::cpu(1).unwrap();
    let expected = twin(&one, x).unwrap();
    let first = kernel(&one, x, 0).unwrap();
    assert_eq!(first.dims(), expected.dims());
    for (a, b) in values(&first).iter().zip(values(&expected)) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b} {:?}", x.dims());
    }
    let width = first.elem_count() / first.dims()[0];
    for isa in Isa::available() {
        for threads in [1, 3] {
            let ctx = Context::cpu(threads).unwrap().force_isa(isa.name()).unwrap();
            assert!(values(&kernel(&ctx, x, 0).unwrap()) == values(&first), "{isa} x{threads}");
            let last = x.dims()[0] - 1;
            let row = kernel(&ctx, &x.narrow(0, last, 1).unwrap(), last).unwrap();
            assert!(values(&row) == values(&first)[last * width..], "{isa} x{threads} alone");
        }
    }
}

#[test]
fn norms_match_their_twins() {
    for (rows, dim) in [(1, 1), (3, 17), (5, 64), (2, 2048), (40, 1000)] {
        let (x, weight) = (random(&[rows, dim]), random(&[dim]));
        let residual = random(&[rows, dim]);
        let near = |x: &Tensor, first: usize| residual.narrow(0, first, x.dims()[0]).unwrap().contiguous().unwrap();
        check(&x, |ctx, x, _| rms_norm(ctx, x, &weight, 1e-5), |ctx, x| plain::rms_norm(ctx, x, &weight, 1e-5));
        check(
            &x,
            |ctx, x, first| Ok(add_rms_norm(ctx, x, &near(x, first), &weight, 1e-6)?.1),
            |ctx, x| Ok(plain::add_rms_norm(ctx, x, &residual, &weight, 1e-6)?.1),
        );
        check(
            &x,
            |ctx, x, first| Ok(add_rms_norm(ctx, x, &near(x, first), &weight, 1e-6)?.0),
            |ctx, x| Ok(plain::add_rms_norm(ctx, x, &residual, &weight, 1e-6)?.0),
        );
    }
}

#[test]
fn silu_mul_matches_its_twin() {
    for (rows, inter) in [(1, 1), (3, 19), (7, 344), (2, 8192)] {
        check(&random(&[rows, 2 * inter]), |ctx, x, _| silu_mul(ctx, x), plain::silu_mul);
    }
}

#[test]
fn rotary_matches_its_twin() {
    for (tokens, heads, head_dim, half) in [(1, 1, 2, 1), (5, 3, 64, 32), (9, 2, 80, 20), (4, 1, 7, 3)] {
        let table = RotaryTable::new(random(&[50, half]), random(&[50, half])).unwrap();
        let positions: Vec<u32> = (0..tokens as u32).map(|t| (t * 17) % 50).collect();
        check(
            &random(&[tokens, heads, head_dim]),
            |ctx, x, first| rotary(ctx, x, &table, &positions[first..first + x.dims()[0]]),
            |ctx, x| plain::rotary(ctx, x, &table, &positions),
        );
    }
}

#[test]
fn embeddings_match_their_twin() {
    let ids = [3, 100, 7, 12, 0, 12, 9, u32::MAX];
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for hidden in [1, 33, 2048] {
            let table = random(&[10, hidden]).to_dtype(dtype).unwrap();
            for threads in [1, 2] {
                let ctx = Context::cpu(threads).unwrap();
                let expected = values(&plain::embedding(&ctx, &table, 3, &ids).unwrap());
                assert_eq!(values(&embedding(&ctx, &table, 3, &ids).unwrap()), expected);
                let matrix = Matrix::new(&ctx, &table).unwrap();
                assert_eq!(values(&embedding_of(&ctx, &matrix, 3, &ids).unwrap()), expected);
            }
        }
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let ctx = Context::cpu(1).unwrap();
    let table = RotaryTable::new(random(&[4, 8]), random(&[4, 8])).unwrap();
    let messages = [
        rms_norm(&ctx, &random(&[2, 3]), &random(&[4]), 1e-5).unwrap_err().to_string(),
        silu_mul(&ctx, &random(&[2, 3])).unwrap_err().to_string(),
        rotary(&ctx, &random(&[1, 1, 8]), &table, &[0]).unwrap_err().to_string(),
        rotary(&ctx, &random(&[1, 1, 16]), &table, &[4]).unwrap_err().to_string(),
        rotary(&ctx, &random(&[2, 1, 16]), &table, &[0]).unwrap_err().to_string(),
    ];
    let culprits = ["norm weight", "gate_up", "at least 16", "beyond", "positions"];
    for (message, culprit) in messages.iter().zip(culprits) {
        assert!(message.contains(culprit), "{message}");
    }
}
