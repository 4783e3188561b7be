//! A node's decisions. Start reading at [`Session`]: it carries out the head's messages and reports the ranks' events.

mod head_address;
mod head_silence;
mod reports;
mod session;
mod steps;

pub use head_address::HeadAddress;
pub use reports::{RankEvent, RankEventKind};
pub use session::{Input, Milestone, NodeEnd, Output, Session, SessionConfig, TICK};
