//! The client APIs over real sockets.

mod common;
mod grpc;
mod http;
