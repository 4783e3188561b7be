//! Files of a model, which a head and a rank read.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use lockstep_api::{ChatMessage, ChatTemplates, Conversation, ModelText, Text, ToolCall};
use lockstep_collectives::{Grid, solo::Solo};
use lockstep_engine::config::ModelConfig;
use lockstep_engine::{Devices, EngineError, ModelFiles, Runner, RunnerConfig};
use lockstep_schedule::plan::{Admission, PlanEntry, PlanTokens, SamplingParams, StepPlan};
use lockstep_tests::group::fixture;
use serde_json::json;

use crate::block_on;

/// Text that every parsed tokenizer encodes.
const TEXT: &str = "What is a ring?\n\u{e9}\u{1f980} <s>";
/// Bytes up to which the target fills a GGUF file with zeros. The header may then name tensors, and the input stays
/// short.
const GGUF_BYTES: u64 = 1 << 20;

/// Reads `config.json` beside the weights of a model of its architecture.
pub fn model_config(bytes: &[u8]) {
    if let Ok(config) = ModelConfig::parse(bytes)
        && let Some(folder) = find_fixture(config.architecture.name())
    {
        read_in_model(folder, "config.json", bytes, |source| load_and_step(source).ok());
    }
}

/// Returns the first fixture of an architecture, named as in `config.json`.
fn find_fixture(architecture: &str) -> Option<&'static str> {
    static FIXTURES: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let read = || {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/parity/fixtures"));
        let names = std::fs::read_dir(&folder)
            .expect("the fixtures")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut fixtures: Vec<(String, String)> = names
            .filter_map(|name| {
                let config = ModelConfig::parse(&std::fs::read(folder.join(&name).join("config.json")).ok()?).ok()?;
                Some((name, config.architecture.name().to_owned()))
            })
            .collect();
        fixtures.sort();
        fixtures
    };
    let fixtures = FIXTURES.get_or_init(read);
    fixtures.iter().find(|(_, name)| name == architecture).map(|(fixture, _)| fixture.as_str())
}

/// Reads `generation_config.json`.
pub fn generation_config(bytes: &[u8]) {
    read_in_model("llama2", "generation_config.json", bytes, |source| describe_model(source).ok());
}

/// Reads `tokenizer.json`, and encodes a text with it.
pub fn tokenizer(bytes: &[u8]) {
    let text = ModelText { tokenizer_json: bytes.to_vec(), ..small_model() };
    if let Ok(text) = Text::new(text) {
        use_text(&text);
    }
}

/// Reads `tokenizer_config.json`, with the chat template in it.
pub fn tokenizer_config(bytes: &[u8]) {
    read_in_model("llama2", "tokenizer_config.json", bytes, |source| describe_model(source).ok());
}

/// Reads a chat template, and renders conversations with it.
pub fn chat_template(bytes: &[u8]) {
    let Ok(template) = String::from_utf8(bytes.to_vec()) else { return };
    let templates = ChatTemplates { default: Some(template), ..ChatTemplates::default() };
    let text = ModelText { tokenizer_json: read_tokenizer("llama2"), templates, ..small_model() };
    if let Ok(text) = Text::new(text) {
        use_text(&text);
    }
}

/// Reads the header of `model.safetensors`, and the bytes after it.
pub fn safetensors(bytes: &[u8]) {
    read_in_model("llama2", "model.safetensors", bytes, |source| load_and_step(source).ok());
}

/// Reads the index of a model with several weight files.
pub fn safetensors_index(bytes: &[u8]) {
    read_in_model("llama3-sharded", "model.safetensors.index.json", bytes, |source| load_and_step(source).ok());
}

/// Reads a GGUF file: header, metadata and tokenizer, and computes a step of its model.
pub fn gguf(bytes: &[u8]) {
    lockstep_engine::gguf::check_bytes(bytes).ok();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("write");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.set_len(GGUF_BYTES.max(bytes.len() as u64)).expect("lengthen");
    load_and_step(path.to_str().expect("UTF-8")).ok();
}

/// Runs `read` on a copy of the fixture `model` whose file `name` has these bytes.
fn read_in_model<T>(model: &str, name: &str, bytes: &[u8], read: impl FnOnce(&str) -> Option<T>) {
    let folder = tempfile::tempdir().expect("a folder");
    let files = std::fs::read_dir(fixture(model)).expect("a fixture").map(|file| file.expect("a file").path());
    for file in files.filter(|file| !file.ends_with(name)) {
        let link = folder.path().join(file.file_name().expect("a name"));
        std::os::unix::fs::symlink(file, link).expect("a link");
    }
    std::fs::write(folder.path().join(name), bytes).expect("write");
    read(folder.path().to_str().expect("UTF-8"));
}

/// Reads the files that the head reads, and uses them.
fn describe_model(source: &str) -> Result<Arc<dyn ModelFiles>, EngineError> {
    let files = lockstep_engine::open(source)?;
    let model = lockstep_engine::describe(files.as_ref())?;
    let text = ModelText {
        tokenizer_json: model.tokenizer_json,
        templates: ChatTemplates {
            default: model.chat_template,
            tool_use: model.tool_use_template,
            bos_token: model.bos_token,
            eos_token: model.eos_token,
        },
        vocab_size: model.vocab_size,
        context_length: model.context_length,
        eos_token_ids: model.generation.eos_token_ids,
        ..ModelText::default()
    };
    if let Ok(text) = Text::new(text) {
        use_text(&text);
    }
    lockstep_engine::resolve(files.as_ref())?;
    lockstep_engine::weight_facts(Arc::clone(&files))?;
    Ok(files)
}

/// Reads the files that a rank reads too, and computes a step.
fn load_and_step(source: &str) -> Result<(), EngineError> {
    let mut runner = load_runner(describe_model(source)?)?;
    runner.start_epoch(1, Solo::new()?, BLOCKS)?;
    let plan = StepPlan { epoch: 1, step: 1, ..first_step() };
    runner.step(&plan).map(drop)
}

/// Blocks of the KV cache, with one token each.
const BLOCKS: u32 = 64;

fn load_runner(files: Arc<dyn ModelFiles>) -> Result<Runner, EngineError> {
    let config = RunnerConfig {
        files,
        dtype: None,
        quantization: None,
        grid: Grid::new(0, 1, 1).expect("one rank"),
        block_size: 1,
        context_length: None,
        max_num_batched_tokens: 64,
        max_num_seqs: 8,
        threads: 1,
        oversubscribed: true,
        isa: None,
        devices: Devices::default(),
        progress: Arc::default(),
    };
    Runner::load(config, &mut |_, _| ())
}

/// Returns a plan for a prompt of three tokens.
fn first_step() -> StepPlan {
    let entry = PlanEntry {
        seq: 1,
        position: 0,
        tokens: PlanTokens::Given(vec![3, 4, 5]),
        new_blocks: vec![2, 1, 0],
        sample: true,
        allowed: None,
        prompt_targets: None,
    };
    StepPlan { admit: vec![Admission::new(1, SamplingParams::default())], entries: vec![entry], ..StepPlan::default() }
}

/// Gives a plan to a rank that has already computed the first step.
pub fn run_on_rank(plan: StepPlan) {
    static RANK: OnceLock<Mutex<Runner>> = OnceLock::new();
    static EPOCH: AtomicU64 = AtomicU64::new(0);
    let rank = RANK.get_or_init(|| {
        let files = lockstep_engine::open(fixture("llama2").as_str()).expect("a fixture");
        Mutex::new(load_runner(files).expect("a rank"))
    });
    let mut rank = rank.lock().expect("no panic while it is held");
    let epoch = EPOCH.fetch_add(1, Ordering::Relaxed) + 1;
    rank.start_epoch(epoch, Solo::new().expect("a communicator"), BLOCKS).expect("a group of one");
    rank.step(&StepPlan { epoch, step: 1, ..first_step() }).expect("a plan in order");
    rank.step(&StepPlan { epoch, step: 2, ..plan }).ok();
}

/// Returns the sizes of the small model beside which the targets read texts.
pub fn small_model() -> ModelText {
    ModelText { vocab_size: 288, context_length: 512, ..ModelText::default() }
}

pub fn read_tokenizer(model: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(fixture(model)).join(Path::new("tokenizer.json"))).expect("a tokenizer")
}

fn use_text(text: &Text) {
    let ids = block_on(text.encode(TEXT.into(), true)).unwrap_or_default();
    text.tokenizer().decode(&ids, true);
    text.tokenizer().decode(&[0, 1, u32::MAX], false);
    let turns = [("system", "be good"), ("user", "hello"), ("assistant", "hi"), ("user", "who?")];
    let messages: Vec<_> = turns.map(|(role, content)| ChatMessage::new(role, content)).into();
    block_on(text.encode_chat(Conversation { messages: messages.clone(), ..Conversation::default() })).ok();
    let call = ToolCall { id: "a".into(), name: "f".into(), arguments: json!({"x": [1, null]}) };
    let calls = ChatMessage { tool_calls: vec![call], ..ChatMessage::new("assistant", "") };
    let tools = vec![json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})];
    let messages = [messages, vec![calls, ChatMessage::new("tool", "7")]].concat();
    block_on(text.encode_chat(Conversation { messages, tools, ..Conversation::default() })).ok();
}
