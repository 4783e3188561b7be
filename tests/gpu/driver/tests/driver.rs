//! cudarc, as it is, over the emulated driver.

use std::sync::Arc;

use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaContext, CudaModule, LaunchConfig, PushKernelArg as _, sys};
use cudarc::nvrtc::Ptx;
use emulated_cuda::testing::{self, faults, load};

/// `add(values, count, more)` adds to each number. `spin(values)` takes its time first. `bad(values)` reads behind the end.
const PTX: &str = "
.version 9.0
.target sm_80
.address_size 64
.global .align 4 .u32 calls = 5;
.visible .entry add(.param .u64 values, .param .u32 count, .param .f32 more) {
    .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .pred %p<2>;
    ld.param.u64 %d0, [values]; ld.param.u32 %r0, [count]; ld.param.f32 %r1, [more];
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.u32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p0, %r2, %r0; @%p0 bra END;
    mul.wide.u32 %d1, %r2, 4; add.s64 %d0, %d0, %d1; ld.global.f32 %r5, [%d0]; add.f32 %r5, %r5, %r1;
    st.global.f32 [%d0], %r5;
END: ret;
}
.visible .entry spin(.param .u64 values) {
    .reg .b32 %r<3>; .reg .b64 %d<2>; .reg .pred %p<2>; ld.param.u64 %d0, [values]; mov.u32 %r0, 0;
LOOP: add.u32 %r0, %r0, 1; setp.lt.u32 %p0, %r0, 3000000; @%p0 bra LOOP;
    mov.f32 %r1, 0f42280000; st.global.f32 [%d0], %r1; ret;
}
.visible .entry bad(.param .u64 values) {
    .reg .b32 %r<3>; .reg .b64 %d<2>; ld.param.u64 %d0, [values]; ld.global.f32 %r1, [%d0+4096]; ret;
}
";

fn open(ordinal: usize) -> (Arc<CudaContext>, Arc<CudaModule>) {
    load(4);
    let context = CudaContext::new(ordinal).expect("a context");
    // SAFETY: the tests order streams themselves.
    unsafe { context.disable_event_tracking() };
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    (context, module)
}

const ONE: LaunchConfig = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };

#[test]
fn kernels_copies_and_graphs_work() -> Result<(), DriverError> {
    let (context, module) = open(0);
    assert_eq!(context.name()?, "Emulated GPU");
    assert_eq!(context.compute_capability()?, (9, 0));
    let stream = context.new_stream()?;
    let add = module.load_function("add")?;
    let mut values = stream.clone_htod(&[1.0_f32; 1000])?;
    let (count, more) = (1000_u32, 2.0_f32);
    let mut launch = || {
        let config = LaunchConfig { grid_dim: (8, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the arguments are those of the kernel.
        unsafe { stream.launch_builder(&add).arg(&mut values).arg(&count).arg(&more).launch(config) }
    };
    launch()?;
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    launch()?;
    launch()?;
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags)?.expect("a graph");
    graph.launch()?;
    graph.launch()?;
    assert_eq!(stream.clone_dtoh(&values)?, [11.0; 1000]);
    assert!(testing::count("cuGraphLaunch") >= 2 && testing::count("kernel add") >= 5);
    assert!(matches!(module.load_function("nothing"), Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_FOUND));
    Ok(())
}

#[test]
fn events_order_streams() -> Result<(), DriverError> {
    let (context, module) = open(1);
    let (one, two) = (context.new_stream()?, context.new_stream()?);
    let (spin, add) = (module.load_function("spin")?, module.load_function("add")?);
    let mut values = one.clone_htod(&[0.0_f32; 4])?;
    one.synchronize()?;
    let event = context.new_event(None)?;
    // SAFETY: the arguments are those of the kernels.
    unsafe { one.launch_builder(&spin).arg(&mut values).launch(ONE)? };
    event.record(&one)?;
    two.wait(&event)?;
    // SAFETY: as above.
    unsafe { two.launch_builder(&add).arg(&mut values).arg(&1_u32).arg(&1.0_f32).launch(ONE)? };
    assert_eq!(two.clone_dtoh(&values)?, [43.0, 0.0, 0.0, 0.0]);
    Ok(())
}

/// A context keeps the error of a fault, so each fault has a device.
#[test]
fn faults_stick_and_are_named() -> Result<(), DriverError> {
    let (context, module) = open(2);
    let stream = context.new_stream()?;
    let values = stream.clone_htod(&[0.0_f32; 4])?;
    let bad = module.load_function("bad")?;
    // SAFETY: the arguments are those of the kernel, which is wrong on purpose.
    unsafe { stream.launch_builder(&bad).arg(&values).launch(ONE)? };
    let failed = |error: DriverError| error.0 == sys::CUresult::CUDA_ERROR_LAUNCH_FAILED;
    assert!(stream.synchronize().is_err_and(failed));
    assert!(stream.clone_htod(&[0.0_f32]).is_err_and(failed), "the error did not stick");
    assert!(faults().contains("bad: block [0, 0, 0], warp 0, lane 0: an access of 4 bytes"), "{}", faults());

    // Two streams, and nothing between them.
    let (context, module) = open(3);
    let (one, two) = (context.new_stream()?, context.new_stream()?);
    let add = module.load_function("add")?;
    let mut values = one.clone_htod(&[0.0_f32; 4])?;
    // SAFETY: as above.
    unsafe { two.launch_builder(&add).arg(&mut values).arg(&1_u32).arg(&1.0_f32).launch(ONE)? };
    // Whichever stream comes second finds the fault.
    let done = two.synchronize().and_then(|()| one.synchronize());
    assert!(done.is_err_and(failed), "a use from another stream was not found");
    assert!(faults().contains("and nothing orders them"), "{}", faults());
    std::mem::forget(values);
    Ok(())
}
