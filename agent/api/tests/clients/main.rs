//! The client APIs over real sockets.

mod common;
mod fields;
mod grpc;
mod http;
