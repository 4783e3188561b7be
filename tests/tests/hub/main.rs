//! Models from a hub on loopback: the files that a client fetches, the answers that it refuses, and a group that serves
//! a model.

mod downloads;
mod faults;
mod gguf;
mod group;
