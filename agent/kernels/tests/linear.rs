//! Products against the plain function, and bit for bit against themselves over rows, threads and instruction sets.

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{Context, Isa, Matrix, linear, plain};

/// Shapes (tokens, in, out). They are multiples of nothing, so every tile height and both block loops run.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 64, 48),
    (1, 333, 77),
    (2, 65, 33),
    (3, 200, 130),
    (4, 31, 16),
    (5, 97, 250),
    (7, 512, 49),
    (12, 195, 95),
    (13, 401, 64),
    (37, 386, 101),
    (131, 211, 37),
];

fn random(shape: (usize, usize)) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn contexts() -> Vec<Context> {
    let mut contexts = Vec::new();
    for threads in [1, 2, 3] {
        let ctx = Context::cpu(threads).unwrap();
        contexts.extend(Isa::available().iter().map(|isa| ctx.force_isa(isa.name()).unwrap()));
    }
    contexts
}

#[test]
fn products_match_the_plain_function() {
    for ctx in contexts() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for (tokens, inputs, outputs) in SHAPES {
                let x = random((tokens, inputs));
                let weight = random((outputs, inputs)).to_dtype(dtype).unwrap();
                let bias = random((1, outputs)).squeeze(0).unwrap();
                let w = Matrix::new(&ctx, &weight).unwrap();
                let bias = (tokens % 2 == 1).then_some(&bias);
                let got = values(&linear(&ctx, &x, &w, bias).unwrap());
                let expected = values(&plain::linear(&ctx, &x, &w, bias).unwrap());
                let tolerance = 1e-5 * inputs as f32;
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance;
                let shape = (tokens, inputs, outputs);
                assert_eq!(got.len(), tokens * outputs);
                assert!(got.iter().zip(&expected).all(close), "{} {dtype:?} {shape:?}", ctx.isa());
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_batch() {
    let contexts = contexts();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let (inputs, outputs) = (401, 75);
        let x = random((29, inputs));
        let weight = random((outputs, inputs)).to_dtype(dtype).unwrap();
        let w = Matrix::new(&contexts[0], &weight).unwrap();
        let all = values(&linear(&contexts[0], &x, &w, None).unwrap());
        for ctx in &contexts {
            for (first, rows) in [(0, 29), (3, 1), (5, 2), (0, 3), (11, 4), (2, 6), (9, 13)] {
                let part = x.narrow(0, first, rows).unwrap().contiguous().unwrap();
                let got = values(&linear(ctx, &part, &w, None).unwrap());
                let expected = &all[first * outputs..(first + rows) * outputs];
                assert!(got == expected, "{} x{} {dtype:?} {rows} rows", ctx.isa(), ctx.threads());
            }
        }
    }
}

#[test]
fn an_f32_output_is_one_fused_chain() {
    let ctx = Context::cpu(2).unwrap();
    let (x, weight) = (random((1, 100)), random((3, 100)));
    let w = Matrix::new(&ctx, &weight).unwrap();
    let got = values(&linear(&ctx, &x, &w, None).unwrap());
    let (x, weight) = (values(&x), values(&weight));
    for (got, row) in got.iter().zip(weight.chunks_exact(100)) {
        assert_eq!(*got, x.iter().zip(row).fold(0.0, |sum: f32, (x, w)| w.mul_add(*x, sum)));
    }
}

#[test]
fn a_matrix_is_read_back_as_it_was() {
    let ctx = Context::cpu(2).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let weight = random((37, 21)).to_dtype(dtype).unwrap();
        let w = Matrix::new(&ctx, &weight).unwrap();
        let wide = |t: &Tensor| values(&t.to_dtype(DType::F32).unwrap());
        assert_eq!(wide(&w.to_tensor().unwrap()), wide(&weight));
        assert_eq!((w.out_features(), w.in_features(), w.format().as_str()), (37, 21, dtype.as_str()));
        assert_eq!(w.bytes(), 48 * if dtype == DType::BF16 { 22 } else { 21 } * dtype.size_in_bytes());
    }
}

#[test]
fn empty_products_are_empty() {
    let ctx = Context::cpu(2).unwrap();
    let w = Matrix::new(&ctx, &random((5, 3))).unwrap();
    let none = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(linear(&ctx, &none, &w, None).unwrap().dims(), [0, 5]);
}

#[test]
fn wrong_arguments_are_refused() {
    let ctx = Context::cpu(1).unwrap();
    let w = Matrix::new(&ctx, &random((5, 3))).unwrap();
    let narrow = random((2, 4));
    let half = random((2, 3)).to_dtype(DType::BF16).unwrap();
    let transposed = random((3, 2)).t().unwrap();
    for (x, culprit) in [(narrow, "[tokens, 3]"), (half, "f32"), (transposed, "contiguous")] {
        let message = linear(&ctx, &x, &w, None).unwrap_err().to_string();
        assert!(message.contains(culprit), "{message}");
    }
    let integers = Tensor::zeros((2, 2), DType::U32, &Device::Cpu).unwrap();
    assert!(Matrix::new(&ctx, &integers).unwrap_err().to_string().contains("bf16"));
}
