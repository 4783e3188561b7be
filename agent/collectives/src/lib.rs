//! Collective operations between the ranks of one group.
//!
//! Every result is bit-identical on all ranks: sums are taken in rank order whatever the transport and the size.

#![cfg_attr(not(feature = "nccl"), forbid(unsafe_code))]
#![cfg_attr(feature = "nccl", deny(unsafe_code))]

mod abort;
mod checks;
pub mod communicator;
mod dtype;
mod grid;
pub mod memory;
mod mesh;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod ring;
pub mod solo;
mod sum;
mod transport;

pub use abort::AbortSwitch;
pub use communicator::{Aborter, CollectiveError, Communicator, Group, Slice, SliceMut};
pub use dtype::Dtype;
pub use grid::{Communicators, Grid};
pub use mesh::{Mesh, Tuning};
