//! The client APIs over real sockets.

mod access;
mod common;
mod fields;
mod grpc;
mod http;
mod messages;
mod pages;
mod responses;
mod vllm;
