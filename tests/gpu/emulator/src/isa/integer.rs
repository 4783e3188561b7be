//! Integer arithmetic, logic and moves.

use super::{Compute, LANES, Modifiers, long, narrow, shift, widen, word};

/// Makes a computation of two integers `a` and `b` of type `T`, for each type.
macro_rules! integer2 {
    ($kind:expr, |$a:ident, $b:ident: $t:ident| $result:expr) => {
        match $kind {
            "u16" | "b16" => integer2!(word u16 as u16, |$a, $b: $t| $result),
            "s16" => integer2!(word i16 as u16, |$a, $b: $t| $result),
            "u32" | "b32" => integer2!(word u32 as u32, |$a, $b: $t| $result),
            "s32" => integer2!(word i32 as u32, |$a, $b: $t| $result),
            "u64" | "b64" => long!(|x, y| {
                type $t = u64;
                let ($a, $b) = (x, y);
                $result
            }),
            "s64" => long!(|x, y| {
                type $t = i64;
                let ($a, $b) = (x as $t, y as $t);
                ($result) as u64
            }),
            _ => return None,
        }
    };
    (word $type:ident as $bits:ident, |$a:ident, $b:ident: $t:ident| $result:expr) => {
        word!(|x, y| {
            type $t = $type;
            let ($a, $b) = (x as $t, y as $t);
            u32::from(($result) as $bits)
        })
    };
}

/// Returns the computation of an operation on integers or bits.
pub(super) fn decode(operation: &str, modifiers: &Modifiers<'_>) -> Option<Compute> {
    let kind = modifiers.kind();
    if modifiers.has("cc") {
        return None;
    }
    Some(match operation {
        "mov" | "cvta" => match kind {
            "b16" | "u16" | "s16" | "b32" | "u32" | "s32" | "f32" | "f16" | "bf16" => word!(|a| a),
            "b64" | "u64" | "s64" | "f64" => long!(|a| a),
            _ => return None,
        },
        "add" => integer2!(kind, |a, b: T| T::wrapping_add(a, b)),
        "sub" => integer2!(kind, |a, b: T| T::wrapping_sub(a, b)),
        "mul" | "mad" if modifiers.has("wide") => return decode_wide(operation, kind),
        "mul" | "mad" if modifiers.has("hi") => return decode_high(operation, kind),
        "mul" if modifiers.has("lo") => integer2!(kind, |a, b: T| T::wrapping_mul(a, b)),
        "mad" if modifiers.has("lo") => match kind {
            "u16" | "s16" => word!(|a, b, c| (a.wrapping_mul(b).wrapping_add(c)) & 0xffff),
            "u32" | "s32" => word!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            "u64" | "s64" => long!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            _ => return None,
        },
        // A GPU returns all ones for a division by zero.
        "div" => integer2!(kind, |a, b: T| if b == 0 { !(0 as T) } else { T::wrapping_div(a, b) }),
        "rem" => integer2!(kind, |a, b: T| if b == 0 { a } else { T::wrapping_rem(a, b) }),
        "min" => integer2!(kind, |a, b: T| T::min(a, b)),
        "max" => integer2!(kind, |a, b: T| T::max(a, b)),
        "and" => integer2!(kind, |a, b: T| T::from(a & b)),
        "or" => integer2!(kind, |a, b: T| T::from(a | b)),
        "xor" => integer2!(kind, |a, b: T| T::from(a ^ b)),
        "neg" | "abs" | "not" | "cnot" => return decode_one(operation, kind),
        "shl" | "shr" => return decode_shift(operation, kind),
        "shf" => return decode_funnel(modifiers),
        "dp4a" => {
            let is_signed = |at: usize| modifiers.0.get(at).is_some_and(|kind| kind == "s32");
            decode_dp4a(is_signed(0), is_signed(1))
        }
        _ => return decode_bits(operation, kind),
    })
}

fn decode_wide(operation: &str, kind: &str) -> Option<Compute> {
    Some(match (operation, kind) {
        ("mul", "u16") => word!(|a, b| (a & 0xffff) * (b & 0xffff)),
        ("mul", "s16") => word!(|a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32),
        ("mul", "u32") => widen!(|a, b, _c| u64::from(a) * u64::from(b)),
        ("mul", "s32") => widen!(|a, b, _c| (i64::from(a as i32) * i64::from(b as i32)) as u64),
        ("mad", "u16") => word!(|a, b, c| ((a & 0xffff) * (b & 0xffff)).wrapping_add(c)),
        ("mad", "s16") => word!(|a, b, c| ((i32::from(a as i16) * i32::from(b as i16)) as u32).wrapping_add(c)),
        ("mad", "u32") => widen!(|a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c)),
        ("mad", "s32") => widen!(|a, b, c| ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)),
        _ => return None,
    })
}

fn decode_high(operation: &str, kind: &str) -> Option<Compute> {
    Some(match (operation, kind) {
        ("mul", "u32") => word!(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        ("mul", "s32") => word!(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
        ("mad", "u32") => word!(|a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        ("mad", "s32") => {
            word!(|a, b, c| (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c))
        }
        ("mul", "u64") => long!(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ("mul", "s64") => long!(|a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        _ => return None,
    })
}

fn decode_one(operation: &str, kind: &str) -> Option<Compute> {
    Some(match (operation, kind) {
        ("neg", "s16") => word!(|a| u32::from((a as u16).wrapping_neg())),
        ("neg", "s32") => word!(|a| a.wrapping_neg()),
        ("neg", "s64") => long!(|a| a.wrapping_neg()),
        ("abs", "s16") => word!(|a| u32::from((a as i16).unsigned_abs())),
        ("abs", "s32") => word!(|a| (a as i32).unsigned_abs()),
        ("abs", "s64") => long!(|a| (a as i64).unsigned_abs()),
        ("not", "b16") => word!(|a| !a & 0xffff),
        ("not", "b32") => word!(|a| !a),
        ("not", "b64") => long!(|a| !a),
        ("cnot", "b32") => word!(|a| u32::from(a == 0)),
        _ => return None,
    })
}

/// Shifts by at least the width give 0, or the sign.
fn decode_shift(operation: &str, kind: &str) -> Option<Compute> {
    Some(match (operation, kind) {
        ("shl", "b16") => word!(|a, b| if b >= 16 { 0 } else { (a << b) & 0xffff }),
        ("shl", "b32") => word!(|a, b| a.checked_shl(b).unwrap_or(0)),
        ("shl", "b64") => shift!(|a, b| a.checked_shl(b).unwrap_or(0)),
        ("shr", "b16" | "u16") => word!(|a, b| if b >= 16 { 0 } else { (a & 0xffff) >> b }),
        ("shr", "s16") => word!(|a, b| u32::from(((a as i16) >> b.min(15)) as u16)),
        ("shr", "b32" | "u32") => word!(|a, b| a.checked_shr(b).unwrap_or(0)),
        ("shr", "s32") => word!(|a, b| ((a as i32) >> b.min(31)) as u32),
        ("shr", "b64" | "u64") => shift!(|a, b| a.checked_shr(b).unwrap_or(0)),
        ("shr", "s64") => shift!(|a, b| ((a as i64) >> b.min(63)) as u64),
        _ => return None,
    })
}

/// Shifts of two words as one long. `a` is its low half.
fn decode_funnel(modifiers: &Modifiers<'_>) -> Option<Compute> {
    Some(match (modifiers.has("l"), modifiers.has("clamp")) {
        (true, false) => word!(|a, b, c| ((join(a, b) << (c & 31)) >> 32) as u32),
        (true, true) => word!(|a, b, c| ((join(a, b) << c.min(32)) >> 32) as u32),
        (false, false) => word!(|a, b, c| (join(a, b) >> (c & 31)) as u32),
        (false, true) => word!(|a, b, c| (join(a, b) >> c.min(32)) as u32),
    })
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn decode_bits(operation: &str, kind: &str) -> Option<Compute> {
    Some(match (operation, kind) {
        ("clz", "b32") => word!(|a| a.leading_zeros()),
        ("clz", "b64") => narrow!(|a| a.leading_zeros()),
        ("popc", "b32") => word!(|a| a.count_ones()),
        ("popc", "b64") => narrow!(|a| a.count_ones()),
        ("brev", "b32") => word!(|a| a.reverse_bits()),
        ("brev", "b64") => long!(|a| a.reverse_bits()),
        ("bfind", "u32") => word!(|a| a.checked_ilog2().unwrap_or(u32::MAX)),
        ("prmt", "b32") => word!(|a, b, c| permute_bytes(join(a, b), c)),
        ("bfe", "u32") => word!(|a, b, c| extract_bits(a, b & 255, c & 255)),
        ("bfe", "s32") => word!(|a, b, c| extract_signed(a, b & 255, c & 255)),
        _ => return None,
    })
}

/// Picks four of eight bytes (`prmt.b32` in its default mode). Bit 3 of a selector spreads the byte's sign.
fn permute_bytes(bytes: u64, selectors: u32) -> u32 {
    (0..4).fold(0, |result, at| {
        let selector = selectors >> (4 * at) & 15;
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        let byte = if selector & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        result | u32::from(byte) << (8 * at)
    })
}

fn extract_bits(value: u32, start: u32, count: u32) -> u32 {
    let mask = if count >= 32 { u32::MAX } else { (1 << count) - 1 };
    value.checked_shr(start).unwrap_or(0) & mask
}

/// Bits above the field get the sign of its last bit, or of the value's last bit if the field reaches beyond that.
fn extract_signed(value: u32, start: u32, count: u32) -> u32 {
    if count == 0 {
        return 0;
    }
    let sign = value >> (start + count - 1).min(31) & 1;
    let field = extract_bits(value, start, count);
    let above = if count >= 32 { 0 } else { u32::MAX << count };
    let missing = if start + count > 32 { !(u32::MAX.checked_shr(start).unwrap_or(0)) } else { 0 };
    if sign == 1 { field | above | missing } else { field }
}

/// Returns `dp4a`: the sum of `c` and the products of the bytes of `a` and `b`.
fn decode_dp4a(first_is_signed: bool, second_is_signed: bool) -> Compute {
    match (first_is_signed, second_is_signed) {
        (true, true) => word!(|a, b, c| dot_bytes(a, b, c, |a| i32::from(a as i8), |b| i32::from(b as i8))),
        (true, false) => word!(|a, b, c| dot_bytes(a, b, c, |a| i32::from(a as i8), i32::from)),
        (false, true) => word!(|a, b, c| dot_bytes(a, b, c, i32::from, |b| i32::from(b as i8))),
        (false, false) => word!(|a, b, c| dot_bytes(a, b, c, i32::from, i32::from)),
    }
}

fn dot_bytes(a: u32, b: u32, c: u32, first: fn(u8) -> i32, second: fn(u8) -> i32) -> u32 {
    let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes()).map(|(a, b)| first(a) * second(b));
    products.fold(c as i32, i32::wrapping_add) as u32
}
