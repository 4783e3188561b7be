//! The node agent as a library; the binary is a thin shell over it.

#![forbid(unsafe_code)]

pub mod auth;
pub mod bench;
pub mod chat;
mod clock;
pub mod config;
pub mod grammar;
pub mod grpc;
pub mod head;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod node;
pub mod output;
mod progress;
pub mod serve;
pub mod service;
pub mod session;
pub mod signals;
mod small_file;
pub mod text;
pub mod tls;
pub mod wire;
