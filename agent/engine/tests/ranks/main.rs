//! Whole ranks, as threads over the in-memory transport: parity with transformers, loading, losses.

mod builtin;
mod common;
mod faults;
mod loading;
mod parity;
