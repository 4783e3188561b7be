//! NCCL with one rank, if there is a device and the libraries. Otherwise the error must name the missing library.
#![cfg(feature = "nccl")]

mod naive;

use std::time::Duration;

use cudarc::driver::CudaContext;
use lockstep_collectives::nccl::{DeviceSlice, DeviceSliceMut, NcclConfig, UniqueId, form};
use lockstep_collectives::{AbortSwitch, CollectiveError, Communicator, RankGroup, Slice, SliceMut};

#[test]
fn one_rank_works_or_the_error_names_the_missing_library() {
    let id = match UniqueId::create() {
        Ok(id) => id,
        Err(CollectiveError::Unavailable { backend, reason }) => {
            assert_eq!(backend, "nccl");
            assert!(reason.starts_with("libcuda.so was not found") || reason.starts_with("libnccl.so was not found"));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let limit = Duration::from_secs(60);
    let config =
        NcclConfig { group: RankGroup::solo(), id, stream: stream.clone(), op_timeout: limit, form_timeout: limit };
    let mut group = [form(config, None, &AbortSwitch::new().unwrap()).unwrap()];
    for len in [0, 1, 1000] {
        naive::exercise_all(&mut group, len);
    }

    let [comm] = &mut group;
    let mut data = stream.clone_htod(&[1.5f32, -2.0]).unwrap();
    let mut out = stream.alloc_zeros::<f32>(2).unwrap();
    comm.all_reduce_sum(SliceMut::Device(DeviceSliceMut::F32(data.as_view_mut()))).unwrap();
    let mine = data.as_view();
    let out_view = SliceMut::Device(DeviceSliceMut::F32(out.as_view_mut()));
    comm.all_gather(Slice::Device(DeviceSlice::F32(&mine)), &[2], out_view).unwrap();
    comm.wait_for_stream().unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [1.5, -2.0]);

    comm.aborter().abort("the test is over");
    assert_eq!(comm.barrier(), Err(CollectiveError::Aborted("the test is over".into())));
}
