//! The generated Rust matches the `.proto` files. `LOCKSTEP_REGENERATE=1` writes the files instead of comparing them.

use std::path::{Path, PathBuf};

use prost::Message as _;

/// Files of the public services, which reflection serves.
const PUBLIC: [&str; 3] =
    ["lockstep/v1/inference.proto", "lockstep/v1/cluster.proto", "vllm/grpc/engine/vllm_engine.proto"];
const PRIVATE: &str = "lockstep/node/v1/control.proto";
const GENERATED: [&str; 5] =
    ["lockstep.v1.rs", "lockstep.node.v1.rs", "vllm.grpc.engine.rs", "smg.grpc.common.rs", "public.bin"];

fn generate(into: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let all = protox::compile(PUBLIC.into_iter().chain([PRIVATE]), [&root]).expect("compile the .proto files");
    tonic_prost_build::configure().out_dir(into).compile_fds(all).expect("generate Rust");
    let mut public = protox::compile(PUBLIC, [&root]).expect("compile the public .proto files");
    for file in &mut public.file {
        file.source_code_info = None;
    }
    std::fs::write(into.join("public.bin"), public.encode_to_vec()).expect("write descriptors");
}

#[test]
fn generated_code_is_current() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("LOCKSTEP_REGENERATE").is_some() {
        generate(&checked_in);
        return;
    }
    let fresh = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gen");
    std::fs::create_dir_all(&fresh).expect("make a folder");
    generate(&fresh);
    for name in GENERATED {
        let is = std::fs::read(checked_in.join(name)).unwrap_or_default();
        let should = std::fs::read(fresh.join(name)).expect("read what was generated");
        assert!(is == should, "proto/src/gen/{name} is stale: run `make generate` and commit what it writes");
    }
}
