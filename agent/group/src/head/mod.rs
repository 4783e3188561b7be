//! The head's decisions. Start reading at [`Driver`]: it owns the group and the schedule.

mod addresses;
mod admission;
mod clients;
mod driver;
mod group;
mod member;
mod own_ranks;
mod status;
mod suspects;
#[cfg(test)]
mod testing;

pub use driver::{Driver, DriverConfig, Input, Output, StreamEnd};
pub use group::GroupConfig;
pub use own_ranks::{OwnRanks, OwnRanksAction};
