//! Conversions (`cvt`).

use super::scalar::{
    bf16_bits, bf16_of, downward, f16_bits, f16_of, f32_of, f64_of, flush, saturate, toward_zero, upward,
};
use super::{Compute, LANES, Modifiers, long, narrow, widen, word};

/// Returns the computation of a `cvt`.
pub(super) fn decode(modifiers: &Modifiers<'_>) -> Option<Compute> {
    let [.., to, from] = modifiers.0 else { return None };
    let (to, from) = (to.as_str(), from.as_str());
    let is_float = |kind: &str| kind.starts_with('f') || kind.starts_with("bf");
    match (is_float(from), is_float(to)) {
        (true, true) => from_float_to_float(modifiers, from, to),
        (true, false) => from_float_to_integer(modifiers, from, to),
        (false, true) => from_integer_to_float(from, to),
        (false, false) if modifiers.has("sat") => saturate_integer(from, to),
        (false, false) => from_integer_to_integer(from, to),
    }
}

/// Expands to `$make!(function)` with the function by which `.rni`, `.rmi`, `.rpi` or `.rzi` rounds.
macro_rules! rounded {
    ($modifiers:expr, $make:ident $(, $more:tt)*) => {
        match ["rni", "rmi", "rpi"].into_iter().find(|mode| $modifiers.has(mode)) {
            Some("rni") => $make!(f64::round_ties_even $(, $more)*),
            Some("rmi") => $make!(f64::floor $(, $more)*),
            Some("rpi") => $make!(f64::ceil $(, $more)*),
            _ => $make!(f64::trunc $(, $more)*),
        }
    };
}

fn from_float_to_float(modifiers: &Modifiers<'_>, from: &str, to: &str) -> Option<Compute> {
    let rounds_to_integer = ["rni", "rzi", "rmi", "rpi"].iter().any(|mode| modifiers.has(mode));
    if rounds_to_integer {
        return from_float_to_whole(modifiers, from, to);
    }
    if modifiers.has("sat") {
        return match (from, to) {
            ("f32", "f32") => Some(word!(|a| saturate(f32_of(a)))),
            _ => None,
        };
    }
    Some(match (from, to) {
        ("f32", "f32") if modifiers.has("ftz") => word!(|a| flush(f32_of(a)).to_bits()),
        ("f32", "f32") | ("f16", "f16") | ("bf16", "bf16") => word!(|a| a),
        ("f64", "f64") => long!(|a| a),
        ("f32", "f64") => widen!(|a| f64::from(f32_of(a)).to_bits()),
        ("f64", "f32") if modifiers.has("rz") => narrow!(|a| toward_zero(f64_of(a)).to_bits()),
        ("f64", "f32") if modifiers.has("rm") => narrow!(|a| downward(f64_of(a)).to_bits()),
        ("f64", "f32") if modifiers.has("rp") => narrow!(|a| upward(f64_of(a)).to_bits()),
        ("f64", "f32") => narrow!(|a| (f64_of(a) as f32).to_bits()),
        ("f16", "f32") => word!(|a| f16_of(a).to_bits()),
        ("bf16", "f32") => word!(|a| bf16_of(a).to_bits()),
        ("f16", "f64") => widen!(|a| f64::from(f16_of(a)).to_bits()),
        ("bf16", "f64") => widen!(|a| f64::from(bf16_of(a)).to_bits()),
        _ if !modifiers.has("rn") => return None,
        ("f32", "f16") => word!(|a| f16_bits(f32_of(a).into())),
        ("f32", "bf16") => word!(|a| bf16_bits(f32_of(a).into())),
        ("f64", "f16") => narrow!(|a| f16_bits(f64_of(a))),
        ("f64", "bf16") => narrow!(|a| bf16_bits(f64_of(a))),
        // The first operand goes to the upper half.
        ("f32", "f16x2") => word!(|a, b| f16_bits(f32_of(a).into()) << 16 | f16_bits(f32_of(b).into())),
        ("f32", "bf16x2") => word!(|a, b| bf16_bits(f32_of(a).into()) << 16 | bf16_bits(f32_of(b).into())),
        _ => return None,
    })
}

/// Rounds a float to an integral float.
fn from_float_to_whole(modifiers: &Modifiers<'_>, from: &str, to: &str) -> Option<Compute> {
    macro_rules! of_f32 {
        ($round:expr) => {
            word!(|a| ($round(f64::from(f32_of(a))) as f32).to_bits())
        };
    }
    macro_rules! of_f64 {
        ($round:expr) => {
            long!(|a| $round(f64_of(a)).to_bits())
        };
    }
    Some(match (from, to) {
        ("f32", "f32") => rounded!(modifiers, of_f32),
        ("f64", "f64") => rounded!(modifiers, of_f64),
        _ => return None,
    })
}

/// Rounds a float to an integer. Numbers beyond the type become its ends, and a NaN becomes 0.
fn from_float_to_integer(modifiers: &Modifiers<'_>, from: &str, to: &str) -> Option<Compute> {
    // Small integers keep their sign in the upper bits of the word.
    macro_rules! word_to_word {
        ($round:expr, $of:ident, $type:ident) => {
            word!(|a| $round(f64::from($of(a))) as $type as i32 as u32)
        };
    }
    macro_rules! word_to_long {
        ($round:expr, $of:ident, $type:ident) => {
            widen!(|a| $round(f64::from($of(a))) as $type as u64)
        };
    }
    macro_rules! long_to_word {
        ($round:expr, $type:ident) => {
            narrow!(|a| $round(f64_of(a)) as $type as i32 as u32)
        };
    }
    macro_rules! long_to_long {
        ($round:expr, $type:ident) => {
            long!(|a| $round(f64_of(a)) as $type as u64)
        };
    }
    macro_rules! of_word {
        ($of:ident) => {
            match to {
                "s8" => rounded!(modifiers, word_to_word, $of, i8),
                "u8" => rounded!(modifiers, word_to_word, $of, u8),
                "s16" => rounded!(modifiers, word_to_word, $of, i16),
                "u16" => rounded!(modifiers, word_to_word, $of, u16),
                "s32" => rounded!(modifiers, word_to_word, $of, i32),
                "u32" => rounded!(modifiers, word_to_word, $of, u32),
                "s64" => rounded!(modifiers, word_to_long, $of, i64),
                "u64" => rounded!(modifiers, word_to_long, $of, u64),
                _ => return None,
            }
        };
    }
    Some(match from {
        "f32" => of_word!(f32_of),
        "f16" => of_word!(f16_of),
        "bf16" => of_word!(bf16_of),
        "f64" => match to {
            "s32" => rounded!(modifiers, long_to_word, i32),
            "u32" => rounded!(modifiers, long_to_word, u32),
            "s64" => rounded!(modifiers, long_to_long, i64),
            "u64" => rounded!(modifiers, long_to_long, u64),
            _ => return None,
        },
        _ => return None,
    })
}

fn from_integer_to_float(from: &str, to: &str) -> Option<Compute> {
    macro_rules! of_word {
        ($type:ident) => {
            match to {
                "f32" => word!(|a| (a as $type as f32).to_bits()),
                "f64" => widen!(|a| f64::from(a as $type).to_bits()),
                "f16" => word!(|a| f16_bits(f64::from(a as $type))),
                "bf16" => word!(|a| bf16_bits(f64::from(a as $type))),
                _ => return None,
            }
        };
    }
    macro_rules! of_long {
        ($type:ident) => {
            match to {
                "f32" => narrow!(|a| (a as $type as f32).to_bits()),
                "f64" => long!(|a| (a as $type as f64).to_bits()),
                _ => return None,
            }
        };
    }
    Some(match from {
        "u8" => of_word!(u8),
        "s8" => of_word!(i8),
        "u16" => of_word!(u16),
        "s16" => of_word!(i16),
        "u32" => of_word!(u32),
        "s32" => of_word!(i32),
        "u64" => of_long!(u64),
        "s64" => of_long!(i64),
        _ => return None,
    })
}

fn from_integer_to_integer(from: &str, to: &str) -> Option<Compute> {
    // A narrower type cuts the number off, and then its sign or zeros fill the word.
    macro_rules! of_word {
        ($type:ident) => {
            match to {
                "u8" => word!(|a| u32::from(a as $type as u8)),
                "s8" => word!(|a| a as $type as i8 as i32 as u32),
                "u16" => word!(|a| u32::from(a as $type as u16)),
                "s16" => word!(|a| a as $type as i16 as i32 as u32),
                "u32" | "s32" => word!(|a| a as $type as i32 as u32),
                "u64" | "s64" => widen!(|a| a as $type as i64 as u64),
                _ => return None,
            }
        };
    }
    Some(match from {
        "u8" => of_word!(u8),
        "s8" => of_word!(i8),
        "u16" => of_word!(u16),
        "s16" => of_word!(i16),
        "u32" => of_word!(u32),
        "s32" => of_word!(i32),
        "u64" | "s64" => match to {
            "u8" => narrow!(|a| u32::from(a as u8)),
            "s8" => narrow!(|a| a as i8 as i32 as u32),
            "u16" => narrow!(|a| u32::from(a as u16)),
            "s16" => narrow!(|a| a as i16 as i32 as u32),
            "u32" | "s32" => narrow!(|a| a as u32),
            "u64" | "s64" => long!(|a| a),
            _ => return None,
        },
        _ => return None,
    })
}

/// Clamps an integer to the ends of the type.
fn saturate_integer(from: &str, to: &str) -> Option<Compute> {
    Some(match (from, to) {
        ("s32", "s8") => word!(|a| (a as i32).clamp(-128, 127) as u32),
        ("s32", "u8") => word!(|a| (a as i32).clamp(0, 255) as u32),
        ("s32", "s16") => word!(|a| (a as i32).clamp(-32768, 32767) as u32),
        ("s32", "u16") => word!(|a| (a as i32).clamp(0, 65535) as u32),
        _ => return None,
    })
}
