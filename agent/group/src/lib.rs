//! The life of a group: what the head and its nodes decide.
//!
//! Everything here has one form: the time now and one input go in, and outputs come out. Nothing here reads a clock, owns a
//! socket, a channel, a thread or a process, or waits. Thin shells in the agent's program do that, and a simulator can.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

pub mod head;
pub mod node;
mod own_pause;
pub mod wire;
