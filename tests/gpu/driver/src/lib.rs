//! CUDA's driver API (CUDA 13, the part that cudarc and candle call) over the emulated GPU.
//!
//! Each stream has a thread, so work is as asynchronous as on a GPU. The driver also finds what a GPU would hide: a stream that
//! uses memory which another stream may still be using, memory of a device without peer access, an allocation inside of a
//! capture, a double free. Such a fault is printed on standard error, and the context keeps its error, as on a GPU.
//!
//! Settings, by the environment of the process: `EMULATED_GPU_DEVICES` (number of devices, default 1; a test may call
//! `emulatedGpuSetDevices` instead), `EMULATED_GPU_MEMORY` (bytes of each device, default 4 GiB), `EMULATED_GPU_SEED` (order
//! of warps), `EMULATED_GPU_REPORT` (file for the numbers of calls and instructions, written when the process ends).

mod api;
mod context;
mod graph;
mod module;
mod order;
mod pointer;
mod report;
mod status;
mod stream;
pub mod testing;

pub use context::emulatedGpuSetDevices;
pub use report::{emulatedGpuCount, emulatedGpuFaults};
pub use status::Status;
