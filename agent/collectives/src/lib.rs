//! Collective operations between the ranks of one group.
//!
//! Every result is bit-identical on all ranks. Ranks add in rank order, for every transport and every size. Only NCCL
//! has an order of its own.

#![cfg_attr(not(feature = "nccl"), forbid(unsafe_code))]
#![cfg_attr(feature = "nccl", deny(unsafe_code))]

mod abort;
mod checks;
mod communicator;
#[cfg(feature = "nccl")]
mod device;
mod dtype;
mod error;
mod grid;
pub mod memory;
mod mesh;
#[cfg(feature = "nccl")]
pub mod nccl;
mod rank_group;
pub mod ring;
mod slice;
pub mod solo;
mod sum;
mod transport;

pub use abort::{AbortSwitch, Aborter};
pub use communicator::Communicator;
pub use dtype::Dtype;
pub use error::CollectiveError;
pub use grid::{Communicators, Grid};
pub use mesh::{Mesh, Tuning};
pub use rank_group::RankGroup;
pub use slice::{Slice, SliceMut};
