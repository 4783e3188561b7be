//! A GPU for tests on machines that have none. It runs the PTX that nvcc made, on the CPU, a warp at a time, and reports
//! faults that a GPU would hide: accesses outside allocations, uses of freed memory, misaligned accesses, shared memory that
//! two warps use without a barrier between them, copies that are read before their wait, shuffles from inactive lanes,
//! divergent barriers and deadlocks.
//!
//! What it is not: fast, or exact in the last bit of approximate functions. It has no weak memory order.
//!
//! Path of a kernel: [`ptx`] cuts text into statements, [`compile`] makes operations with numbered registers, and [`run`]
//! carries them out in the [`memory`] of the device. [`isa`] has the instructions that compute.

pub mod compile;
pub mod foreign;
pub mod isa;
pub mod memory;
pub mod ptx;
pub mod run;
