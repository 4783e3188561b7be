//! A `libcurand.so.10` with the functions that candle calls when it opens a device: it makes a generator and seeds it. Nobody
//! draws numbers there, so no function does. One that is missing fails by its name.

use std::collections::HashSet;
use std::ffi::{c_int, c_uint, c_ulonglong};
use std::sync::{Mutex, PoisonError};

const SUCCESS: c_int = 0;
const NOT_INITIALIZED: c_int = 101;
const TYPE_ERROR: c_int = 103;

/// First and last of the kinds of pseudo-random generators.
const PSEUDO: std::ops::RangeInclusive<c_uint> = 100..=161;

/// Generators that exist, and the number of the last one.
static GENERATORS: Mutex<(usize, Option<HashSet<usize>>)> = Mutex::new((0, None));

fn with_generators<R>(work: impl FnOnce(&mut usize, &mut HashSet<usize>) -> R) -> R {
    let mut guard = GENERATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let (last, generators) = &mut *guard;
    work(last, generators.get_or_insert_default())
}

fn check(generator: usize) -> c_int {
    if with_generators(|_, generators| generators.contains(&generator)) { SUCCESS } else { NOT_INITIALIZED }
}

/// # Safety
/// `generator` is a place for a generator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn curandCreateGenerator(generator: *mut usize, kind: c_uint) -> c_int {
    if !PSEUDO.contains(&kind) {
        return TYPE_ERROR;
    }
    let made = with_generators(|last, generators| {
        *last += 1;
        generators.insert(*last);
        *last
    });
    // SAFETY: the caller passes a place.
    unsafe { generator.write(made) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn curandDestroyGenerator(generator: usize) -> c_int {
    if with_generators(|_, generators| generators.remove(&generator)) { SUCCESS } else { NOT_INITIALIZED }
}

#[unsafe(no_mangle)]
pub extern "C" fn curandSetStream(generator: usize, _stream: usize) -> c_int {
    check(generator)
}

#[unsafe(no_mangle)]
pub extern "C" fn curandSetPseudoRandomGeneratorSeed(generator: usize, _seed: c_ulonglong) -> c_int {
    check(generator)
}

#[unsafe(no_mangle)]
pub extern "C" fn curandSetGeneratorOffset(generator: usize, _offset: c_ulonglong) -> c_int {
    check(generator)
}
