//! The model's vocabulary for the grammar library: the bytes of every token, in a trie.

use std::sync::Arc;

use toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};

use crate::text::Tokenizer;

/// Longest token for which the trie has room, in bytes. A grammar never allows a longer token.
const MAX_TOKEN_BYTES: usize = 1000;
/// Most tokens. The trie numbers tokens with 24 bits, and one number means no token.
const MAX_TOKENS: u32 = (1 << 24) - 2;

/// Builds the trie.
///
/// # Errors
/// The vocabulary is too large.
pub(crate) fn environment(tokenizer: &Tokenizer, vocab_size: u32, eos_token_ids: &[u32]) -> Result<TokEnv, String> {
    if vocab_size > MAX_TOKENS {
        return Err(format!("a vocabulary of {vocab_size} tokens is too large for grammars: at most {MAX_TOKENS}"));
    }
    let words: Vec<Vec<u8>> = (0..vocab_size).map(|id| word(tokenizer, id)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(vocab_size, INVALID_TOKEN), &words);
    let ends: Vec<u32> = eos_token_ids.iter().copied().filter(|id| *id < vocab_size).collect();
    let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
    // Grammars force no tokens here, so the tokenizer's way of cutting a text does not matter.
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

/// Returns the bytes of a token. Special tokens are marked, so that no text of a grammar spells one.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let mut bytes = tokenizer.token_bytes(id);
    if tokenizer.is_special(id) {
        bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
    }
    if bytes.len() > MAX_TOKEN_BYTES { Vec::new() } else { bytes }
}
