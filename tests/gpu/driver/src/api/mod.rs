//! The functions of the C interface. Each checks the context, and leaves the work to the other modules.

mod device;
mod execution;
mod foreign;
mod memory;
