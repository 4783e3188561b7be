//! Operands of instructions.

use super::PtxError;

/// An operand as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// Name of a register, a variable, a label or a function.
    Name(String),
    /// Bits of an integer, of an `f32` (`0f…`) or of an `f64` (`0d…`).
    Number(u64),
    /// Address in memory: a base and an offset in bytes.
    Address(Box<Operand>, i64),
    /// Several registers, `{a, b}`, or arguments of a call, `(a, b)`.
    Vector(Vec<Operand>),
    /// A register and a predicate, `d|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `_`: the result is not wanted.
    Sink,
}

impl Operand {
    /// Returns the bits of a number.
    #[must_use]
    pub fn bits(&self) -> Option<u64> {
        match self {
            Self::Number(bits) => Some(*bits),
            _ => None,
        }
    }
}

/// Parses a comma-separated list of operands.
///
/// # Errors
/// Names an operand that cannot be read.
pub fn parse_operands(text: &str) -> Result<Vec<Operand>, PtxError> {
    split_list(text).into_iter().map(|operand| parse_operand(operand.trim())).collect()
}

fn split_list(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn parse_operand(text: &str) -> Result<Operand, PtxError> {
    let inside = |open: char, close: char| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    if let Some(list) = inside('{', '}').or_else(|| inside('(', ')')) {
        return parse_operands(list).map(Operand::Vector);
    }
    if let Some(address) = inside('[', ']') {
        let (base, offset) = match address.split_once('+') {
            Some((base, offset)) => (base, parse_number(offset.trim())),
            None => (address, Some(0)),
        };
        let offset = offset.ok_or_else(|| PtxError::new("an offset that is no number", text))?;
        return Ok(Operand::Address(Box::new(parse_operand(base.trim())?), offset.cast_signed()));
    }
    if let Some((first, second)) = text.split_once('|') {
        return Ok(Operand::Pair(Box::new(parse_operand(first.trim())?), Box::new(parse_operand(second.trim())?)));
    }
    if text == "_" {
        return Ok(Operand::Sink);
    }
    if let Some(number) = parse_number(text) {
        return Ok(Operand::Number(number));
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.' | b'!');
    if text.is_empty() || !text.bytes().all(is_name) {
        return Err(PtxError::new("an operand that cannot be read", text));
    }
    Ok(Operand::Name(text.into()))
}

/// Parses a constant (PTX ISA, 4.5): decimal, hexadecimal, octal and binary integers, and the bits of floats.
fn parse_number(text: &str) -> Option<u64> {
    if let Some(bits) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return u64::from_str_radix(bits, 16).ok();
    }
    if let Some(bits) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        return u64::from_str_radix(bits, 16).ok();
    }
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let digits = digits.trim_end_matches('U');
    let number = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()?
    } else if let Some(binary) = digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")) {
        u64::from_str_radix(binary, 2).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(if is_negative { number.wrapping_neg() } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_manual_says() {
        for (text, bits) in [
            ("7", 7),
            ("-1", u64::MAX),
            ("0xffU", 255),
            ("-0x10", 16_u64.wrapping_neg()),
            ("0b101", 5),
            ("017", 15),
            ("0f3F800000", 0x3f80_0000),
            ("0d3FF0000000000000", 0x3ff0_0000_0000_0000),
        ] {
            assert_eq!(parse_number(text), Some(bits), "{text}");
        }
    }

    #[test]
    fn operands_nest() {
        let operands = parse_operands("{%r1, %r2}, [%rd3+-16], %r4|%p1, _").unwrap();
        let name = |text: &str| Operand::Name(text.into());
        assert_eq!(operands[0], Operand::Vector(vec![name("%r1"), name("%r2")]));
        assert_eq!(operands[1], Operand::Address(Box::new(name("%rd3")), -16));
        assert_eq!(operands[2], Operand::Pair(Box::new(name("%r4")), Box::new(name("%p1"))));
        assert_eq!(operands[3], Operand::Sink);
        assert!(parse_operands("%r1, a b").is_err());
    }
}
