//! Flags and commands of mistral.rs, vLLM and llama.cpp that this program does not have, each with its replacement.

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
const ALWAYS: &str = "this is always on; leave the flag out";
const NEVER: &str = "this cannot be switched off; leave the flag out";
const SEVERAL: &str = "variables describe a group of several nodes: MISTRALRS_MN_HEAD_NUM_WORKERS on the head, MISTRALRS_MN_WORKER_ID and \
                       MISTRALRS_MN_WORKER_SERVER_ADDR on the others";
const TUNING: &str = "the program chooses this by itself; leave the flag out";
const TEXT_ONLY: &str = "this program serves only text models";
const TOOLS: &str = "this program serves the model alone; tools run in the client";

/// Refused flags, with their replacements.
const FLAGS: &[(&[&str], &str)] = &[
    (&["--quant", "--imatrix", "--calibration-file"], QUANTIZED),
    (&["--from-uqff", "--write-uqff"], QUANTIZED),
    (&["--serve-ip"], "use --host"),
    (&["-p"], "use --http-port"),
    (&["-d"], "use --dtype"),
    (&["-l"], "log lines go to standard error; redirect it, and use --log for the levels"),
    (&["-t", "--tokenizer-json", "--tokenizer", "--hf-config-path"], FILES),
    (&["-j", "--jinja-explicit"], "use --chat-template FILE"),
    (&["-c"], "use --context-length for llama.cpp's -c, and --chat-template for mistral.rs's"),
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
    (&["--max-num-images", "--max-image-length"], TEXT_ONLY),
    (&["--organization"], "--isq quantizes every matrix; leave the flag out"),
    (&["--cpu"], "a build without CUDA computes on the CPU; leave the flag out"),
    (&["--token-source"], TOKEN),
    (&["--hf-cache-path"], "set HF_HUB_CACHE to that folder"),
    (&["--root-path", "--api-prefix"], "let the proxy in front take the prefix off the path"),
    (&["--enable-prefix-caching", "--enable-chunked-prefill", "--cont-batching", "--jinja"], ALWAYS),
    (&["--enable-auto-tool-choice", "--trust-remote-code"], "the program needs no leave for it; leave the flag out"),
    (&["--no-enable-prefix-caching", "--no-enable-chunked-prefill", "--no-cont-batching", "--enforce-eager"], NEVER),
    (
        &["--kv-cache-dtype", "--cache-type-k", "--cache-type-v", "-ctk", "-ctv"],
        "keys and values have one type; leave the flag out",
    ),
    (&["--quantization", "-q"], "the model's files say how they are quantized; use --isq to quantize while loading"),
    (
        &["--load-format", "--config-format", "--tokenizer-mode"],
        "the program tells the format from the files; leave the flag out",
    ),
    (&["--swap-space", "--cpu-offload-gb", "--block-size", "--num-gpu-blocks-override"], KV),
    (&["--data-parallel-size", "-dp"], "use spec.replicas of the InferenceCluster, or a router before several groups"),
    (&["--distributed-executor-backend", "--nnodes", "--node-rank", "--master-addr"], SEVERAL),
    (
        &["--speculative-config", "--speculative-model", "--model-draft", "-md"],
        "this program drafts no tokens; leave the flag out",
    ),
    (&["--enable-lora", "--lora-modules", "--lora", "--lora-scaled"], ADAPTERS),
    (
        &["--disable-log-requests", "--disable-log-stats", "--uvicorn-log-level", "--log-file"],
        "use --log for the levels",
    ),
    (&["--response-role", "--max-log-len", "--generation-config"], "leave the flag out"),
    (&["--seed-override", "--override-generation-config", "--temp", "--top-k", "--top-p", "--min-p"], REQUEST),
    (&["--repeat-penalty", "--predict", "--n-predict"], REQUEST),
    (
        &[
            "-ngl",
            "--n-gpu-layers",
            "--gpu-layers",
            "--tensor-split",
            "-ts",
            "--split-mode",
            "-sm",
            "--main-gpu",
            "-mg",
        ],
        DEVICES,
    ),
    (&["-fa", "--flash-attn", "--mlock", "--no-mmap", "--numa", "-b", "-ub", "--batch-size", "--ubatch-size"], TUNING),
    (&["-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"], "use `plain -m hf://org/name:TAG`"),
    (&["-hft", "--hf-token"], TOKEN),
    (&["--embedding", "--embeddings", "--reranking", "--rerank", "--mmproj", "--limit-mm-per-prompt"], TEXT_ONLY),
    (&["--enable-search", "--search-bert-model", "--enable-thinking", "--mcp-port", "--mcp-config"], TOOLS),
];

/// Refused commands, with their replacements.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["run", "serve"], "use `plain -m SOURCE`"),
    (&["gguf"], GGUF),
    (&["ggml", "lora-gguf", "x-lora-gguf", "lora-ggml", "x-lora-ggml"], GGUF),
    (&["lora", "x-lora"], ADAPTERS),
    (&["vision-plain", "vision", "multimodal", "diffusion", "speech", "embedding"], TEXT_ONLY),
    (&["toml", "multi-model"], "one group serves one model; use `plain -m SOURCE`"),
];

/// Refuses a command line with a flag or command that only another program has.
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
