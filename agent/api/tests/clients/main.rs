//! The client APIs over real sockets.

mod access;
mod common;
mod fields;
mod grpc;
mod http;
mod pages;
mod vllm;
