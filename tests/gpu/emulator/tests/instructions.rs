//! Known answers for typed instructions, from the descriptions in the PTX manual. Each row runs as a kernel of one thread.

mod common;

use common::Device;

/// One lane of an instruction: its name, the kinds of its registers (the result first: `h` 16 bits, `r` 32, `d` 64, `p` a
/// predicate), the operands, and the result.
type Row = (&'static str, &'static str, &'static [u64], u64);

const fn f(value: f32) -> u64 {
    value.to_bits() as u64
}

const fn g(value: f64) -> u64 {
    value.to_bits()
}

/// Bits of -1 in 32 bits.
const M1: u64 = 0xffff_ffff;

const INTEGERS: &[Row] = &[
    ("add.s32", "rrr", &[M1, 2], 1),
    ("add.u64", "ddd", &[u64::MAX, 2], 1),
    ("add.s16", "hhh", &[0x7fff, 1], 0x8000),
    ("sub.u32", "rrr", &[1, 2], M1),
    ("sub.s64", "ddd", &[1, 3], u64::MAX - 1),
    ("mul.lo.u32", "rrr", &[0x1_0001, 0x1_0001], 0x2_0001),
    ("mul.lo.s64", "ddd", &[u64::MAX, 5], 5_u64.wrapping_neg()),
    ("mul.lo.s16", "hhh", &[0x0101, 0x0101], 0x0201),
    ("mul.hi.u32", "rrr", &[M1, M1], 0xffff_fffe),
    ("mul.hi.s32", "rrr", &[M1, M1], 0),
    ("mul.hi.u64", "ddd", &[u64::MAX, u64::MAX], u64::MAX - 1),
    ("mul.hi.s64", "ddd", &[u64::MAX, 3], u64::MAX),
    ("mul.wide.u16", "rhh", &[0xffff, 2], 0x1_fffe),
    ("mul.wide.s16", "rhh", &[0xffff, 2], 0xffff_fffe),
    ("mul.wide.u32", "drr", &[M1, 2], 0x1_ffff_fffe),
    ("mul.wide.s32", "drr", &[M1, 2], u64::MAX - 1),
    ("mad.lo.s32", "rrrr", &[3, 4, 5], 17),
    ("mad.lo.u64", "dddd", &[3, 4, 5], 17),
    ("mad.hi.u32", "rrrr", &[M1, M1, 1], M1),
    ("mad.wide.u32", "drrd", &[M1, 2, 1], 0x1_ffff_ffff),
    ("mad.wide.s32", "drrd", &[M1, 2, 1], u64::MAX),
    ("div.u32", "rrr", &[7, 2], 3),
    ("div.s32", "rrr", &[7_u32.wrapping_neg() as u64, 2], 3_u32.wrapping_neg() as u64),
    ("div.u64", "ddd", &[7, 0], u64::MAX),
    ("rem.s32", "rrr", &[7_u32.wrapping_neg() as u64, 2], M1),
    ("rem.u64", "ddd", &[7, 4], 3),
    ("min.s32", "rrr", &[M1, 1], M1),
    ("min.u32", "rrr", &[M1, 1], 1),
    ("max.s64", "ddd", &[u64::MAX, 1], 1),
    ("max.u64", "ddd", &[u64::MAX, 1], u64::MAX),
    ("neg.s32", "rr", &[1], M1),
    ("abs.s32", "rr", &[M1], 1),
    ("abs.s64", "dd", &[u64::MAX], 1),
    ("not.b32", "rr", &[0], M1),
    ("not.b64", "dd", &[0], u64::MAX),
    ("and.b32", "rrr", &[12, 10], 8),
    ("or.b64", "ddd", &[12, 10], 14),
    ("xor.b16", "hhh", &[12, 10], 6),
    ("shl.b32", "rrr", &[1, 31], 0x8000_0000),
    ("shl.b32", "rrr", &[1, 32], 0),
    ("shl.b64", "ddr", &[1, 63], 1 << 63),
    ("shl.b64", "ddr", &[1, 64], 0),
    ("shr.u32", "rrr", &[0x8000_0000, 31], 1),
    ("shr.s32", "rrr", &[0x8000_0000, 40], M1),
    ("shr.u64", "ddr", &[1 << 63, 63], 1),
    ("shr.s64", "ddr", &[1 << 63, 70], u64::MAX),
    ("shr.u16", "hhr", &[0x8000, 15], 1),
    ("shr.s16", "hhr", &[0x8000, 15], 0xffff),
    ("shf.l.wrap.b32", "rrrr", &[0x8000_0000, 1, 1], 3),
    ("shf.r.wrap.b32", "rrrr", &[0, 1, 1], 0x8000_0000),
    ("shf.l.clamp.b32", "rrrr", &[5, 1, 40], 5),
    ("clz.b32", "rr", &[1], 31),
    ("clz.b64", "rd", &[0], 64),
    ("popc.b32", "rr", &[M1], 32),
    ("popc.b64", "rd", &[u64::MAX], 64),
    ("brev.b32", "rr", &[1], 0x8000_0000),
    ("bfind.u32", "rr", &[0], M1),
    ("bfind.u32", "rr", &[0x10], 4),
    ("bfe.u32", "rrrr", &[0xabcd, 4, 8], 0xbc),
    ("bfe.s32", "rrrr", &[0x80, 4, 4], 0xffff_fff8),
    ("bfi.b32", "rrrrr", &[0xf, 0xaa00, 4, 4], 0xaaf0),
    ("bfi.b64", "dddrr", &[0xf, 0xaa00, 4, 4], 0xaaf0),
    ("bfi.b64", "dddrr", &[0xf, 1, 60, 32], 0xf << 60 | 1),
    ("prmt.b32", "rrrr", &[0x3322_1100, 0x7766_5544, 0x7531], 0x7755_3311),
    ("prmt.b32", "rrrr", &[0x0000_0080, 0, 0x8], 0x8080_80ff),
    ("dp4a.s32.s32", "rrrr", &[0x0102_03ff, 0x0101_0101, 10], 15),
    ("dp4a.u32.u32", "rrrr", &[0x0102_03ff, 0x0101_0101, 10], 271),
    ("dp4a.s32.u32", "rrrr", &[0xff, 0xff, 0], 255_u32.wrapping_neg() as u64),
];

const FLOATS: &[Row] = &[
    ("add.f32", "rrr", &[f(1.5), f(2.0)], f(3.5)),
    ("add.rn.f64", "ddd", &[g(1.5), g(2.0)], g(3.5)),
    ("add.ftz.f32", "rrr", &[1, 1], 0),
    ("add.rz.f32", "rrr", &[f(1.0), f(1.0e-10)], f(1.0)),
    ("add.rp.f32", "rrr", &[f(1.0), f(1.0e-10)], f(1.0) + 1),
    ("add.rm.f32", "rrr", &[f(1.0), f(-1.0e-10)], f(1.0) - 1),
    ("sub.f32", "rrr", &[f(1.5), f(2.0)], f(-0.5)),
    ("mul.f32", "rrr", &[f(1.5), f(2.0)], f(3.0)),
    ("mul.sat.f32", "rrr", &[f(1.5), f(2.0)], f(1.0)),
    ("mul.f64", "ddd", &[g(1.5), g(2.0)], g(3.0)),
    ("fma.rn.f32", "rrrr", &[f(3.0), f(2.0), f(1.0)], f(7.0)),
    // (1 + 2^-23)^2 - (1 + 2^-22) is 2^-46 in one rounding, and 0 in two.
    ("fma.rn.f32", "rrrr", &[f(1.0) + 1, f(1.0) + 1, (f(1.0) + 2) | 0x8000_0000], 0x2880_0000),
    ("fma.rn.f64", "dddd", &[g(3.0), g(2.0), g(1.0)], g(7.0)),
    ("div.rn.f32", "rrr", &[f(1.0), f(3.0)], f(1.0 / 3.0)),
    ("div.full.f32", "rrr", &[f(6.0), f(3.0)], f(2.0)),
    ("div.rn.f64", "ddd", &[g(1.0), g(3.0)], g(1.0 / 3.0)),
    ("min.f32", "rrr", &[f(f32::NAN), f(2.0)], f(2.0)),
    ("max.f32", "rrr", &[f(1.0), f(2.0)], f(2.0)),
    ("max.NaN.f32", "rrr", &[f(f32::NAN), f(2.0)], f(f32::NAN)),
    ("neg.f32", "rr", &[f(1.0)], f(-1.0)),
    ("abs.f32", "rr", &[f(-1.0)], f(1.0)),
    ("neg.f64", "dd", &[g(1.0)], g(-1.0)),
    ("abs.f64", "dd", &[g(-1.0)], g(1.0)),
    ("copysign.f32", "rrr", &[f(-1.0), f(2.0)], f(-2.0)),
    ("sqrt.rn.f32", "rr", &[f(9.0)], f(3.0)),
    ("sqrt.rn.f64", "dd", &[g(9.0)], g(3.0)),
    ("rsqrt.approx.f32", "rr", &[f(16.0)], f(0.25)),
    ("rcp.approx.ftz.f32", "rr", &[f(4.0)], f(0.25)),
    ("rcp.rn.f64", "dd", &[g(4.0)], g(0.25)),
    ("ex2.approx.f32", "rr", &[f(3.0)], f(8.0)),
    ("ex2.approx.ftz.f32", "rr", &[f(-1.0)], f(0.5)),
    ("lg2.approx.f32", "rr", &[f(8.0)], f(3.0)),
    ("sin.approx.f32", "rr", &[f(0.0)], f(0.0)),
    ("cos.approx.f32", "rr", &[f(0.0)], f(1.0)),
    ("tanh.approx.f32", "rr", &[f(0.0)], f(0.0)),
    ("add.f16", "hhh", &[0x3c00, 0x4000], 0x4200),
    ("add.rn.bf16", "hhh", &[0x3f80, 0x4000], 0x4040),
    ("fma.rn.bf16", "hhhh", &[0x3f80, 0x4000, 0x3f80], 0x4040),
    ("fma.rn.bf16x2", "rrrr", &[0x3f80_4000, 0x4000_4000, 0x3f80_0000], 0x4040_4080),
    ("fma.rn.f16", "hhhh", &[0x3c00, 0x4000, 0x3c00], 0x4200),
    ("mul.f16x2", "rrr", &[0x3c00_4000, 0x4000_4000], 0x4000_4400),
    ("min.bf16", "hhh", &[0x3f80, 0x4000], 0x3f80),
    ("neg.bf16", "hh", &[0x3f80], 0xbf80),
    ("abs.f16", "hh", &[0xbc00], 0x3c00),
];

const CONVERSIONS: &[Row] = &[
    ("cvt.u64.u32", "dr", &[M1], M1),
    ("cvt.s64.s32", "dr", &[M1], u64::MAX),
    ("cvt.s64.s32", "dd", &[0x1_ffff_ffff], u64::MAX),
    ("cvt.u32.u64", "rd", &[0x1_0000_0007], 7),
    ("cvt.u16.u32", "hr", &[0x1_2345], 0x2345),
    ("cvt.u32.u16", "rh", &[0xffff], 0xffff),
    ("cvt.s32.s16", "rh", &[0xffff], M1),
    ("cvt.s32.s8", "rr", &[0x180], 0xffff_ff80),
    ("cvt.u32.u8", "rr", &[0x180], 0x80),
    ("cvt.sat.s8.s32", "rr", &[1000], 127),
    ("cvt.sat.u8.s32", "rr", &[M1], 0),
    ("cvt.rn.f32.s32", "rr", &[M1], f(-1.0)),
    ("cvt.rn.f32.u32", "rr", &[M1], f(4294967296.0)),
    ("cvt.rn.f32.u64", "rd", &[u64::MAX], f(18446744073709551616.0)),
    ("cvt.rn.f32.s64", "rd", &[u64::MAX], f(-1.0)),
    ("cvt.rn.f64.s32", "dr", &[M1], g(-1.0)),
    ("cvt.rn.f64.u64", "dd", &[3], g(3.0)),
    ("cvt.rzi.s32.f32", "rr", &[f(-1.7)], M1),
    ("cvt.rzi.u32.f32", "rr", &[f(-1.7)], 0),
    ("cvt.rzi.s32.f32", "rr", &[f(f32::NAN)], 0),
    ("cvt.rzi.s32.f32", "rr", &[f(1.0e10)], 0x7fff_ffff),
    ("cvt.rni.s32.f32", "rr", &[f(2.5)], 2),
    ("cvt.rmi.s32.f32", "rr", &[f(-1.2)], 2_u32.wrapping_neg() as u64),
    ("cvt.rpi.s32.f32", "rr", &[f(1.2)], 2),
    ("cvt.rzi.s64.f32", "dr", &[f(-1.7)], u64::MAX),
    ("cvt.rzi.u64.f64", "dd", &[g(7.9)], 7),
    ("cvt.rzi.s32.f64", "rd", &[g(-7.9)], 7_u32.wrapping_neg() as u64),
    ("cvt.rni.f32.f32", "rr", &[f(2.5)], f(2.0)),
    ("cvt.rmi.f32.f32", "rr", &[f(-2.5)], f(-3.0)),
    ("cvt.rzi.f64.f64", "dd", &[g(-2.5)], g(-2.0)),
    ("cvt.f64.f32", "dr", &[f(1.5)], g(1.5)),
    ("cvt.rn.f32.f64", "rd", &[g(1.0 / 3.0)], f(1.0 / 3.0)),
    ("cvt.sat.f32.f32", "rr", &[f(1.5)], f(1.0)),
    ("cvt.f32.f16", "rh", &[0x3c00], f(1.0)),
    ("cvt.f32.bf16", "rh", &[0x3f80], f(1.0)),
    ("cvt.rn.f16.f32", "hr", &[f(65504.0)], 0x7bff),
    ("cvt.rn.bf16.f32", "hr", &[f(1.0) + 0x8000], 0x3f80),
    ("cvt.rn.bf16.f32", "hr", &[f(1.0) + 0x8001], 0x3f81),
    ("cvt.rn.bf16x2.f32", "rrr", &[f(1.0), f(2.0)], 0x3f80_4000),
    ("cvt.rn.f16x2.f32", "rrr", &[f(1.0), f(2.0)], 0x3c00_4000),
    ("cvt.rn.f16.s32", "hr", &[3], 0x4200),
    ("cvt.rn.bf16.u32", "hr", &[3], 0x4040),
    ("cvt.rzi.s32.f16", "rh", &[0x4248], 3),
];

const COMPARISONS: &[Row] = &[
    ("setp.eq.s32", "prr", &[5, 5], 1),
    ("setp.ne.u64", "pdd", &[5, 5], 0),
    ("setp.lt.s32", "prr", &[M1, 0], 1),
    ("setp.lt.u32", "prr", &[M1, 0], 0),
    ("setp.ge.s16", "phh", &[0xffff, 0], 0),
    ("setp.hi.u32", "prr", &[M1, 0], 1),
    ("setp.le.f32", "prr", &[f(1.0), f(1.0)], 1),
    ("setp.gt.f32", "prr", &[f(f32::NAN), f(1.0)], 0),
    ("setp.gtu.f32", "prr", &[f(f32::NAN), f(1.0)], 1),
    ("setp.ne.f32", "prr", &[f(f32::NAN), f(1.0)], 0),
    ("setp.neu.f32", "prr", &[f(f32::NAN), f(1.0)], 1),
    ("setp.equ.f64", "pdd", &[g(f64::NAN), g(1.0)], 1),
    ("setp.num.f32", "prr", &[f(f32::NAN), f(1.0)], 0),
    ("setp.nan.f32", "prr", &[f(f32::NAN), f(1.0)], 1),
    ("setp.lt.bf16", "phh", &[0x3f80, 0x4000], 1),
    ("setp.geu.f16", "phh", &[0x7e00, 0x4000], 1),
    ("set.gt.u32.s32", "rrr", &[2, M1], M1),
    ("set.lt.f32.f32", "rrr", &[f(1.0), f(2.0)], f(1.0)),
];

#[test]
fn integers() {
    check(INTEGERS);
}

#[test]
fn floats() {
    check(FLOATS);
}

#[test]
fn conversions() {
    check(CONVERSIONS);
}

#[test]
fn comparisons() {
    check(COMPARISONS);
}

fn check(rows: &[Row]) {
    for (instruction, kinds, inputs, expected) in rows {
        let kinds: Vec<char> = kinds.chars().collect();
        let name = |kind: char, at: usize| format!("%{kind}{at}");
        let mut body = String::new();
        for (at, kind) in kinds.iter().enumerate().skip(1) {
            let bits = match kind {
                'h' => 16,
                'r' => 32,
                _ => 64,
            };
            body += &format!("ld.param.b{bits} {}, [a{at}];\n", name(*kind, at));
        }
        let operands: Vec<_> = kinds.iter().enumerate().map(|(at, kind)| name(*kind, at)).collect();
        body += &format!("{instruction} {};\n", operands.join(", "));
        body += match kinds[0] {
            'p' => "selp.b32 %r9, 1, 0, %p0; st.global.b32 [%d9], %r9;\n",
            'h' => "st.global.b16 [%d9], %h0;\n",
            'r' => "st.global.b32 [%d9], %r0;\n",
            _ => "st.global.b64 [%d9], %d0;\n",
        };
        let device = Device::default();
        let out = device.allocate(&[0_u64]);
        let kernel = format!(
            ".visible .entry k(.param .u64 out, .param .b64 a1, .param .b64 a2, .param .b64 a3, .param .b64 a4) {{\n\
             .reg .b16 %h<10>; .reg .b32 %r<10>; .reg .b64 %d<10>; .reg .pred %p<2>;\n\
             ld.param.u64 %d9, [out];\n{body} ret; }}"
        );
        let mut values = vec![out];
        values.extend((0..4).map(|at| inputs.get(at).copied().unwrap_or(0)));
        let outcome = device.run(&kernel, [1, 1, 1], [1, 1, 1], 0, &values);
        outcome.unwrap_or_else(|error| panic!("{instruction}: {error}"));
        let found = device.read::<u64>(out, 1)[0];
        assert_eq!(found, *expected, "{instruction} {inputs:x?}: {found:#x}, not {expected:#x}");
    }
}
