//! Parsers of bytes from outside, each as a plain function of bytes. For any bytes, a parser ends soon, without a panic
//! and in bounded memory. [`driver`] replays the corpus of each target and makes more of it.

mod answers;
mod change;
mod control;
mod driver;
mod files;
mod hub;
mod parts;
mod reports;
mod requests;
mod ring;
mod secrets;
mod wire;
mod words;

use std::sync::OnceLock;

use driver::Seeds;

/// Declares the targets, each with further seeds, by a path in `tests/` with one `*`.
macro_rules! targets {
    ($($name:ident: $target:path $(, $also:literal)*;)*) => {
        $(#[test]
        fn $name() {
            driver::run(&Seeds { name: stringify!($name), also: &[$($also),*] }, $target);
        })*
    };
}

targets! {
    model_config: files::model_config, "parity/fixtures/*/config.json";
    generation_config: files::generation_config, "parity/fixtures/*/generation_config.json";
    tokenizer: files::tokenizer, "parity/fixtures/*/tokenizer.json";
    tokenizer_config: files::tokenizer_config, "parity/fixtures/*/tokenizer_config.json";
    chat_template: files::chat_template;
    safetensors: files::safetensors;
    safetensors_index: files::safetensors_index, "parity/fixtures/*/model.safetensors.index.json";
    gguf: files::gguf, "parity/gguf/*.gguf";
    arguments: words::arguments;
    quantization: words::quantization;
    ring_config: words::ring_config;
    cluster: words::cluster, "../deploy/samples/*.yaml";
    typed: words::typed;
    grammar: answers::grammar;
    output: answers::output;
    http: requests::http;
    grpc: requests::grpc;
    http_bytes: wire::http_bytes;
    grpc_bytes: wire::grpc_bytes;
    headers: wire::headers;
    group_status: reports::group_status;
    head_answers: reports::head_answers;
    kubernetes: reports::kubernetes;
    hub_answer: hub::answer;
    hub_cache: hub::cache;
    hub_token: hub::token;
    tls_files: secrets::tls_files;
    group_key: secrets::group_key;
    secrets: secrets::secrets;
    handshake: wire::handshake;
    greeting: ring::greeting;
    ring_answer: ring::answer;
    frames: ring::frames;
    plan: control::plan;
    step_done: control::step_done;
    from_nodes: control::from_nodes;
    from_head: control::from_head;
    control_bytes: control::bytes;
}

/// Runs `future` on the threads that all targets share.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime")).block_on(future)
}
