//! Names the library as programs look for it. A test that has loaded it by its path is then found to have a `libnccl.so.2`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnccl.so.2");
}
