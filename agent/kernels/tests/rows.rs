//! Row-wise kernels against the plain functions, and bit for bit against themselves over threads, instruction sets and
//! batches.

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{Activation, Context, Isa, Matrix, Result, RotaryTable, plain};
use lockstep_kernels::{
    add_rms_norm, embedding, embedding_from_matrix, gated_mul, mix_rows, rms_norm, rotary, soft_cap,
};

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 2.0, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Checks that `kernel` is near `plain_function`, the same on every instruction set and thread count, and the same row
/// by row.
fn check(
    x: &Tensor,
    kernel: impl Fn(&Context, &Tensor, usize) -> Result<Tensor>,
    plain_function: impl Fn(&Context, &Tensor) -> Result<Tensor>,
) {
    let one = Context::cpu(1).unwrap();
    let expected = plain_function(&one, x).unwrap();
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
fn norms_match_the_plain_functions() {
    for (rows, dim) in [(1, 1), (3, 17), (5, 64), (2, 2048), (40, 1000)] {
        let (x, weight) = (random(&[rows, dim]), random(&[dim]));
        let residual = random(&[rows, dim]);
        let residual_rows =
            |x: &Tensor, first: usize| residual.narrow(0, first, x.dims()[0]).unwrap().contiguous().unwrap();
        check(&x, |ctx, x, _| rms_norm(ctx, x, &weight, 1e-5), |ctx, x| plain::rms_norm(ctx, x, &weight, 1e-5));
        check(
            &x,
            |ctx, x, first| Ok(add_rms_norm(ctx, x, &residual_rows(x, first), &weight, 1e-6)?.1),
            |ctx, x| Ok(plain::add_rms_norm(ctx, x, &residual, &weight, 1e-6)?.1),
        );
        check(
            &x,
            |ctx, x, first| Ok(add_rms_norm(ctx, x, &residual_rows(x, first), &weight, 1e-6)?.0),
            |ctx, x| Ok(plain::add_rms_norm(ctx, x, &residual, &weight, 1e-6)?.0),
        );
    }
}

#[test]
fn gated_activations_match_the_plain_function() {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        for (rows, inter) in [(1, 1), (3, 19), (7, 344), (2, 8192)] {
            check(
                &random(&[rows, 2 * inter]),
                |ctx, x, _| gated_mul(ctx, x, activation),
                |ctx, x| plain::gated_mul(ctx, x, activation),
            );
        }
    }
}

#[test]
fn activations_have_the_right_limits() {
    let ctx = Context::cpu(1).unwrap();
    let gate_up = Tensor::new(&[[-1e30f32, -100.0, 0.0, 100.0, 1.0, 1.0, 1.0, 1.0]], &Device::Cpu).unwrap();
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let out = values(&gated_mul(&ctx, &gate_up, activation).unwrap());
        assert!(out[1].abs() < 1e-35 && out[2] == 0.0 && out[3] == 100.0, "{activation:?}: {out:?}");
        assert!(out[0].is_finite(), "{activation:?}: {out:?}");
    }
    let x = Tensor::new(&[[-1e30f32, -3.0, 0.0, 1e30]], &Device::Cpu).unwrap();
    assert_eq!(values(&soft_cap(&ctx, &x, 30.0).unwrap())[2..], [0.0, 30.0]);
    assert_eq!(values(&soft_cap(&ctx, &x, 30.0).unwrap())[0], -30.0);
}

#[test]
fn soft_caps_match_the_plain_function() {
    for (rows, columns) in [(1, 1), (3, 19), (2, 8192)] {
        check(
            &(random(&[rows, columns]) * 20.0).unwrap(),
            |ctx, x, _| soft_cap(ctx, x, 30.0),
            |ctx, x| plain::soft_cap(ctx, x, 30.0),
        );
    }
}

/// Tokens use the rows in a mixed order, each row once.
#[test]
fn mixed_rows_match_the_plain_function() {
    for (tokens, each, dim) in [(1, 1, 1), (5, 2, 19), (40, 8, 1000)] {
        let x = random(&[tokens * each, dim]);
        let count = tokens * each;
        let indices: Vec<u32> = (0..count).map(|i| ((i * 7 + 3) % count) as u32).collect();
        let weights: Vec<f32> = (0..count).map(|i| (i % 11) as f32 / 11.0 - 0.3).collect();
        let expected = values(&plain::mix_rows(&Context::cpu(1).unwrap(), &x, &indices, &weights, each).unwrap());
        let mut first: Option<Vec<f32>> = None;
        for isa in Isa::available() {
            for threads in [1, 3] {
                let ctx = Context::cpu(threads).unwrap().force_isa(isa.name()).unwrap();
                let got = values(&mix_rows(&ctx, &x, &indices, &weights, each).unwrap());
                assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0)));
                assert!(first.get_or_insert_with(|| got.clone()) == &got, "{isa} x{threads}");
                let alone = mix_rows(&ctx, &x, &indices[count - each..], &weights[count - each..], each).unwrap();
                assert!(values(&alone) == got[(tokens - 1) * dim..], "{isa} x{threads} alone");
            }
        }
    }
}

#[test]
fn rotary_matches_the_plain_function() {
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
fn embeddings_match_the_plain_function() {
    let ids = [3, 100, 7, 12, 0, 12, 9, u32::MAX];
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for hidden in [1, 33, 2048] {
            let table = random(&[10, hidden]).to_dtype(dtype).unwrap();
            for threads in [1, 2] {
                let ctx = Context::cpu(threads).unwrap();
                let expected = values(&plain::embedding(&ctx, &table, 3, &ids).unwrap());
                assert_eq!(values(&embedding(&ctx, &table, 3, &ids).unwrap()), expected);
                let matrix = Matrix::new(&ctx, &table).unwrap();
                assert_eq!(values(&embedding_from_matrix(&ctx, &matrix, 3, &ids).unwrap()), expected);
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
        gated_mul(&ctx, &random(&[2, 3]), Activation::Silu).unwrap_err().to_string(),
        rotary(&ctx, &random(&[1, 1, 8]), &table, &[0]).unwrap_err().to_string(),
        rotary(&ctx, &random(&[1, 1, 16]), &table, &[4]).unwrap_err().to_string(),
        rotary(&ctx, &random(&[2, 1, 16]), &table, &[0]).unwrap_err().to_string(),
        soft_cap(&ctx, &random(&[2, 3]), 0.0).unwrap_err().to_string(),
        mix_rows(&ctx, &random(&[2, 3]), &[0, 1, 1], &[1.0; 3], 2).unwrap_err().to_string(),
        mix_rows(&ctx, &random(&[2, 3]), &[0, 2], &[1.0; 2], 2).unwrap_err().to_string(),
        mix_rows(&ctx, &random(&[2, 3]), &[0, 1], &[1.0; 3], 2).unwrap_err().to_string(),
    ];
    let culprits = [
        "norm weight",
        "gate_up",
        "at least 16",
        "beyond",
        "positions",
        "soft cap",
        "not 2 for each token",
        "row 2 is beyond the 2 rows",
        "weights",
    ];
    for (message, culprit) in messages.iter().zip(culprits) {
        assert!(message.contains(culprit), "{message}");
    }
}
