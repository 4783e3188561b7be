//! The node agent as a library; the binary is a thin shell over it.

#![forbid(unsafe_code)]

pub mod auth;
pub mod bench;
pub mod chat;
mod clock;
pub mod config;
pub mod head;
pub mod node;
mod progress;
pub mod signals;
pub mod tls;
pub mod wire;
