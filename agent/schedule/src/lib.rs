//! The head's brain, without a tensor: it sees plain numbers, does no I/O and reads no clock of its own.

#![forbid(unsafe_code)]

pub mod plan;
