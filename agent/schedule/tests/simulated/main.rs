//! The scheduler with a simulated rank. In every history of a group, each request gets exactly the tokens that it would
//! get alone, and nothing leaks.

mod histories;
mod rank;
mod scenarios;
mod stages;
mod world;
