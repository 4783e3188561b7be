//! The program `lockstep-agent` as a library: the roles of head and node. The binary is a thin shell over it.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

pub mod auth;
mod bench;
mod chat;
mod clock;
pub mod config;
mod control_runtime;
pub mod head;
pub mod list;
pub mod node;
mod progress;
pub mod signals;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod unusable;
