//! Collective operations between the ranks of one group.
//!
//! Every result is bit-identical on all ranks: sums are taken in rank order whatever the transport and the size.

pub mod communicator;

pub use communicator::{Aborter, CollectiveError, Communicator, Group, Slice, SliceMut};
