//! The layers that models are made of. Tensor parallelism hides here: a model file does not know how many ranks there
//! are.

mod attention;
mod embedding;
mod feed_forward;
mod linear;
mod mlp;
mod moe;
mod norm;
mod pass;
mod rotary;

pub use attention::Attention;
pub use embedding::{LmHead, VocabParallelEmbedding};
pub use feed_forward::FeedForward;
pub use linear::{ColumnParallelLinear, RowParallelLinear};
pub use mlp::{GatedMlp, MlpNames};
pub use moe::SparseMoe;
pub use norm::{Residual, RmsNorm};
pub use pass::{Batch, Pass};
pub use rotary::{RotaryEmbedding, RotaryTables};
