//! Groups of real processes on loopback. One binary, because linking each file by itself takes longer than its tests.

mod answers;
mod clients;
mod faults;
mod liars;
mod lines;
mod memory;
mod parity;
mod pipeline;
mod pods;
mod prompts;
mod refusals;
mod smollm2;
mod terminal;
mod up;
mod weights;
