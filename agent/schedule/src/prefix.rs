//! Names of full blocks: a chained, keyed 128-bit hash, so that equal names mean equal tokens from the first one on.
//!
//! Without the key nobody can search for two prompts with one name, which would show one client's cache to another.

use sha2::{Digest, Sha256};

/// Names the tokens of one full block and of all blocks before it.
pub(crate) type PrefixHash = [u8; 16];

/// SHA-256 over (key, parent's hash, token ids, little endian), cut to 128 bits. The chain's first parent is all
/// zeros; every block of a scheduler has the same number of tokens, so inputs of one key have one length.
pub(crate) fn hash_block(key: &[u8; 16], parent: Option<&PrefixHash>, tokens: &[u32]) -> PrefixHash {
    let mut hasher = Sha256::new();
    hasher.update(key);
    hasher.update(parent.unwrap_or(&[0; 16]));
    for token in tokens {
        hasher.update(token.to_le_bytes());
    }
    let digest = hasher.finalize();
    let mut hash = PrefixHash::default();
    hash.copy_from_slice(&digest[..16]);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_key_parent_and_every_token() {
        let base = hash_block(&[1; 16], Some(&[2; 16]), &[3, 4]);
        assert_eq!(base, hash_block(&[1; 16], Some(&[2; 16]), &[3, 4]));
        for other in [
            hash_block(&[0; 16], Some(&[2; 16]), &[3, 4]),
            hash_block(&[1; 16], Some(&[0; 16]), &[3, 4]),
            hash_block(&[1; 16], None, &[3, 4]),
            hash_block(&[1; 16], Some(&[2; 16]), &[4, 3]),
        ] {
            assert_ne!(base, other);
        }
    }
}
