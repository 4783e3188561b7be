//! The vocabularies of GGUF files, judged by llama.cpp's own test files: each text must have the ids that llama.cpp expects.
//!
//! `TEST_VOCABULARIES` names the folder of these files, which `tests/fetch` fills. Without it, this test
//! judges nothing, and says so. `make test` sets it.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

/// Vocabularies whose texts the folder has. The others have no expected ids.
const JUDGED: [&str; 15] = [
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
];
const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TEST_VOCABULARIES");
    if folder.is_none() {
        println!("LEFT OUT: TEST_VOCABULARIES names no folder; tests/fetch makes one");
    }
    folder.map(PathBuf::from)
}

/// Returns the texts of one vocabulary, each with the expected ids.
fn expected(path: &Path) -> Vec<(String, Vec<u32>)> {
    let read = |suffix: &str| std::fs::read_to_string(format!("{}.{suffix}", path.display())).unwrap();
    let ids = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let (texts, lines) = (read("inp"), read("out"));
    let lines: Vec<Vec<u32>> = lines.lines().map(ids).collect();
    let texts: Vec<&str> = texts.split(SEPARATOR).collect();
    texts.into_iter().map(str::to_owned).zip(lines).collect()
}

#[test]
fn every_text_has_the_ids_that_llama_cpp_expects() {
    let Some(folder) = folder() else { return };
    let mut wrong = Vec::new();
    for name in JUDGED {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let json = lockstep_engine::gguf::tokenizer_json(&std::fs::read(&path).unwrap()).unwrap();
        let tokenizer = Tokenizer::from_bytes(json).unwrap_or_else(|error| panic!("{name}: {error}"));
        let cases = expected(&path);
        assert!(cases.len() > 40, "{name}: {} texts", cases.len());
        for (text, ids) in cases {
            let found = tokenizer.encode(text.as_str(), false).unwrap();
            if found.get_ids() != ids {
                wrong.push(format!("{name} {text:?}: {:?}, expected {ids:?}", found.get_ids()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} texts:\n{}", wrong.len(), wrong.join("\n"));
}

/// Vocabularies without expected ids are at least read.
#[test]
fn every_vocabulary_of_a_text_model_is_read() {
    let Some(folder) = folder() else { return };
    for name in ["aquila", "baichuan", "gpt-neox"] {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let json = lockstep_engine::gguf::tokenizer_json(&std::fs::read(&path).unwrap());
        let tokenizer = Tokenizer::from_bytes(json.unwrap_or_else(|error| panic!("{name}: {error}"))).unwrap();
        let ids = tokenizer.encode("Hello world", false).unwrap();
        assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap().trim(), "Hello world", "{name}");
    }
}
