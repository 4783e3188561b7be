//! Published `tokenizer.json` files beside the `tokenizers` package: languages, emoji, spaces, control characters, marks of
//! chats, and random texts. `tests/parity/make_tokenizers.py` made the record.
//!
//! `TEST_TOKENIZERS` names the folder of the files, which `tests/fetch` fills. Without it, this test judges nothing, and
//! says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::text::{Detokenizer, Tokenizer};

const RECORD: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/tokenizers.json"));

/// What `tokenizers` does with one text: the ids; those with the added special tokens; their text without special tokens,
/// and their whole text. A text that is missing equals the input.
type Entry = (Vec<u32>, Vec<u32>, Option<String>, Option<String>);

#[test]
fn published_tokenizers_do_what_their_library_does() {
    let Some(folder) = std::env::var_os("TEST_TOKENIZERS") else {
        println!("LEFT OUT: TEST_TOKENIZERS names no folder; tests/fetch makes one");
        return;
    };
    let mut record: Value = serde_json::from_str(RECORD).unwrap();
    let texts: Vec<String> = serde_json::from_value(record["texts"].take()).unwrap();
    let vocabularies: BTreeMap<String, Vec<Entry>> = serde_json::from_value(record["vocabularies"].take()).unwrap();
    assert_eq!(vocabularies.len(), 6);
    let mut wrong = Vec::new();
    for (name, entries) in &vocabularies {
        assert_eq!(entries.len(), texts.len(), "{name}");
        let json = std::fs::read(Path::new(&folder).join(format!("{name}.json"))).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_json(&json).unwrap());
        for (text, entry) in texts.iter().zip(entries) {
            wrong.extend(differences(&tokenizer, text, entry).map(|what| format!("{name} {text:?}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

fn differences(tokenizer: &Arc<Tokenizer>, text: &str, entry: &Entry) -> impl Iterator<Item = &'static str> {
    let (ids, with_special, text_of, whole) = entry;
    let encode = |special| tokenizer.encode(text, special).unwrap();
    let expected = |recorded: &Option<String>| recorded.clone().unwrap_or_else(|| text.to_owned());
    let without_marks = expected(text_of);
    let same = [
        ("ids", encode(false) == *ids),
        ("ids with special tokens", encode(true) == *with_special),
        ("text", tokenizer.decode(with_special, true) == without_marks),
        ("text with special tokens", tokenizer.decode(with_special, false) == expected(whole)),
        ("streamed text", stream(tokenizer, with_special) == without_marks),
    ];
    same.into_iter().filter_map(|(what, same)| (!same).then_some(what))
}

/// Returns the text as a client reads it, token by token.
fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.clone());
    let mut text: String = ids.iter().map(|id| detokenizer.push(*id)).collect();
    text += &detokenizer.flush();
    text
}
