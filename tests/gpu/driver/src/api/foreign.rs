//! Work of the stand-ins for CUDA's other libraries, in the order of a stream (`lockstep_emulated_gpu::foreign`).

use std::ffi::c_void;
use std::sync::Arc;

use lockstep_emulated_gpu::foreign::ForeignUse;
use lockstep_emulated_gpu::run::Use;

use crate::context::DRIVER;
use crate::module::note_use;
use crate::pointer::{HostFunction, HostMemory, List, Text};
use crate::report::count;
use crate::status::Status;

/// Queues `function(data)` on a stream, by the name of what it does. The driver checks the memory as for a kernel. In a captured
/// stream, the function is called at each launch of the graph. So it must not free its data.
#[unsafe(no_mangle)]
extern "C" fn emulatedGpuSubmit(
    stream: usize,
    name: Text,
    uses: List<ForeignUse>,
    use_count: usize,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: HostMemory,
) -> Status {
    let Some(function) = function else { return Status::INVALID_VALUE };
    let call = HostFunction { function, data };
    let queued = DRIVER.stream(stream).and_then(|stream| {
        let (name, uses) = (name.read()?, uses.read(use_count));
        count(&name, 1);
        let mut ranges = Vec::new();
        for used in uses {
            let range = DRIVER.check(&stream.device, used.address, used.bytes, &name)?;
            ranges.push((range.start, Use { reads: used.reads, writes: used.writes }));
        }
        stream.submit(Arc::new(move |ticket| {
            ranges.iter().try_for_each(|(start, used)| note_use(*start, *used, ticket, &name))?;
            call.call();
            Ok(())
        }))
    });
    queued.into()
}
