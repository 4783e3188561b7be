//! The node agent as a library; the binary is a thin shell over it.

#![forbid(unsafe_code)]

pub mod service;
