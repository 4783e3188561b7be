//! Values of metadata.

use super::reader::Reader;
use crate::EngineError;

/// One value. Arrays hold one kind of value. Arrays of arrays are in no known file, and refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Integer(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Integers(Vec<i32>),
    Floats(Vec<f32>),
    Strings(Vec<String>),
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Value {
    pub fn parse(reader: &mut Reader<'_>) -> Result<Self, EngineError> {
        match reader.u32()? {
            ARRAY => Self::read_array(reader),
            kind => Self::read_one(reader, kind),
        }
    }

    fn read_one(reader: &mut Reader<'_>, kind: u32) -> Result<Self, EngineError> {
        Ok(match kind {
            0 => Self::Integer(reader.array().map(u8::from_le_bytes)?.into()),
            1 => Self::Integer(reader.array().map(i8::from_le_bytes)?.into()),
            2 => Self::Integer(reader.array().map(u16::from_le_bytes)?.into()),
            3 => Self::Integer(reader.array().map(i16::from_le_bytes)?.into()),
            4 => Self::Integer(reader.u32()?.into()),
            5 => Self::Integer(reader.array().map(i32::from_le_bytes)?.into()),
            6 => Self::Float(reader.array().map(f32::from_le_bytes)?.into()),
            7 => Self::Bool(reader.array::<1>()? != [0]),
            STRING => Self::String(reader.string()?),
            10 => Self::Integer(i64::try_from(reader.u64()?).unwrap_or(i64::MAX)),
            11 => Self::Integer(reader.array().map(i64::from_le_bytes)?),
            12 => Self::Float(reader.array().map(f64::from_le_bytes)?),
            _ => return Err(reader.wrong(format!("values of type {kind} are not known"))),
        })
    }

    /// Reads an array. Its memory grows with the bytes read, which the file's size bounds.
    fn read_array(reader: &mut Reader<'_>) -> Result<Self, EngineError> {
        let kind = reader.u32()?;
        let length = reader.u64()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            STRING | 10..=12 => 8,
            _ => return Err(reader.wrong(format!("arrays of type {kind} are not read"))),
        };
        if length > reader.remaining() / least {
            return Err(reader.wrong(format!("an array of {length} values is longer than the rest of the header")));
        }
        let (mut strings, mut floats, mut integers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..length {
            match Self::read_one(reader, kind)? {
                Self::String(text) => strings.push(text),
                #[expect(clippy::cast_possible_truncation, reason = "scores need no more")]
                Self::Float(number) => floats.push(number as f32),
                Self::Integer(number) => integers.push(i32::try_from(number).unwrap_or(i32::MAX)),
                Self::Bool(flag) => integers.push(flag.into()),
                Self::Integers(_) | Self::Floats(_) | Self::Strings(_) => {}
            }
        }
        Ok(match kind {
            STRING => Self::Strings(strings),
            6 | 12 => Self::Floats(floats),
            _ => Self::Integers(integers),
        })
    }
}
