//! Compute kernels behind safe functions on candle tensors.
//!
//! Every function checks shapes, dtypes, device and contiguity. Then it calls a kernel for the instruction set of the
//! [`Context`], or, on devices without kernels, the [`plain`] function of the same name, which is made of candle
//! operations. The tests compare kernels with the plain functions. Activations are f32, contiguous. All `unsafe`
//! compute of the agent is in this crate.

mod activation;
mod allocator;
mod attention;
mod buffer;
mod check;
mod context;
mod embedding;
mod error;
mod gated;
mod host;
mod isa;
mod linear;
mod matrix;
mod mix;
mod norm;
mod paged_attention;
mod pool;
mod rotary;
mod rotary_table;
mod rows;
mod sampling;
mod shared_slice;
mod simd;
mod soft_cap;

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod plain;

pub use activation::Activation;
pub use allocator::release_free_memory;
pub use attention::{AttentionParams, AttentionSeq, KvCache};
pub use context::Context;
pub use embedding::{embedding, embedding_from_matrix};
pub use error::{Error, Result};
pub use gated::gated_mul;
pub use isa::Isa;
pub use linear::linear;
pub use matrix::{BlockFormat, Code, CodedWeight, Matrix};
pub use mix::mix_rows;
pub use norm::{add_rms_norm, rms_norm};
pub use paged_attention::paged_attention;
pub use pool::ThreadPool;
pub use rotary::rotary;
pub use rotary_table::RotaryTable;
pub use sampling::{argmax, gumbel_argmax, log_sum_exp, top_k, uniform};
pub use soft_cap::soft_cap;
