//! Flags and commands of mistral.rs that this program does not have, each with its replacement.

use std::ffi::OsString;

use super::error::ConfigError;

const QUANTIZED: &str = "use --isq to quantize a checkpoint in bf16 or f32 while it is loaded";
const GGUF: &str =
    "use `plain -m FILE.gguf` or `plain -m hf://org/name:TAG`; a GGUF file holds its own configuration and tokenizer";
const FILES: &str =
    "the program reads tokenizer, template and configuration from the model's folder; put the file there";
const KV: &str = "the KV cache is always paged; use --kv-cache-memory and --context-length";
const TOKEN: &str = "set HF_TOKEN, or HF_TOKEN_PATH to a file that holds the token";
const DEVICES: &str = "layers are sharded over ranks; set MISTRALRS_MN_LOCAL_WORLD_SIZE to the number of ranks";
const REQUEST: &str = "give it in each request";
const ADAPTERS: &str = "this program reads no adapters; merge the adapter into the weights";
const TOOLS: &str = "this program serves the model alone; tools run in the client";

/// Refused flags, with their replacements.
const FLAGS: &[(&[&str], &str)] = &[
    (&["--quant", "--imatrix", "--calibration-file"], QUANTIZED),
    (&["--from-uqff", "--write-uqff"], QUANTIZED),
    (&["--serve-ip"], "use --host"),
    (&["-p"], "use --http-port"),
    (&["-d"], "use --dtype"),
    (&["-l"], "log lines go to standard error; redirect it, and use --log for the levels"),
    (&["-t", "--tokenizer-json", "-c", "--chat-template", "-j", "--jinja-explicit"], FILES),
    (&["-a", "--arch"], "the program reads the architecture from the model's config.json; leave the flag out"),
    (&["--paged-attn", "--no-paged-attn", "--no-kv-cache", "--pa-cache-type"], KV),
    (&["--pa-gpu-mem", "--pa-gpu-mem-usage", "--pa-ctxt-len", "--pa-blk-size"], KV),
    (&["--prefix-cache-n"], "the KV cache always keeps prefixes for reuse while it has room; leave the flag out"),
    (&["--max-seq-len"], "use --context-length"),
    (&["--max-batch-size"], "use --max-seqs"),
    (&["--prompt-chunksize", "--prompt-batchsize"], "use --max-num-batched-tokens"),
    (&["--truncate-sequence"], "the head refuses a prompt that does not fit; shorten the prompt in the client"),
    (&["-s", "--seed"], REQUEST),
    (&["-n", "--num-device-layers", "--topology"], DEVICES),
    (&["--max-num-images", "--max-image-length"], "this program serves only text models"),
    (&["--organization"], "--isq quantizes every matrix; leave the flag out"),
    (&["--cpu"], "a build without CUDA computes on the CPU; leave the flag out"),
    (&["--token-source"], TOKEN),
    (&["--hf-cache-path"], "set HF_HUB_CACHE to that folder"),
    (&["--enable-search", "--search-bert-model", "--enable-thinking", "--mcp-port", "--mcp-config"], TOOLS),
];

/// Refused commands, with their replacements.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["run", "serve"], "use `plain -m SOURCE`"),
    (&["gguf"], GGUF),
    (&["ggml", "lora-gguf", "x-lora-gguf", "lora-ggml", "x-lora-ggml"], GGUF),
    (&["lora", "x-lora"], ADAPTERS),
    (
        &["vision-plain", "vision", "multimodal", "diffusion", "speech", "embedding"],
        "this program serves only text models",
    ),
    (&["toml", "multi-model"], "one group serves one model; use `plain -m SOURCE`"),
];

/// Refuses a command line with a flag or command that only mistral.rs has.
pub(super) fn check(argv: &[OsString]) -> Result<(), ConfigError> {
    let words: Vec<&str> =
        argv.iter().skip(1).map(|word| word.to_str().unwrap_or_default()).take_while(|word| *word != "--").collect();
    for word in &words {
        let flag = word.split('=').next().unwrap_or_default();
        refuse(FLAGS, flag)?;
    }
    match words.first() {
        Some(first) => refuse(COMMANDS, first),
        None => Ok(()),
    }
}

fn refuse(table: &[(&[&str], &'static str)], word: &str) -> Result<(), ConfigError> {
    match table.iter().find(|(names, _)| names.contains(&word)) {
        Some((_, remedy)) => Err(ConfigError::Refused { what: word.to_owned(), remedy }),
        None => Ok(()),
    }
}
