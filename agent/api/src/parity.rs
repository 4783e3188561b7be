//! Chat templates beside transformers: constructs of Jinja and Python, and the templates that llama.cpp ships, each with
//! several conversations. `tests/parity/make_templates.py` recorded what transformers renders.
//!
//! `TEST_TEMPLATES` names the folder of the templates, which `tests/fetch` fills. Without it, their test judges nothing,
//! and says so.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::http::parse_messages;
use crate::text::{ChatTemplate, ChatTemplates, Conversation};

const CONSTRUCTS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/templates/constructs.json"));
const CONVERSATIONS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/templates/conversations.json"));
const EXPECTED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/templates/expected.json"));

/// Parses a template. Its time is that of the record.
fn parse(template: &str) -> Result<ChatTemplate, String> {
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
fn read(conversation: &Value) -> Conversation {
    let messages = parse_messages(Some(conversation["messages"].clone())).unwrap();
    let tools = conversation["tools"].as_array().cloned().unwrap_or_default();
    Conversation { messages, tools, variables: Map::new() }
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
    let Some(folder) = std::env::var_os("TEST_TEMPLATES") else {
        println!("LEFT OUT: TEST_TEMPLATES names no folder; tests/fetch makes one");
        return;
    };
    let conversations: Map<String, Value> = serde_json::from_str(CONVERSATIONS).unwrap();
    let expected: Value = serde_json::from_str(EXPECTED).unwrap();
    let mut wrong = Vec::new();
    let templates = expected["templates"].as_object().unwrap();
    for (name, digests) in templates {
        let file = std::path::Path::new(&folder).join(format!("{name}.jinja"));
        let source = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let template = parse(&source).unwrap();
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

/// Returns the first 8 bytes of the SHA-256 of a text, in hex.
fn short_digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
