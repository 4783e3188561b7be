//! The schedule against a simulated rank: whatever happens to a group, every request gets the tokens that it gets
//! alone, once, and nothing leaks.

mod histories;
mod rank;
mod scenarios;
mod stages;
mod world;
