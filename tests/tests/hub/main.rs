//! Models of a hub, from a hub on loopback: what is fetched, what is refused, and a group that serves one.

mod downloads;
mod faults;
mod group;
