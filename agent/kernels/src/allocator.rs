//! Memory that this process has freed and that its allocator keeps.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    fn malloc_trim(pad: usize) -> std::ffi::c_int;
}

/// Gives free memory of the allocator back to the system. Allocations may wait for it, for some milliseconds. It does
/// nothing where the allocator is not glibc's: others give memory back by themselves.
pub fn release_free_memory() {
    // SAFETY: the declaration is glibc's own. The function takes the allocator's locks, so any thread may call it at any
    // time, and it touches free memory only.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        malloc_trim(0);
    }
}
