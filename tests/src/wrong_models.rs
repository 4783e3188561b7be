//! Models that no process can load: a copy of a small model, with one thing wrong.

use std::path::Path;

/// One way in which the files of a model can be wrong.
pub struct WrongModel {
    pub name: &'static str,
    /// Folder below `tests/parity` that is copied.
    model: &'static str,
    /// Damages the copy.
    spoil: fn(&Path),
    /// Part of what every program says.
    pub words: &'static str,
}

const LLAMA: &str = "fixtures/llama2";
const WEIGHTS: &str = "model.safetensors";
const GGUF: &str = "llama.gguf";
const GIT_LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";

/// Each part of a model, with each kind of fault.
pub const WRONG_MODELS: &[WrongModel] = &[
    of_llama("no-config", |path| remove(path, "config.json"), "config.json is missing in"),
    of_llama("cut-config", |path| write(path, "config.json", b"{"), "config.json: EOF while parsing"),
    of_llama(
        "architecture",
        |path| change(path, "config.json", "LlamaForCausalLM", "MambaForCausalLM"),
        "architecture `MambaForCausalLM` is not supported; supported: ",
    ),
    of_llama(
        "quantization",
        |path| {
            change(
                path,
                "config.json",
                "\"rope_scaling\": null",
                r#""quantization_config": {"quant_method": "torchao"}"#,
            )
        },
        "torchao",
    ),
    of_llama(
        "rope",
        |path| {
            change(
                path,
                "config.json",
                "\"rope_scaling\": null",
                r#""rope_scaling": {"rope_type": "ntk", "factor": 2}"#,
            )
        },
        "rope type `ntk` is not supported",
    ),
    of_llama(
        "activation",
        |path| change(path, "config.json", "\"silu\"", "\"snake\""),
        "hidden_act `snake` is not supported",
    ),
    of_llama(
        "vocabulary",
        |path| change(path, "config.json", "\"vocab_size\": 288", "\"vocab_size\": 300"),
        "`lm_head.weight` in model.safetensors has shape [288, 48], the configuration asks for [300, 48]",
    ),
    of_llama(
        "width",
        |path| change(path, "config.json", "\"intermediate_size\": 112", "\"intermediate_size\": 128"),
        "has shape [112, 48]",
    ),
    of_llama("no-weights", |path| remove(path, WEIGHTS), "model.safetensors is missing in"),
    of_llama("cut-weights", |path| cut(path, WEIGHTS), "model.safetensors is cut short"),
    of_llama("pointer", |path| write(path, WEIGHTS, GIT_LFS.as_bytes()), "pointer of git-lfs"),
    of_llama("huge-header", |path| write(path, WEIGHTS, &[0xFF; 64]), "model.safetensors: "),
    of_llama("empty-weights", |path| write(path, WEIGHTS, b""), "model.safetensors is cut short"),
    of_llama("pickled-weights", |path| rename(path, WEIGHTS, "pytorch_model.bin"), "model.safetensors is missing in"),
    of_llama(
        "adapter",
        |path| {
            rename(path, WEIGHTS, "adapter_model.safetensors");
            rename(path, "config.json", "adapter_config.json");
        },
        "config.json is missing in",
    ),
    of_llama(
        "no-output-head",
        |path| change(path, WEIGHTS, "\"lm_head.weight\"", "\"lm_tail.weight\""),
        "lm_head.weight",
    ),
    of_llama(
        "names-without-prefix",
        |path| change(path, WEIGHTS, "\"model.layers.1.", "\"madel.layers.1."),
        "model.layers.1.input_layernorm.weight",
    ),
    of_llama(
        "integers",
        |path| change(path, WEIGHTS, "\"F32\"", "\"I32\""),
        "model.embed_tokens.weight` in model.safetensors is I32",
    ),
    of_llama("no-tokenizer", |path| rename(path, "tokenizer.json", "tokenizer.model"), "tokenizer.json is missing in"),
    of_llama("bad-tokenizer", |path| write(path, "tokenizer.json", b"[]"), "tokenizer.json: "),
    of_llama("pointer-tokenizer", |path| write(path, "tokenizer.json", GIT_LFS.as_bytes()), "pointer of git-lfs"),
    of_llama("bad-template", |path| write(path, "chat_template.jinja", b"{% if %}"), "chat template does not parse"),
    of_llama(
        "bad-generation",
        |path| write(path, "generation_config.json", br#"{"temperature": "0.7"}"#),
        "generation_config.json: `temperature`",
    ),
    WrongModel {
        name: "no-shard",
        model: "fixtures/llama3-sharded",
        spoil: |path| remove(path, "model-00001-of-00003.safetensors"),
        words: "model-00001-of-00003.safetensors is missing in",
    },
    // The head reads no weights, so only a rank can find this.
    WrongModel {
        name: "numbers",
        model: "quantized/fp8-channel",
        spoil: make_a_scale_infinite,
        words: "model.layers.1.mlp.up_proj.weight: a scale is not finite",
    },
    of_gguf("gguf-cut", |path| cut(path, GGUF), "llama.gguf is cut short"),
    of_gguf("gguf-text", |path| write(path, GGUF, b"<!DOCTYPE html><html>not found</html>"), "it is no GGUF file"),
    of_gguf("gguf-architecture", |path| change_first(path, GGUF, "llama", "lhama"), "lhama"),
    of_gguf(
        "gguf-tensor",
        |path| change(path, GGUF, "blk.0.ffn_up.weight", "blk.0.ffn_ux.weight"),
        "blk.0.ffn_up.weight",
    ),
    of_gguf(
        "gguf-tokenizer",
        |path| change(path, GGUF, "tokenizer.ggml.tokens", "tokenizer.ggml.tokons"),
        "tokenizer.ggml.tokens",
    ),
];

const fn of_llama(name: &'static str, spoil: fn(&Path), words: &'static str) -> WrongModel {
    WrongModel { name, model: LLAMA, spoil, words }
}

/// One of a GGUF file alone.
const fn of_gguf(name: &'static str, spoil: fn(&Path), words: &'static str) -> WrongModel {
    WrongModel { name, model: "gguf/llama.gguf", spoil, words }
}

impl WrongModel {
    /// Makes the model in this folder, which the call creates.
    pub fn write(&self, folder: &Path) {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity").join(self.model);
        std::fs::create_dir(folder).expect("a new folder");
        let files = match std::fs::read_dir(&model) {
            Ok(files) => files.map(|file| file.expect("a file").path()).collect(),
            Err(_) => vec![model],
        };
        for file in files {
            // The copy may be read by every user, whatever the mode of the file.
            let content = std::fs::read(&file).expect("read");
            std::fs::write(folder.join(file.file_name().expect("a name")), content).expect("write");
        }
        (self.spoil)(folder);
    }
}

fn remove(folder: &Path, file: &str) {
    std::fs::remove_file(folder.join(file)).expect("remove");
}

fn rename(folder: &Path, file: &str, to: &str) {
    std::fs::rename(folder.join(file), folder.join(to)).expect("rename");
}

fn write(folder: &Path, file: &str, content: &[u8]) {
    std::fs::write(folder.join(file), content).expect("write");
}

/// Leaves half of a file.
fn cut(folder: &Path, file: &str) {
    let bytes = std::fs::read(folder.join(file)).expect("read");
    write(folder, file, &bytes[..bytes.len() / 2]);
}

fn change(folder: &Path, file: &str, from: &str, to: &str) {
    change_some(folder, file, from, to, usize::MAX);
}

fn change_first(folder: &Path, file: &str, from: &str, to: &str) {
    change_some(folder, file, from, to, 1);
}

/// Replaces the first `most` places of a text in a file of any bytes.
fn change_some(folder: &Path, file: &str, from: &str, to: &str, most: usize) {
    let bytes = std::fs::read(folder.join(file)).expect("read");
    let mut changed = Vec::new();
    let (mut rest, mut places) = (&bytes[..], 0);
    while let Some(at) = rest.windows(from.len()).position(|part| part == from.as_bytes()).filter(|_| places < most) {
        changed.extend_from_slice(&rest[..at]);
        changed.extend_from_slice(to.as_bytes());
        rest = &rest[at + from.len()..];
        places += 1;
    }
    assert!(places > 0, "{file} has no {from}");
    changed.extend_from_slice(rest);
    write(folder, file, &changed);
}

fn make_a_scale_infinite(folder: &Path) {
    let mut bytes = std::fs::read(folder.join(WEIGHTS)).expect("read");
    let data = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..data]).expect("JSON");
    let range = &header["model.layers.1.mlp.up_proj.weight_scale"]["data_offsets"];
    let offset = |index: usize| data + range[index].as_u64().expect("an offset") as usize;
    bytes[offset(0)..offset(1)].fill(0xFF);
    write(folder, WEIGHTS, &bytes);
}
