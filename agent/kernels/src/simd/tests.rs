//! Every instruction set gives the same bits, and the elementary functions are accurate.

use super::{E4M3_FACTOR, Kernel, LANES, Simd, dispatch, math};
use crate::context::Context;
use crate::isa::Isa;

/// Kernel that appends the result of every operation on one input.
struct AllOperations<'a>(&'a [f32; LANES], &'a mut Vec<[f32; LANES]>);

impl Kernel for AllOperations<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x = s.load(self.0);
        let y = s.fma(x, s.splat(-0.7), s.splat(0.3));
        let words = self.0.map(f32::to_bits);
        let halves = self.0.map(|x| half::f16::from_f32(x).to_bits());
        let [low, high] = s.bf16_pairs(&words);
        // No byte is a NaN.
        let bytes = words.map(|word| (word >> 13) as u8).map(|byte| if byte & 0x7F == 0x7F { 0 } else { byte });
        let [first, second] = s.look_up_halves(self.0, &bytes);
        let results = [
            s.add(x, y),
            s.sub(x, y),
            s.mul(x, y),
            s.div(x, y),
            s.max(x, y),
            s.min(x, y),
            s.round(x),
            s.exp2_int(s.round(x)),
            low,
            high,
            s.widen_bf16(&words.map(|word| (word >> 16) as u16)),
            s.widen_f16(&halves),
            math::exp(s, x),
            math::silu(s, x),
            math::tanh(s, x),
            s.splat(s.sum(x)),
            s.splat(s.max_lane(x)),
            s.widen_i8(&bytes),
            s.widen_small_e4m3(&bytes),
            first,
            second,
        ];
        for result in results {
            let mut lanes = [0.0; LANES];
            s.store(result, &mut lanes);
            self.1.push(lanes);
        }
    }
}

fn run_all_operations(isa: Isa, x: &[f32; LANES]) -> Vec<[f32; LANES]> {
    let ctx = Context::cpu(1).unwrap().force_isa(isa.name()).unwrap();
    let mut results = Vec::new();
    dispatch(&ctx, AllOperations(x, &mut results));
    results
}

fn bits(results: &[[f32; LANES]]) -> Vec<[u32; LANES]> {
    results.iter().map(|lanes| lanes.map(f32::to_bits)).collect()
}

#[test]
fn all_instruction_sets_give_the_same_bits() {
    for row in 0..200 {
        let x: [f32; LANES] = std::array::from_fn(|i| (crate::uniform(7, 0, row, i as u32) - 0.5) * 100.0);
        let expected = bits(&run_all_operations(Isa::Portable, &x));
        for isa in Isa::available() {
            assert_eq!(bits(&run_all_operations(isa, &x)), expected, "{isa}");
        }
    }
}

#[test]
fn numbers_of_eight_bits_are_widened_exactly() {
    struct Widen<'a>(&'a [u8; LANES], &'a mut [f32; LANES]);
    impl Kernel for Widen<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            s.store(s.mul(s.widen_small_e4m3(self.0), s.splat(E4M3_FACTOR)), self.1);
        }
    }
    for byte in (0..=255u8).filter(|byte| byte & 0x7F != 0x7F) {
        let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
        let size = if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) };
        let mut lanes = [0.0; LANES];
        dispatch(&Context::cpu(1).unwrap(), Widen(&[byte; LANES], &mut lanes));
        assert_eq!(lanes, [if byte < 128 { size } else { -size }; LANES], "{byte:#x}");
    }
}

#[test]
fn elementary_functions_are_accurate() {
    for step in -8000..8000 {
        let x = step as f32 / 100.0;
        let results = run_all_operations(Isa::detect(), &[x; LANES]);
        let (exact, wide) = (f64::from(x).exp(), f64::from(x));
        let relative = (f64::from(results[12][0]) / exact - 1.0).abs();
        assert!(relative < 2e-7, "exp {x}: {relative}");
        let silu = wide / (1.0 + (-wide).exp());
        assert!((f64::from(results[13][0]) - silu).abs() < 1e-6 * silu.abs().max(1e-3), "silu {x}");
        assert!((f64::from(results[14][0]) - wide.tanh()).abs() < 3e-7, "tanh {x}");
    }
}
