//! Chat templates beside transformers: constructs of Jinja and Python, and the templates that llama.cpp ships, each with
//! several conversations. `tests/parity/make_templates.py` recorded what transformers renders.
//!
//! `TEST_TEMPLATES` names the folder of the templates, which `tests/fetch` fills. Without it, their test judges nothing,
//! and says so.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::http::read_messages;
use crate::output::tools::ToolStyle;
use crate::text::{ChatTemplate, ChatTemplates, Conversation};

const CONSTRUCTS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/templates/constructs.json"));
const CONVERSATIONS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/templates/conversations.json"));
const EXPECTED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/templates/expected.json"));

/// Parses a template. Its time is that of the record.
pub(super) fn parse(template: &str) -> Result<ChatTemplate, String> {
    let templates = ChatTemplates {
        default: Some(template.to_owned()),
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        ..ChatTemplates::default()
    };
    let template = ChatTemplate::new(templates).map_err(|error| error.to_string())?.ok_or("no template")?;
    Ok(template.at("2024-05-06T07:08:09Z"))
}

/// Reads a conversation as a client sends it.
pub(super) fn read(conversation: &Value) -> Conversation {
    let messages = read_messages(conversation);
    let tools = conversation["tools"].as_array().cloned().unwrap_or_default();
    Conversation { messages, tools, ..Conversation::default() }
}

/// Constructs that Lockstep renders otherwise, with its side: `None` if it refuses them.
const CONSTRUCTS_THAT_DIFFER: &[(&str, Option<&str>)] = &[
    // A key counts as an attribute.
    ("{{ {'a': 1} | attr('a') }}", Some("1")),
    // Bytes, and arguments that a macro does not name.
    ("{{ 'ab'.encode()[0] }}", None),
    ("{% macro m(x) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, y=3) }}", None),
];

#[test]
fn constructs_render_as_in_transformers() {
    let constructs: Vec<(String, Option<String>)> = serde_json::from_str(CONSTRUCTS).unwrap();
    let conversation = read(&json!({"messages": [{"role": "user", "content": "Hi"}]}));
    let mut wrong = Vec::new();
    let known = |template: &str| constructs.iter().any(|(other, _)| other == template);
    assert!(CONSTRUCTS_THAT_DIFFER.iter().all(|(template, _)| known(template)));
    for (template, expected) in &constructs {
        let own = CONSTRUCTS_THAT_DIFFER.iter().find(|(known, _)| known == template);
        let expected = own.map_or(expected.as_deref(), |(_, own)| *own);
        let render = |template: ChatTemplate| template.render(&conversation).map_err(|error| error.to_string());
        let rendered = parse(template).and_then(render);
        if rendered.as_deref().ok() != expected {
            wrong.push(format!("{template}\n  transformers: {expected:?}\n  Lockstep: {rendered:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} constructs:\n{}", wrong.len(), constructs.len(), wrong.join("\n"));
}

#[test]
fn published_templates_render_as_in_transformers() {
    let Some(folder) = templates_folder() else { return };
    let conversations: Map<String, Value> = serde_json::from_str(CONVERSATIONS).unwrap();
    let expected: Value = serde_json::from_str(EXPECTED).unwrap();
    let mut wrong = Vec::new();
    let templates = expected["templates"].as_object().unwrap();
    for (name, digests) in templates {
        let template = parse(&read_template(&folder, name)).unwrap();
        for ((turns, conversation), digest) in conversations.iter().zip(digests.as_str().unwrap().split(' ')) {
            let rendered = template.render(&read(conversation));
            let own = rendered.as_ref().map_or_else(|_| "null".to_owned(), |prompt| short_digest(prompt));
            if own != digest {
                wrong.push(format!("make_templates.py FOLDER {name} {turns:?}: {rendered:.500?}"));
            }
        }
    }
    let files = std::fs::read_dir(&folder)
        .unwrap()
        .filter(|file| file.as_ref().unwrap().path().extension() == Some("jinja".as_ref()));
    assert_eq!((templates.len(), conversations.len()), (files.count(), 10));
    assert!(wrong.is_empty(), "{} prompts differ; print transformers' own by:\n{}", wrong.len(), wrong.join("\n"));
}

/// Style of the calls of each published template that is recognized.
pub(super) const STYLES: &[(ToolStyle, &[&str])] = &[
    (
        ToolStyle::Hermes,
        &[
            "Bielik-11B-v3.0-Instruct",
            "MiMo-VL",
            "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
            "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
            "Qwen-QwQ-32B",
            "Qwen-Qwen2.5-7B-Instruct",
            "Qwen-Qwen3-0.6B",
            "Reka-Edge",
            "ibm-granite-granite-4.0",
            "ibm-granite-granite-4.1",
        ],
    ),
    (
        ToolStyle::Llama3Json,
        &["meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"],
    ),
    (
        ToolStyle::Mistral,
        &[
            "Mistral-Small-3.2-24B-Instruct-2506",
            "mistralai-Ministral-3-14B-Reasoning-2512",
            "mistralai-Mistral-Nemo-Instruct-2407",
            "unsloth-mistral-Devstral-Small-2507",
        ],
    ),
    (ToolStyle::Qwen3Coder, &["NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Qwen3-Coder", "Qwen3.5-4B", "StepFun3.5-Flash"]),
    (
        ToolStyle::DeepSeekV3,
        &[
            "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
            "llama-cpp-deepseek-r1",
        ],
    ),
    (ToolStyle::DeepSeekV31, &["deepseek-ai-DeepSeek-V3.1"]),
    (
        ToolStyle::DeepSeekV32,
        &["deepseek-ai-DeepSeek-V3.2", "deepseek-ai-DeepSeek-V4", "deepseek-ai-DeepSeek-V4-Flash-0731"],
    ),
    (
        ToolStyle::Glm45,
        &[
            "GLM-4.6",
            "GLM-4.7-Flash",
            "Spark2.5",
            "inclusionai-ling-3.0-flash",
            "poolside-Laguna-S-2.1",
            "poolside-Laguna-XS-2.1",
            "poolside-Laguna-XS.2",
        ],
    ),
    (ToolStyle::KimiK2, &["Kimi-K2-Instruct", "Kimi-K2-Thinking", "moonshotai-Kimi-K2"]),
    (ToolStyle::Harmony, &["openai-gpt-oss-120b"]),
    (ToolStyle::Gemma4, &["google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved"]),
    (ToolStyle::CommandR7b, &["Cohere2MoE", "CohereForAI-c4ai-command-r7b-12-2024-tool_use"]),
    (ToolStyle::FunctionaryV31, &["meetkai-functionary-medium-v3.1"]),
    (ToolStyle::FunctionaryV32, &["meetkai-functionary-medium-v3.2"]),
    (ToolStyle::Firefunction, &["fireworks-ai-llama-3-firefunction-v2"]),
    (ToolStyle::Lfm2, &["LFM2-8B-A1B", "LFM2.5-8B-A1B", "LFM2.5-Instruct"]),
    (ToolStyle::ToolCalls, &["Apriel-1.6-15b-Thinker-fixed", "MiniMax-M1", "unsloth-Apriel-1.5"]),
    (ToolStyle::MinimaxM2, &["MiniMax-M2"]),
    (ToolStyle::NemotronV2, &["NVIDIA-Nemotron-Nano-v2"]),
    (ToolStyle::Granite, &["ibm-granite-granite-3.3-2B-Instruct"]),
    (ToolStyle::SeedOss, &["ByteDance-Seed-OSS"]),
    (ToolStyle::GigaChat3, &["GigaChat3-10B-A1.8B", "GigaChat3.1-10B-A1.8B"]),
    (ToolStyle::Hy3, &["tencent-Hy3"]),
    (ToolStyle::KimiK3, &["Kimi-K3"]),
    (ToolStyle::MiniCpm5, &["openbmb-MiniCPM5-1B"]),
    (ToolStyle::SolarOpen, &["upstage-Solar-Open-100B"]),
    (ToolStyle::Apertus, &["Apertus-8B-Instruct"]),
    (ToolStyle::CommandR, &["CohereForAI-c4ai-command-r-plus-tool_use"]),
    (ToolStyle::MinimaxM3, &["MiniMax-M3"]),
    (ToolStyle::MuseGlimmer, &["muse-glimmer"]),
];
/// Templates that refuse the tools of `conversations.json`. Command R's demands a description of each parameter, and a
/// schema of the values of each object.
const REFUSING_TOOLS: &[&str] = &["CohereForAI-c4ai-command-r-plus-tool_use"];

#[test]
fn published_templates_determine_the_styles() {
    let Some(folder) = templates_folder() else { return };
    let expected: Value = serde_json::from_str(EXPECTED).unwrap();
    for (name, digests) in expected["templates"].as_object().unwrap() {
        let source = read_template(&folder, name);
        let style = STYLES.iter().find(|(_, names)| names.contains(&name.as_str())).map(|(style, _)| *style);
        assert_eq!(ToolStyle::from_template(&source), style, "{name}");
        let shows_tools = source.contains("tools");
        assert!(!shows_tools || style.is_some(), "{name} shows tools, and no parser reads its calls");
        // Conversations with tools are no error where the calls can be read.
        let refused = digests.as_str().unwrap().split(' ').nth(5) == Some("null");
        assert_eq!(shows_tools && refused, REFUSING_TOOLS.contains(&name.as_str()), "{name}");
    }
}

/// Published templates that call reasoning `thinking`, with the text of the reasoning `hm` before a call.
const THINKING: [(&str, &str); 2] =
    [("LFM2.5-8B-A1B", "<think>hm</think>"), ("openai-gpt-oss-120b", "<|channel|>analysis<|message|>hm<|end|>")];

#[test]
fn published_templates_show_the_reasoning_before_a_call() {
    let Some(folder) = templates_folder() else { return };
    let call = json!({"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}});
    let conversation = read(&json!({"messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]}));
    for (name, expected) in THINKING {
        let prompt = parse(&read_template(&folder, name)).unwrap().render(&conversation).unwrap();
        assert_eq!(prompt.matches(expected).count(), 1, "{name}: {prompt}");
    }
}

/// Returns the folder of the templates. Without one, says so.
pub(super) fn templates_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TEST_TEMPLATES").map(PathBuf::from);
    if folder.is_none() {
        println!("LEFT OUT: TEST_TEMPLATES names no folder; tests/fetch makes one");
    }
    folder
}

pub(super) fn read_template(folder: &Path, name: &str) -> String {
    let file = folder.join(format!("{name}.jinja"));
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns the first 8 bytes of the SHA-256 of a text, in hex.
fn short_digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
