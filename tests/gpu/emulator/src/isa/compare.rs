//! Comparisons (`setp`, `set`), as masks of lanes.

use super::scalar::{bf16_of, f16_of, f32_of, f64_of};
use super::{LANES, Longs, Words};

/// A comparison of two registers. Bit `i` of the result is that of lane `i`.
#[derive(Clone, Copy)]
pub enum Comparison {
    Words(fn(&Words, &Words) -> u32),
    Longs(fn(&Longs, &Longs) -> u32),
}

macro_rules! words {
    (|$a:ident, $b:ident| $result:expr) => {
        Comparison::Words(|x, y| {
            let mut mask = 0;
            for lane in 0..LANES {
                let ($a, $b) = (x[lane], y[lane]);
                mask |= u32::from($result) << lane;
            }
            mask
        })
    };
}

macro_rules! longs {
    (|$a:ident, $b:ident| $result:expr) => {
        Comparison::Longs(|x, y| {
            let mut mask = 0;
            for lane in 0..LANES {
                let ($a, $b) = (x[lane], y[lane]);
                mask |= u32::from($result) << lane;
            }
            mask
        })
    };
}

/// Makes a comparison of two numbers, for each type.
macro_rules! numbers {
    ($kind:expr, |$a:ident, $b:ident| $result:expr) => {
        match $kind {
            "u16" | "b16" => numbers!(words, u16, |$a, $b| $result),
            "s16" => numbers!(words, i16, |$a, $b| $result),
            "u32" | "b32" => numbers!(words, u32, |$a, $b| $result),
            "s32" => numbers!(words, i32, |$a, $b| $result),
            "u64" | "b64" => numbers!(longs, u64, |$a, $b| $result),
            "s64" => numbers!(longs, i64, |$a, $b| $result),
            _ => floats!($kind, |$a, $b| $result),
        }
    };
    ($make:ident, $type:ident, |$a:ident, $b:ident| $result:expr) => {
        $make!(|x, y| {
            let ($a, $b) = (x as $type, y as $type);
            $result
        })
    };
}

/// Makes a comparison of two floats, for each type.
macro_rules! floats {
    ($kind:expr, |$a:ident, $b:ident| $result:expr) => {
        match $kind {
            "f32" => floats!(words, f32_of, |$a, $b| $result),
            "f64" => floats!(longs, f64_of, |$a, $b| $result),
            "f16" => floats!(words, f16_of, |$a, $b| $result),
            "bf16" => floats!(words, bf16_of, |$a, $b| $result),
            _ => return None,
        }
    };
    ($make:ident, $of:ident, |$a:ident, $b:ident| $result:expr) => {
        $make!(|x, y| {
            let ($a, $b) = ($of(x), $of(y));
            $result
        })
    };
}

/// Returns the comparison that the first modifier names, for the type that the last one names.
#[must_use]
pub fn decode_comparison(modifiers: &[String]) -> Option<Comparison> {
    let kind = modifiers.last()?.as_str();
    let is_float = kind.starts_with('f') || kind.starts_with("bf");
    Some(match modifiers.first()?.as_str() {
        "eq" => numbers!(kind, |a, b| a == b),
        // For floats, only the unordered comparisons are true for a NaN.
        "ne" if is_float => floats!(kind, |a, b| a != b && !a.is_nan() && !b.is_nan()),
        "ne" => numbers!(kind, |a, b| a != b),
        "lt" | "lo" => numbers!(kind, |a, b| a < b),
        "le" | "ls" => numbers!(kind, |a, b| a <= b),
        "gt" | "hi" => numbers!(kind, |a, b| a > b),
        "ge" | "hs" => numbers!(kind, |a, b| a >= b),
        "equ" => floats!(kind, |a, b| a == b || a.is_nan() || b.is_nan()),
        "neu" => floats!(kind, |a, b| a != b),
        "ltu" => floats!(kind, |a, b| a < b || a.is_nan() || b.is_nan()),
        "leu" => floats!(kind, |a, b| a <= b || a.is_nan() || b.is_nan()),
        "gtu" => floats!(kind, |a, b| a > b || a.is_nan() || b.is_nan()),
        "geu" => floats!(kind, |a, b| a >= b || a.is_nan() || b.is_nan()),
        "num" => floats!(kind, |a, b| !a.is_nan() && !b.is_nan()),
        "nan" => floats!(kind, |a, b| a.is_nan() || b.is_nan()),
        _ => return None,
    })
}
