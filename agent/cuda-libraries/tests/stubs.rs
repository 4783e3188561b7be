//! Stubs find their libraries, pass arguments on, and name what is missing.

use std::ffi::{c_int, c_uint};
use std::process::Command;

// Declared as cudarc declares them.
unsafe extern "C" {
    fn cuInit(flags: c_uint) -> c_uint;
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_uint;
    fn cublasCreate_v2(handle: *mut usize) -> c_uint;
}

/// Tells the copy of this test in a process of its own what to do.
const TASK: &str = "LOCKSTEP_TEST_TASK";

#[test]
fn a_call_reaches_the_library() {
    assert!(lockstep_cuda_libraries::link() > 150);
    let path = std::env::current_exe().expect("the path of the test").with_file_name("libemulated_cuda.so");
    // SAFETY: the library has no code that runs when it is loaded, and the functions have these types.
    unsafe {
        let _driver = libloading::Library::new(&path).expect("the emulated driver");
        assert_eq!(cuInit(0), 0);
        // The first call of this function finds it, and the second jumps there.
        for (attribute, expected) in [(75, 9), (10, 32)] {
            let mut value = 0;
            assert_eq!((cuDeviceGetAttribute(&raw mut value, attribute, 0), value), (0, expected));
        }
        let mut value = 0;
        assert_eq!(cuDeviceGetAttribute(&raw mut value, 75, 99), 101, "there is no device 99");
    }
}

/// Runs the test `task` of this file in a process of its own, without a search path for libraries.
fn error_of(task: &str) -> String {
    let program = std::env::current_exe().expect("the path of the test");
    let mut command = Command::new(program);
    let output = command.args(["--exact", task, "--nocapture"]).env(TASK, task).env_remove("LD_LIBRARY_PATH").output();
    let output = output.expect("a process");
    assert!(!output.status.success(), "the process went on");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_missing_library_is_named_with_its_package() {
    if std::env::var_os(TASK).is_some() {
        let mut handle = 0;
        // SAFETY: the function has this type. It is not there, so the stub ends the process.
        unsafe { cublasCreate_v2(&raw mut handle) };
        return;
    }
    let error = error_of("a_missing_library_is_named_with_its_package");
    for word in ["libcublas.so.13", "cublasCreate_v2", "install nvidia-cublas"] {
        assert!(error.contains(word), "no `{word}` in: {error}");
    }
}
