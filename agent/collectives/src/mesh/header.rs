//! The header of each operation on a link: 16 bytes. Both ends must be in the same call with the same size.
//!
//! Layout, little-endian: `u32` count of operations on this direction of the link, `u8` operation, `u8` element type
//! (0 for none), `u16` zero, `u64` bytes of the operation.

use crate::dtype::Dtype;
use crate::error::CollectiveError;

pub(crate) const HEADER_BYTES: usize = 16;

/// Call on which both ends of a link must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) kind: OperationKind,
    pub(crate) dtype: Option<Dtype>,
    pub(crate) bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OperationKind {
    AllReduceSum = 1,
    AllGather = 2,
    Broadcast = 3,
    Send = 4,
    Barrier = 5,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) operation: Operation,
    pub(crate) count: u32,
}

impl Header {
    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        bytes[4] = self.operation.kind as u8;
        bytes[5] = self.operation.dtype.map_or(0, |dtype| dtype as u8);
        bytes[8..].copy_from_slice(&(self.operation.bytes as u64).to_le_bytes());
        bytes
    }

    /// Checks that a peer sent the expected header. The error describes both headers.
    pub(crate) fn check(
        rank: usize,
        expected: &[u8; HEADER_BYTES],
        received: &[u8; HEADER_BYTES],
    ) -> Result<(), CollectiveError> {
        if expected == received {
            return Ok(());
        }
        let reason =
            format!("this rank is in {}, that rank in {}", describe_header(expected), describe_header(received));
        Err(CollectiveError::Mismatch { rank, reason })
    }
}

fn describe_header(bytes: &[u8; HEADER_BYTES]) -> String {
    let count = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let size = bytes[8..].iter().rev().fold(0u64, |size, &byte| size << 8 | u64::from(byte));
    let kind = match bytes[4] {
        1 => "all_reduce_sum",
        2 => "all_gather",
        3 => "broadcast",
        4 => "send",
        5 => "barrier",
        _ => "an unknown operation",
    };
    let dtype = match bytes[5] {
        1 => " of f32",
        2 => " of bf16",
        3 => " of f16",
        4 => " of i32",
        5 => " of u32",
        _ => "",
    };
    format!("call {count}, {kind}{dtype}, {size} bytes")
}
