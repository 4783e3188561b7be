//! Whole ranks, as threads over the in-memory transport: parity with transformers, loading, faults.

mod builtin;
mod common;
mod faults;
mod gguf;
mod loading;
mod matrix;
mod metadata;
mod packed;
mod parity;
mod placement;
mod prompts;
mod reference;
mod stages;
