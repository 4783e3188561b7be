//! Gives the linker empty libraries under the names that cudarc links. The stubs define the functions.

use std::path::PathBuf;

/// Names that cudarc's build script passes to the linker.
const NAMES: [&str; 6] = ["cuda", "cublas", "cublasLt", "curand", "nvrtc", "nccl"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    for name in NAMES {
        // A text is a script of the linker. This one adds nothing.
        let script = "/* Nothing is linked. */\n";
        std::fs::write(folder.join(format!("lib{name}.so")), script).expect("write into OUT_DIR");
    }
    println!("cargo::rustc-link-search=native={}", folder.display());
}
