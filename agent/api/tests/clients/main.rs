//! The client APIs over real sockets.

mod access;
mod common;
mod fields;
mod grpc;
mod http;
mod messages;
mod operations;
mod pages;
mod refusals;
mod responses;
mod searches;
mod vllm;
