//! Matrices in codes: the same numbers, and the same bits of products, as matrices that hold the decoded weights in f32.

use candle_core::{Device, Tensor};
use lockstep_kernels::{Code, CodedWeight, Context, Isa, Matrix, embedding_from_matrix, linear, uniform};

const HALVES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
const CODES: [Code; 3] = [Code::E4m3, Code::Int8, Code::Table(&HALVES)];
/// Shapes (out, in). They are multiples of nothing, and longer than one read.
const SHAPES: [(usize, usize); 4] = [(1, 1), (33, 65), (50, 401), (16, 384)];

/// A weight in codes, and its owner's numbers.
struct Random {
    code: Code,
    shape: (usize, usize),
    bits: Vec<u8>,
    by_column: bool,
    group_of: Vec<u32>,
    scales: Vec<f32>,
    zeros: Option<Vec<f32>>,
}

impl Random {
    /// Makes a weight with columns in groups of seven, in order or not, or of sixteen.
    fn new(code: Code, (rows, columns): (usize, usize), variant: u32) -> Self {
        let number = |kind: u32, i: usize| uniform(kind.into(), variant, 0, i as u32);
        let bits = |i: usize| match code {
            Code::Table(_) => (number(1, i) * 16.0) as u8,
            Code::Int8 => (number(1, i) * 256.0) as u8,
            Code::E4m3 => Some((number(1, i) * 256.0) as u8).filter(|bits| bits & 0x7F != 0x7F).unwrap_or(1),
        };
        let size = if variant == 2 { 16 } else { 7 };
        let groups = columns.div_ceil(size);
        let by_index = variant % 2 == 1;
        let group_of = |column: usize| if by_index { column % groups } else { column / size } as u32;
        let zeros = |i: usize| (number(3, i) * 16.0).floor();
        Self {
            code,
            shape: (rows, columns),
            bits: (0..rows * columns).map(bits).collect(),
            by_column: by_index,
            group_of: (0..columns).map(group_of).collect(),
            scales: (0..groups * rows).map(|i| number(2, i) + 0.1).collect(),
            zeros: by_index.then(|| (0..groups * rows).map(zeros).collect()),
        }
    }

    fn weight(&self) -> CodedWeight<'_> {
        let (rows, columns) = self.shape;
        CodedWeight {
            format: "test",
            code: self.code,
            out_features: rows,
            in_features: columns,
            bits: &self.bits,
            strides: if self.by_column { [1, rows] } else { [columns, 1] },
            group_of: &self.group_of,
            scales: &self.scales,
            zeros: self.zeros.as_deref(),
        }
    }

    /// Decodes the weight by its definition.
    fn decoded(&self) -> Tensor {
        let (rows, columns) = self.shape;
        let number = |(row, column): (usize, usize)| {
            let bits = self.bits[if self.by_column { column * rows + row } else { row * columns + column }];
            let code = match self.code {
                Code::Table(table) => table[usize::from(bits)],
                Code::Int8 => f32::from(bits.cast_signed()),
                Code::E4m3 => {
                    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7) / 8.0);
                    let least = if exponent == 0 { 0.0 } else { 1.0 };
                    let size = (least + mantissa) * 2f32.powi(exponent.max(1) - 7);
                    if bits < 128 { size } else { -size }
                }
            };
            let group = self.group_of[column] as usize * rows + row;
            (code - self.zeros.as_ref().map_or(0.0, |zeros| zeros[group])) * self.scales[group]
        };
        let numbers = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(number);
        Tensor::from_vec(numbers.collect::<Vec<f32>>(), (rows, columns), &Device::Cpu).unwrap()
    }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Calls `check` with a weight of each code, shape and order of groups.
fn for_each_weight(check: impl Fn(&Random)) {
    for code in CODES {
        for shape in SHAPES {
            (0..3).for_each(|variant| check(&Random::new(code, shape, variant)));
        }
    }
}

#[test]
fn a_product_is_that_of_the_decoded_weight_bit_for_bit() {
    let x = |tokens, columns| Tensor::randn(0f32, 1.0, (tokens, columns), &Device::Cpu).unwrap();
    for_each_weight(|random| {
        for tokens in [1, 2, 4, 7, 13, 110] {
            let x = x(tokens, random.shape.1);
            for isa in Isa::available() {
                let ctx = Context::cpu(2).unwrap().force_isa(isa.name()).unwrap();
                let coded = Matrix::from_codes(&ctx, &random.weight()).unwrap();
                let decoded = Matrix::new(&ctx, &random.decoded()).unwrap();
                let [got, expected] = [&coded, &decoded].map(|w| values(&linear(&ctx, &x, w, None).unwrap()));
                assert!(got == expected, "{isa} {:?} {:?} {tokens}", random.code, random.shape);
            }
        }
    });
}

#[test]
fn the_numbers_are_the_same_on_every_device() {
    let ctx = Context::cpu(2).unwrap();
    for_each_weight(|random| {
        let expected = random.decoded();
        for ctx in [ctx.clone(), ctx.plain_on(Device::Cpu)] {
            let coded = Matrix::from_codes(&ctx, &random.weight()).unwrap();
            assert!(values(&coded.to_tensor().unwrap()) == values(&expected), "{:?}", random.code);
            let row = embedding_from_matrix(&ctx, &coded, 5, &[5, 4]).unwrap();
            let columns = random.shape.1;
            let [first, second] = [&values(&row)[..columns], &values(&row)[columns..]];
            assert!(first == &values(&expected)[..columns] && second.iter().all(|x| *x == 0.0));
            let shape = (coded.out_features(), coded.in_features());
            assert_eq!((shape, coded.format().as_str()), (random.shape, "test"));
        }
    });
}

#[test]
fn the_bits_stay_in_memory() {
    let random = Random::new(Code::Table(&HALVES), (64, 384), 0);
    let coded = Matrix::from_codes(&Context::cpu(1).unwrap(), &random.weight()).unwrap();
    assert_eq!(coded.bytes(), 64 * 384 / 2 + 4 * 55 * 64 + 4 * 384);
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let random = Random::new(Code::E4m3, (3, 14), 0);
    let weight = random.weight();
    let beyond = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2];
    let cases = [
        (CodedWeight { group_of: &weight.group_of[1..], ..weight }, "13 groups"),
        (CodedWeight { group_of: &beyond, ..weight }, "beyond the 2"),
        (CodedWeight { scales: &weight.scales[1..], ..weight }, "5 scales"),
        (CodedWeight { scales: &[f32::NAN; 6], ..weight }, "not finite"),
        (CodedWeight { zeros: Some(&[0.0; 5]), ..weight }, "do not fit"),
        (CodedWeight { bits: &weight.bits[1..], ..weight }, "41 weights"),
        (CodedWeight { bits: &[0xFF; 42], ..weight }, "0xff"),
        (CodedWeight { bits: &[0x10; 42], code: Code::Table(&HALVES), ..weight }, "0x10"),
    ];
    for ctx in [Context::cpu(1).unwrap(), Context::cpu(1).unwrap().plain_on(Device::Cpu)] {
        for (weight, culprit) in &cases {
            let message = Matrix::from_codes(&ctx, weight).unwrap_err().to_string();
            assert!(message.contains(culprit), "{culprit}: {message}");
        }
    }
}
