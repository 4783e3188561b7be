//! Sums of parts, in the order of the ranks.

use std::ffi::c_int;

use half::{bf16, f16};

/// Way in which parts are combined (`ncclRedOp_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Combine {
    Sum,
    Max,
    Min,
}

impl Combine {
    pub(crate) fn parse(operation: c_int) -> Option<Self> {
        match operation {
            0 => Some(Self::Sum),
            2 => Some(Self::Max),
            3 => Some(Self::Min),
            _ => None,
        }
    }
}

/// Returns the size of a number (`ncclDataType_t`).
pub(crate) fn number_size(kind: c_int) -> Option<usize> {
    Some(match kind {
        0 | 1 => 1,
        6 | 9 => 2,
        2 | 3 | 7 => 4,
        4 | 5 | 8 => 8,
        _ => return None,
    })
}

/// Combines parts of one length. Returns `None` for a type without sums, or for parts of other lengths.
pub(crate) fn combine(kind: c_int, combine: Combine, parts: &[&[u8]]) -> Option<Vec<u8>> {
    let size = number_size(kind)?;
    let length = parts.first()?.len();
    if parts.iter().any(|part| part.len() != length) || !length.is_multiple_of(size) {
        return None;
    }
    macro_rules! fold {
        ($type:ty, $read:expr, $write:expr) => {
            (0..length)
                .step_by(size)
                .flat_map(|at| {
                    let numbers = parts.iter().map(|part| {
                        let mut bytes = [0; size_of::<$type>()];
                        bytes.copy_from_slice(&part[at..at + size]);
                        $read(<$type>::from_le_bytes(bytes))
                    });
                    let result = numbers.reduce(|a, b| match combine {
                        Combine::Sum => a + b,
                        Combine::Max => {
                            if b > a {
                                b
                            } else {
                                a
                            }
                        }
                        Combine::Min => {
                            if b < a {
                                b
                            } else {
                                a
                            }
                        }
                    });
                    result.map(|result| <$type>::to_le_bytes($write(result)).to_vec()).unwrap_or_default()
                })
                .collect()
        };
    }
    // Integers wrap around, as on a device.
    use std::num::Wrapping;
    Some(match kind {
        2 => fold!(i32, Wrapping, |sum: Wrapping<i32>| sum.0),
        3 => fold!(u32, Wrapping, |sum: Wrapping<u32>| sum.0),
        4 => fold!(i64, Wrapping, |sum: Wrapping<i64>| sum.0),
        5 => fold!(u64, Wrapping, |sum: Wrapping<u64>| sum.0),
        6 => fold!(f16, f16::to_f32, f16::from_f32),
        7 => fold!(f32, |value: f32| value, |value: f32| value),
        8 => fold!(f64, |value: f64| value, |value: f64| value),
        9 => fold!(bf16, bf16::to_f32, bf16::from_f32),
        _ => return None,
    })
}
