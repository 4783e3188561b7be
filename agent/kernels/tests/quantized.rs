//! Quantized matrices: decoded like other decoders decode the same blocks, products within the bound of rounded
//! activations, and bit for bit the same over rows, threads, instruction sets and cuts.

use std::collections::HashMap;
use std::sync::LazyLock;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{BlockFormat, Context, Isa, Matrix, embedding_from_matrix, linear, plain};

/// Blocks of random bits, with the numbers that the gguf package decodes, and errors of llama.cpp's quantizer.
static RECORDED: LazyLock<HashMap<String, Tensor>> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/llamacpp/blocks.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
});
/// Rows of the recorded blocks, and their columns.
const RECORDED_SHAPE: (usize, usize) = (8, 256);

fn recorded(format: BlockFormat, what: &str) -> Option<&'static Tensor> {
    RECORDED.get(&format!("{}.{what}", format.name().to_uppercase()))
}

/// Iterates over the formats whose blocks are recorded.
fn recorded_formats() -> impl Iterator<Item = BlockFormat> {
    BlockFormat::ALL.into_iter().filter(|format| recorded(*format, "blocks").is_some())
}

/// Returns rows of recorded blocks, in changing order, up to the block that holds the last of `columns`.
fn recorded_rows(format: BlockFormat, rows: usize, columns: usize) -> Vec<u8> {
    let bytes: Vec<u8> = recorded(format, "blocks").unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let blocks: Vec<&[u8]> = bytes.chunks_exact(format.bytes()).collect();
    let count = rows * columns.div_ceil(format.columns());
    (0..count).flat_map(|index| blocks[(index * 5 + index / 7) % blocks.len()].iter().copied()).collect()
}

fn matrix(ctx: &Context, format: BlockFormat, rows: usize, columns: usize) -> Matrix {
    Matrix::from_blocks(ctx, format, &recorded_rows(format, rows, columns), rows, 0..columns).unwrap()
}

/// Formats that candle has, with candle's name.
fn encoded() -> impl Iterator<Item = (BlockFormat, GgmlDType)> {
    BlockFormat::ALL.into_iter().filter_map(|format| Some((format, ggml(format)?)))
}

fn ggml(format: BlockFormat) -> Option<GgmlDType> {
    Some(match format {
        BlockFormat::Q4_0 => GgmlDType::Q4_0,
        BlockFormat::Q4_1 => GgmlDType::Q4_1,
        BlockFormat::Q5_0 => GgmlDType::Q5_0,
        BlockFormat::Q5_1 => GgmlDType::Q5_1,
        BlockFormat::Q8_0 => GgmlDType::Q8_0,
        BlockFormat::Q2K => GgmlDType::Q2K,
        BlockFormat::Q3K => GgmlDType::Q3K,
        BlockFormat::Q4K => GgmlDType::Q4K,
        BlockFormat::Q5K => GgmlDType::Q5K,
        BlockFormat::Q6K => GgmlDType::Q6K,
        _ => return None,
    })
}

fn random(shape: (usize, usize)) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn contexts() -> Vec<Context> {
    let contexts = [1, 3].map(|threads| Context::cpu(threads).unwrap());
    let sets = |ctx: &Context| Isa::available().into_iter().map(|isa| ctx.force_isa(isa.name()).unwrap()).collect();
    contexts.iter().flat_map(|ctx| -> Vec<Context> { sets(ctx) }).collect()
}

#[test]
fn blocks_decode_as_with_other_decoders() {
    let ctx = Context::cpu(2).unwrap();
    for (format, ggml) in encoded() {
        let blocks = QTensor::quantize(&random((37, 512)), ggml).unwrap();
        let expected = values(&blocks.dequantize(&Device::Cpu).unwrap());
        let w = Matrix::from_blocks(&ctx, format, &blocks.data().unwrap(), 37, 0..512).unwrap();
        let got = values(&w.to_tensor().unwrap());
        let close = got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-6);
        assert!(close && got.len() == expected.len(), "{}", format.name());
    }
    let (rows, columns) = RECORDED_SHAPE;
    for format in recorded_formats() {
        let blocks: Vec<u8> = recorded(format, "blocks").unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let w = Matrix::from_blocks(&ctx, format, &blocks, rows, 0..columns).unwrap();
        assert_eq!(values(&w.to_tensor().unwrap()), values(recorded(format, "numbers").unwrap()), "{}", format.name());
    }
}

#[test]
fn a_matrix_takes_the_memory_of_its_blocks() {
    let ctx = Context::cpu(2).unwrap();
    assert!(recorded_formats().count() >= 25);
    for format in recorded_formats() {
        let w = matrix(&ctx, format, 37, 512);
        assert_eq!((w.format().as_str(), w.out_features(), w.in_features()), (format.name(), 37, 512));
        let file = format.bytes() * 48 * 512 / format.columns();
        assert!((file..file * 21 / 20).contains(&w.bytes()), "{}: {} for {file} bytes", format.name(), w.bytes());
    }
}

/// Errors are compared with all numbers counting alike, by their sizes, and by their squares.
#[test]
fn errors_are_no_greater_than_those_of_llama_cpp() {
    let x = &RECORDED["x"];
    let contexts = contexts();
    for format in recorded_formats().filter(|format| format.is_encodable()) {
        let of = |ctx: &Context| values(&Matrix::quantize(ctx, x, format, 0..512).unwrap().to_tensor().unwrap());
        let numbers = of(&contexts[0]);
        let errors = [0, 1, 2].map(|power| {
            let (mut error, mut whole) = (0.0, 0.0);
            for (x, number) in values(x).into_iter().zip(&numbers) {
                let (x, number) = (f64::from(x), f64::from(*number));
                error += x.abs().powi(power) * (number - x).powi(2);
                whole += x.abs().powi(power + 2);
            }
            (error / whole).sqrt()
        });
        let others = values(recorded(format, "errors").unwrap());
        println!("{}: {errors:.5?}, llama.cpp's quantizer {others:.5?}", format.name());
        // All numbers of a ternary model have one size.
        let measures = if matches!(format, BlockFormat::Tq1_0 | BlockFormat::Tq2_0) { 1 } else { 3 };
        let no_greater =
            errors.iter().take(measures).zip(&others).all(|(error, other)| *error <= f64::from(*other) * 1.00001);
        assert!(no_greater, "{}: {errors:.5?}, llama.cpp's quantizer {others:.5?}", format.name());
        for ctx in &contexts {
            assert_eq!(of(ctx), numbers, "{} {}", ctx.isa(), format.name());
        }
    }
}

#[test]
fn numbers_that_no_search_likes_are_encoded() {
    let ctx = Context::cpu(1).unwrap();
    let rows = [
        vec![0.0; 256],
        vec![-0.25; 256],
        vec![0.25; 256],
        (0..256).map(|i| if i == 77 { -3.0 } else { 0.0 }).collect(),
        (0..256).map(|i| (i as f32 - 128.0) * 1e-30).collect(),
    ];
    for format in recorded_formats().filter(|format| format.is_encodable()) {
        for row in &rows {
            let x = Tensor::from_slice(row, (1, 256), &Device::Cpu).unwrap();
            let numbers = values(&Matrix::quantize(&ctx, &x, format, 0..256).unwrap().to_tensor().unwrap());
            let extreme = row.iter().fold(0f32, |most, x| most.max(x.abs()));
            let error = numbers.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The last row is below the least scale of most formats.
            let bound = if extreme < 1e-8 { extreme } else { extreme / 4.0 };
            assert!(error <= bound, "{}: {error} of {extreme}", format.name());
        }
    }
}

/// The tables of recorded errors are for whole blocks. Rows that fill none go to another format.
#[test]
fn rows_that_fill_no_block_go_to_the_format_that_llama_cpp_takes() {
    let pairs = [
        (BlockFormat::Q2K, BlockFormat::Q4_0),
        (BlockFormat::Q3K, BlockFormat::Q4_0),
        (BlockFormat::Q4K, BlockFormat::Q5_0),
        (BlockFormat::Q5K, BlockFormat::Q5_1),
        (BlockFormat::Q6K, BlockFormat::Q8_0),
        (BlockFormat::Iq4Xs, BlockFormat::Iq4Nl),
        (BlockFormat::Iq3S, BlockFormat::Iq4Nl),
        (BlockFormat::Tq1_0, BlockFormat::Q4_0),
        (BlockFormat::Tq2_0, BlockFormat::Q4_0),
        (BlockFormat::Q8_0, BlockFormat::Q8_0),
        (BlockFormat::Mxfp4, BlockFormat::Mxfp4),
    ];
    for (format, narrow) in pairs {
        for width in [256, 512, 1024] {
            assert_eq!(format.for_width(width), format);
        }
        for width in [1, 32, 576, 896, 1152] {
            assert_eq!(format.for_width(width), narrow, "{} of {width}", format.name());
        }
    }
}

/// The block holds the quants -128, -127 and 127. -128 is in no file that llama.cpp writes, but it is allowed.
#[test]
fn extreme_quants_are_multiplied_exactly() {
    let x = Tensor::from_vec((0..32).map(|i| [127f32, -127.0, -3.0, 64.0][i % 4]).collect(), (1, 32), &Device::Cpu);
    let x = x.unwrap();
    let mut block = vec![0x00, 0x3C];
    block.extend((0..32).map(|i| [0x80, 0x80, 0x7F, 0x81][i / 2 % 4]));
    for ctx in contexts() {
        let w = Matrix::from_blocks(&ctx, BlockFormat::Q8_0, &block, 1, 0..32).unwrap();
        let got = values(&linear(&ctx, &x, &w, None).unwrap());
        assert_eq!(got, values(&plain::linear(&ctx, &x, &w, None).unwrap()), "{}", ctx.isa());
    }
}

/// Returns the furthest that rounding the activations can move each product: half a step for each column.
fn bounds(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    let mut bounds = Vec::new();
    for x in x.chunks_exact(inputs) {
        for w in w.chunks_exact(inputs) {
            let groups = x.chunks(32).zip(w.chunks(32)).map(|(x, w)| {
                let greatest = x.iter().fold(0f32, |most, x| most.max(x.abs()));
                greatest / 254.0 * w.iter().map(|w| w.abs()).sum::<f32>()
            });
            bounds.push(groups.sum::<f32>() * 1.001 + 1e-4);
        }
    }
    bounds
}

#[test]
fn products_stay_within_the_rounding_of_activations() {
    for ctx in contexts() {
        for format in recorded_formats() {
            for (tokens, inputs, outputs) in [(1, 256, 48), (2, 100, 33), (5, 1100, 17), (13, 768, 50), (131, 300, 5)] {
                let x = random((tokens, inputs));
                let w = matrix(&ctx, format, outputs, inputs);
                let bias = random((1, outputs)).squeeze(0).unwrap();
                let bias = (tokens % 2 == 1).then_some(&bias);
                let got = values(&linear(&ctx, &x, &w, bias).unwrap());
                let expected = values(&plain::linear(&ctx, &x, &w, bias).unwrap());
                let bounds = bounds(&values(&x), &values(&w.to_tensor().unwrap()), inputs);
                let close = got.iter().zip(&expected).zip(&bounds).all(|((a, b), bound)| (a - b).abs() <= *bound);
                let shape = (tokens, inputs, outputs);
                assert!(close && got.len() == expected.len(), "{} {} {shape:?}", ctx.isa(), format.name());
            }
        }
    }
}

#[test]
fn a_row_is_the_same_in_any_company() {
    let contexts = contexts();
    for format in recorded_formats() {
        let (inputs, outputs) = (1300, 75);
        let x = random((29, inputs));
        let w = matrix(&contexts[0], format, outputs, inputs);
        let all = values(&linear(&contexts[0], &x, &w, None).unwrap());
        for ctx in &contexts {
            for (first, rows) in [(0, 29), (3, 1), (5, 2), (0, 3), (11, 4), (2, 6), (9, 13)] {
                let part = x.narrow(0, first, rows).unwrap().contiguous().unwrap();
                let got = values(&linear(ctx, &part, &w, None).unwrap());
                let expected = &all[first * outputs..(first + rows) * outputs];
                assert!(got == expected, "{} x{} {} {rows} rows", ctx.isa(), ctx.threads(), format.name());
            }
        }
    }
}

/// Both sides of a cut keep the whole block in which the cut lies. So their weights are those of the whole matrix.
#[test]
fn a_cut_is_the_same_cut_of_the_whole() {
    let ctx = Context::cpu(2).unwrap();
    for format in recorded_formats() {
        let block = format.columns();
        let (row, bytes) = (700usize.div_ceil(block) * format.bytes(), recorded_rows(format, 20, 700));
        let whole = matrix(&ctx, format, 20, 700).to_tensor().unwrap();
        let weight = random((20, 700));
        let encoded = format.is_encodable();
        let made = encoded.then(|| Matrix::quantize(&ctx, &weight, format, 0..700).unwrap().to_tensor().unwrap());
        for (start, end) in [(0usize, 233usize), (233, 467), (467, 700), (5, 6)] {
            let (first, last) = (start / block * block, 700.min(end.next_multiple_of(block)));
            if let Some(made) = &made {
                let part = weight.narrow(1, first, last - first).unwrap().contiguous().unwrap();
                let w = Matrix::quantize(&ctx, &part, format, start - first..end - first).unwrap();
                let expected = made.narrow(1, start, end - start).unwrap();
                assert_eq!(values(&w.to_tensor().unwrap()), values(&expected), "{} {start}..{end}", format.name());
            }
            let blocks = first / block * format.bytes()..last.div_ceil(block) * format.bytes();
            let part: Vec<u8> = bytes.chunks_exact(row).flat_map(|row| row[blocks.clone()].to_vec()).collect();
            let w = Matrix::from_blocks(&ctx, format, &part, 20, start - first..end - first).unwrap();
            let expected = whole.narrow(1, start, end - start).unwrap();
            assert_eq!(values(&w.to_tensor().unwrap()), values(&expected), "{} {start}..{end}", format.name());
            let x = random((3, end - start));
            let (got, plain) = (linear(&ctx, &x, &w, None).unwrap(), plain::linear(&ctx, &x, &w, None).unwrap());
            let bounds = bounds(&vec![5.0; 3 * (end - start)], &values(&expected), end - start);
            let close =
                values(&got).iter().zip(values(&plain)).zip(bounds).all(|((a, b), bound)| (a - b).abs() <= bound);
            assert!(close, "{} {start}..{end}", format.name());
        }
    }
}

#[test]
fn a_stack_computes_as_its_parts() {
    let ctx = Context::cpu(2).unwrap();
    let parts: Vec<Matrix> = [(BlockFormat::Q4K, 40), (BlockFormat::Q6K, 7)]
        .map(|(format, rows)| Matrix::quantize(&ctx, &random((rows, 256)), format, 0..256).unwrap())
        .into_iter()
        .chain([Matrix::new(&ctx, &random((19, 256))).unwrap()])
        .collect();
    let stack = Matrix::stack(parts.clone()).unwrap();
    assert_eq!((stack.out_features(), stack.format().as_str()), (66, "q4_k+q6_k+f32"));
    let (x, bias) = (random((5, 256)), random((1, 66)).squeeze(0).unwrap());
    let got = linear(&ctx, &x, &stack, Some(&bias)).unwrap();
    let parts = parts.iter().map(|part| linear(&ctx, &x, part, None).unwrap()).collect::<Vec<_>>();
    let expected = Tensor::cat(&parts, 1).unwrap().broadcast_add(&bias).unwrap();
    assert_eq!(values(&got), values(&expected));
    let rows = values(&stack.to_tensor().unwrap());
    let found = values(&embedding_from_matrix(&ctx, &stack, 100, &[141, 99, 160]).unwrap());
    assert_eq!(found[..256], rows[41 * 256..42 * 256]);
    assert_eq!((&found[256..512], &found[512..]), (&[0.0; 256][..], &rows[60 * 256..61 * 256]));
    let narrow = Matrix::new(&ctx, &random((2, 3))).unwrap();
    assert!(
        Matrix::stack(vec![stack, narrow])
            .unwrap_err()
            .to_string()
            .contains("3 columns cannot be stacked on one of 256")
    );
    assert!(Matrix::stack(Vec::new()).is_err());
}

#[test]
fn a_factor_multiplies_all_numbers() {
    for ctx in contexts() {
        let (plain, scaled) = (matrix(&ctx, BlockFormat::Nvfp4, 37, 128), matrix(&ctx, BlockFormat::Nvfp4, 37, 128));
        let (x, scaled) = (random((5, 128)), scaled.scaled(0.25).unwrap());
        let product = |w: &Matrix| linear(&ctx, &x, w, None).unwrap();
        assert_eq!(values(&product(&scaled)), values(&(product(&plain) * 0.25).unwrap()), "{}", ctx.isa());
        assert_eq!(values(&scaled.to_tensor().unwrap()), values(&(plain.to_tensor().unwrap() * 0.25).unwrap()));
        let clone = scaled.clone();
        assert!(scaled.scaled(2.0).unwrap_err().to_string().contains("the matrix is shared"));
        assert!(clone.scaled(2.0).is_ok());
    }
    let ctx = Context::cpu(1).unwrap();
    assert!(Matrix::new(&ctx, &random((2, 3))).unwrap().scaled(2.0).unwrap_err().to_string().contains("only blocks"));
}

#[test]
fn wrong_arguments_are_refused() {
    let ctx = Context::cpu(1).unwrap();
    let message = Matrix::from_blocks(&ctx, BlockFormat::Q4K, &[0; 143], 1, 0..256).unwrap_err().to_string();
    assert!(message.contains("143 bytes are not 1 rows of 1 blocks of q4_k"), "{message}");
    let wrong = Tensor::new(&[[1f32, f32::NAN]], &Device::Cpu).unwrap();
    let message = Matrix::quantize(&ctx, &wrong, BlockFormat::Q8_0, 0..2).unwrap_err().to_string();
    assert!(message.contains("row 0, column 1 is not finite"), "{message}");
    assert!(Matrix::quantize(&ctx, &random((2, 3)), BlockFormat::Q8_0, 0..4).is_err());
    let message = Matrix::quantize(&ctx, &random((2, 256)), BlockFormat::Iq1S, 0..256).unwrap_err().to_string();
    assert!(message.contains("iq1_s is read from files, and is not made while loading"), "{message}");
    for format in [BlockFormat::Iq4Xs, BlockFormat::Iq2S] {
        let on_device =
            Matrix::from_blocks(&ctx.plain_on(Device::Cpu), format, &recorded_rows(format, 1, 256), 1, 0..256);
        assert!(on_device.unwrap_err().to_string().contains("works only on the CPU"));
    }
    let w = Matrix::quantize(&ctx, &random((3, 40)), BlockFormat::Q8_0, 0..40).unwrap();
    let none = Tensor::zeros((0, 40), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(linear(&ctx, &none, &w, None).unwrap().dims(), [0, 3]);
    // Infinity must not become a finite number.
    let x = Tensor::full(f32::INFINITY, (1, 40), &Device::Cpu).unwrap();
    assert!(values(&linear(&ctx, &x, &w, None).unwrap()).iter().all(|y| !y.is_finite()));
}

/// On a device without kernels the numbers are the same, wherever a matrix is cut. Products are candle's, which rounds
/// the activations too, for up to 256 of them at once.
#[test]
fn devices_without_kernels_hold_the_same_numbers() {
    let ctx = Context::cpu(2).unwrap();
    let plain_ctx = ctx.plain_on(Device::Cpu);
    for (format, _) in encoded() {
        let weight = random((21, 700));
        for columns in [0..700, 0..300, 37..700, 5..5] {
            let make = |ctx: &Context| Matrix::quantize(ctx, &weight, format, columns.clone()).unwrap();
            let (packed, plain) = (make(&ctx), make(&plain_ctx));
            assert_eq!(plain.format(), format.name());
            let (numbers, width) = (packed.to_tensor().unwrap(), columns.len());
            let close = |a: &Tensor, b: &Tensor, bound: f32| {
                let (a, b) = (values(a), values(b));
                let close = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= bound);
                assert!(close, "{} {columns:?}", format.name());
            };
            close(&plain.to_tensor().unwrap(), &numbers, 1e-6);
            let x = random((5, width));
            let expected = x.matmul(&numbers.t().unwrap()).unwrap();
            close(&linear(&plain_ctx, &x, &plain, None).unwrap(), &expected, 4.0 / 254.0 * (width as f32).sqrt() * 4.0);
            let ids = [3, 100, 23, 9];
            close(
                &embedding_from_matrix(&plain_ctx, &plain, 3, &ids).unwrap(),
                &embedding_from_matrix(&ctx, &packed, 3, &ids).unwrap(),
                1e-6,
            );
        }
        let parts = |ctx: &Context| {
            let quantized = Matrix::quantize(ctx, &weight, format, 0..700).unwrap();
            Matrix::stack(vec![quantized, Matrix::new(ctx, &weight).unwrap()]).unwrap()
        };
        let (packed, plain) = (parts(&ctx), parts(&plain_ctx));
        let x = Tensor::ones((1, 700), DType::F32, &Device::Cpu).unwrap();
        let products =
            [(&ctx, &packed), (&plain_ctx, &plain)].map(|(ctx, w)| values(&linear(ctx, &x, w, None).unwrap()));
        // Ones are rounded to themselves, apart from candle's scale: 1/127 in f16 is off by 6e-5. Formats with a minimum
        // add up 700 numbers of up to 6 before they subtract the minima.
        assert!(products[0].iter().zip(&products[1]).all(|(a, b)| (a - b).abs() <= 0.3), "{}", format.name());
        assert!(Matrix::stack(vec![packed, plain]).is_err());
    }
}
