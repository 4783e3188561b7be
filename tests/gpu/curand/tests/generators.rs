//! A generator as candle makes one when it opens a device.

use cudarc::curand::{CudaRng, result, sys};
use cudarc::driver::CudaContext;

#[test]
fn a_device_gets_its_generator() {
    emulated_cuda::testing::load(1);
    let _library = emulated_cuda::testing::load_beside("libemulated_curand.so");
    let stream = CudaContext::new(0).expect("a context").new_stream().expect("a stream");
    let mut generator = CudaRng::new(7, stream).expect("a generator");
    generator.set_seed(8).expect("a seed");
    let wrong = result::create_generator_kind(sys::curandRngType_t::CURAND_RNG_QUASI_SOBOL32);
    assert!(wrong.is_err(), "quasi-random generators are not there");
}
