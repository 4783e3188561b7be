//! Devices, contexts and errors.

use std::ffi::{c_char, c_int, c_uint};

use crate::context::{DRIVER, current, set_current};
use crate::pointer::Out;
use crate::report::{count, write_report};
use crate::status::Status;

/// Version of CUDA that the driver says it supports: 13.0.
const VERSION: c_int = 13_000;

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> Status {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        extern "C" fn at_exit() {
            write_report();
        }
        unsafe extern "C" {
            fn atexit(function: extern "C" fn()) -> c_int;
        }
        // SAFETY: the function lives as long as the library, which nobody unloads.
        unsafe { atexit(at_exit) };
    });
    Status::SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: Out<c_int>) -> Status {
    version.put(VERSION).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(devices: Out<c_int>) -> Status {
    devices.put(DRIVER.devices.len() as c_int).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) -> Status {
    DRIVER.device(ordinal).and_then(|_| device.put(ordinal)).into()
}

/// Attributes are those of an H100 where programs ask for them, and otherwise 1.
#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<c_int>, attribute: c_int, device: c_int) -> Status {
    let answer = match attribute {
        1 => 1024,       // threads of a block
        2 | 3 => 1024,   // x and y of a block
        4 => 64,         // z of a block
        5 => i32::MAX,   // x of a grid
        6 | 7 => 65535,  // y and z of a grid
        8 => 48 << 10,   // shared memory of a block
        10 => 32,        // lanes of a warp
        16 => 132,       // multiprocessors
        38 => 50 << 20,  // bytes of the L2 cache
        39 => 2048,      // threads of a multiprocessor
        75 => 9,         // compute capability, major
        76 => 0,         // and minor
        81 => 228 << 10, // shared memory of a multiprocessor
        97 => 227 << 10, // shared memory of a block that asks for it
        _ => 1,
    };
    DRIVER.device(device).and_then(|_| value.put(answer)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: Out<c_char>, size: c_int, device: c_int) -> Status {
    let size = usize::try_from(size).unwrap_or(0);
    DRIVER.device(device).and_then(|_| name.put_text(c"Emulated GPU", size)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: c_int) -> Status {
    DRIVER.device(device).and_then(|device| uuid.put([device.ordinal as u8; 16])).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) -> Status {
    DRIVER.device(device).and_then(|_| bytes.put(DRIVER.device_bytes)).into()
}

/// A context is the ordinal of its device, plus one.
#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: Out<usize>, device: c_int) -> Status {
    DRIVER.device(device).and_then(|device| context.put(device.ordinal + 1)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> Status {
    DRIVER.device(device).map(drop).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: Out<usize>) -> Status {
    count("cuCtxGetCurrent", 1);
    context.put(current()).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: usize) -> Status {
    if context > DRIVER.devices.len() {
        return Status::INVALID_CONTEXT;
    }
    set_current(context);
    Status::SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(device: Out<c_int>) -> Status {
    DRIVER.current().and_then(|current| device.put(current.ordinal as c_int)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> Status {
    count("cuCtxSynchronize", 1);
    DRIVER.current().and_then(|device| DRIVER.synchronize(device)).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) -> Status {
    let both = DRIVER.device(device).and_then(|_| DRIVER.device(peer));
    both.and_then(|_| can.put(c_int::from(device != peer))).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxEnablePeerAccess(peer: usize, _flags: c_uint) -> Status {
    let Some(peer) = peer.checked_sub(1).filter(|ordinal| *ordinal < DRIVER.devices.len()) else {
        return Status::INVALID_CONTEXT;
    };
    match DRIVER.current() {
        Ok(device) if device.add_peer(peer) => Status::SUCCESS,
        Ok(_) => Status::PEER_ACCESS_ENABLED,
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(status: Status, name: Out<*const c_char>) -> Status {
    name.put(status.name().as_ptr()).into()
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(status: Status, text: Out<*const c_char>) -> Status {
    let known =
        if status == Status::SUCCESS { c"no error" } else { c"the emulated GPU has said why on standard error" };
    text.put(known.as_ptr()).into()
}
