//! The parts that models are made of. Tensor parallelism hides here: a model file does not know how many ranks there
//! are.

mod attention;
mod embedding;
mod linear;
mod mlp;
mod norm;
mod pass;

pub use attention::{Attention, AttentionOptions};
pub use embedding::{LmHead, VocabParallelEmbedding};
pub use linear::{ColumnParallelLinear, RowParallelLinear};
pub use mlp::GatedMlp;
pub use norm::{Residual, RmsNorm};
pub use pass::{Batch, Pass};
