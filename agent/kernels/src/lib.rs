//! Compute kernels behind safe functions on candle tensors.
//!
//! Every function checks shapes, dtypes, device and contiguity, then dispatches on the device: CPU
//! tensors go to kernels written for the instruction set of the [`Context`], all others to the
//! [`plain`] twin made of candle operations, which is also what the tests compare with.
//! Activations are f32, contiguous. All `unsafe` compute of the agent is in this crate.

mod attention;
mod buffer;
mod check;
mod context;
mod embedding;
mod error;
mod gated;
mod host;
mod isa;
mod matrix;
mod mix;
mod norm;
mod pool;
mod rotary;
mod rows;
mod sampling;
mod shared;
mod simd;
mod soft_cap;

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod plain;

pub use attention::{AttentionParams, AttentionSeq, KvCache, paged_attention};
pub use context::Context;
pub use embedding::{embedding, embedding_of};
pub use error::{Error, Result};
pub use gated::{Activation, gated_mul};
pub use isa::Isa;
pub use matrix::{BlockFormat, Matrix, linear};
pub use mix::mix_rows;
pub use norm::{add_rms_norm, rms_norm};
pub use pool::ThreadPool;
pub use rotary::{RotaryTable, rotary};
pub use sampling::{argmax, gumbel_argmax, log_sum_exp, top_k, uniform};
pub use soft_cap::soft_cap;
