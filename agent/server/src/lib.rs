//! The node agent as a library; the binary is a thin shell over it.

#![forbid(unsafe_code)]

pub mod config;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod serve;
pub mod service;
pub mod session;
pub mod text;
