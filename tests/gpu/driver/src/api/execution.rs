//! Streams, events, graphs, modules and launches.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use crate::context::DRIVER;
use crate::graph::Graph;
use crate::module::{LoadedModule, Shape, launch};
use crate::pointer::{Arguments, HostFunction, HostMemory, Out, Text};
use crate::report::count;
use crate::status::Status;
use crate::stream::{Event, Stream};

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: Out<usize>, _flags: c_uint) -> Status {
    let made = DRIVER.current().map(|device| DRIVER.streams.add(Stream::new(device.clone())));
    made.and_then(|handle| stream.put(handle)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(stream: Out<usize>, flags: c_uint, _priority: c_int) -> Status {
    cuStreamCreate(stream, flags)
}

/// The stream's work goes on to its end.
#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: usize) -> Status {
    DRIVER.streams.remove(stream).map(drop).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> Status {
    count("cuStreamSynchronize", 1);
    DRIVER.stream(stream).and_then(|stream| stream.synchronize()).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: usize) -> Status {
    match DRIVER.stream(stream) {
        Ok(stream) => match stream.device.error() {
            Some(error) => error,
            None if stream.is_idle() => Status::SUCCESS,
            None => Status::NOT_READY,
        },
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) -> Status {
    count("cuStreamWaitEvent", 1);
    let (stream, event) = (DRIVER.stream(stream), DRIVER.events.get(event));
    stream.and_then(|stream| event?.hold_up(&stream)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: HostMemory,
) -> Status {
    let Some(function) = function else { return Status::INVALID_VALUE };
    let call = HostFunction { function, data };
    let queued = DRIVER.stream(stream).and_then(|stream| {
        stream.submit(Arc::new(move |_| {
            call.call();
            Ok(())
        }))
    });
    queued.into()
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: usize, status: Out<c_uint>) -> Status {
    DRIVER.stream(stream).and_then(|stream| status.put(stream.is_capturing().into())).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: usize, _mode: c_uint) -> Status {
    DRIVER.stream(stream).and_then(|stream| stream.begin_capture()).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: usize, graph: Out<usize>) -> Status {
    let captured = DRIVER.stream(stream).and_then(|stream| stream.end_capture());
    captured.and_then(|work| graph.put(DRIVER.graphs.add(Arc::new(Graph(work))))).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(executable: Out<usize>, graph: usize, _flags: u64) -> Status {
    DRIVER.graphs.get(graph).and_then(|graph| executable.put(DRIVER.graphs.add(graph))).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(executable: usize, _stream: usize) -> Status {
    DRIVER.graphs.get(executable).map(drop).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: usize, stream: usize) -> Status {
    count("cuGraphLaunch", 1);
    let stream = DRIVER.stream(stream);
    DRIVER.graphs.get(executable).and_then(|graph| graph.launch(&*stream?)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: usize) -> Status {
    DRIVER.graphs.remove(executable).map(drop).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: usize) -> Status {
    DRIVER.graphs.remove(graph).map(drop).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: Out<usize>, _flags: c_uint) -> Status {
    count("cuEventCreate", 1);
    DRIVER.current().and_then(|_| event.put(DRIVER.events.add(Arc::new(Event::default())))).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: usize) -> Status {
    DRIVER.events.remove(event).map(drop).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: usize, stream: usize) -> Status {
    count("cuEventRecord", 1);
    let stream = DRIVER.stream(stream);
    DRIVER.events.get(event).and_then(|event| event.record(&stream?)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: usize) -> Status {
    DRIVER.events.get(event).and_then(|event| event.synchronize()).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: usize) -> Status {
    match DRIVER.events.get(event) {
        Ok(event) if event.has_happened() => Status::SUCCESS,
        Ok(_) => Status::NOT_READY,
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, from: usize, to: usize) -> Status {
    let (from, to) = (DRIVER.events.get(from), DRIVER.events.get(to));
    from.and_then(|from| from.milliseconds_to(&*to?)).and_then(|elapsed| milliseconds.put(elapsed)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, from: usize, to: usize) -> Status {
    cuEventElapsedTime_v2(milliseconds, from, to)
}

/// Loads PTX. Other images, such as cubins, are no text and are refused.
#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: Out<usize>, image: Text) -> Status {
    count("cuModuleLoadData", 1);
    let loaded = DRIVER.current().and_then(|device| LoadedModule::load(&image.read()?, device));
    loaded.and_then(|loaded| module.put(DRIVER.modules.add(Arc::new(loaded)))).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: usize) -> Status {
    DRIVER.modules.remove(module).map(drop).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(function: Out<usize>, module: usize, name: Text) -> Status {
    count("cuModuleGetFunction", 1);
    let found = DRIVER.modules.get(module).and_then(|module| module.function(&name.read()?));
    found.and_then(|handle| function.put(handle)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: usize, name: Text) -> Status {
    let found = DRIVER.modules.get(module).and_then(|module| {
        let name = name.read()?;
        let at = *module.globals.get(&name).ok_or(Status::NOT_FOUND)?;
        bytes.put_if_wanted(module.sizes.get(&name).copied().unwrap_or(0));
        address.put(at)
    });
    found.into()
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: usize, _attribute: c_int, _value: c_int) -> Status {
    DRIVER.functions.get(function).map(drop).into()
}

/// Attributes: 1 is the static shared memory, 3 the local memory of a thread.
#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_int, function: usize) -> Status {
    let found = DRIVER.functions.get(function).and_then(|function| {
        value.put(match attribute {
            0 => function.kernel.max_threads.unwrap_or(1024) as c_int,
            1 => function.kernel.shared_bytes as c_int,
            3 => function.kernel.local_bytes as c_int,
            _ => 0,
        })
    });
    found.into()
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: usize,
    arguments: Arguments,
    extra: HostMemory,
) -> Status {
    count("cuLaunchKernel", 1);
    if extra.address() != 0 {
        return Status::NOT_SUPPORTED;
    }
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
    let function = DRIVER.functions.get(function);
    let stream = DRIVER.stream(stream);
    function.and_then(|function| launch(function, shape, &*stream?, arguments)).into()
}
