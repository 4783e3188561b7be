//! The hash of a full KV block: chained, keyed, 128 bits. Two blocks have equal hashes only if their tokens, and all
//! tokens before them, are equal.
//!
//! The hash is keyed because of collisions: the answer to one client would then follow from another client's cached
//! tokens. A client that does not know the key cannot search for two prompts with the same hash.

use sha2::{Digest, Sha256};

/// Hash of the tokens of one full block and of all blocks before it.
pub(crate) type BlockHash = [u8; 16];

/// Hashes the tokens of one full block: SHA-256 over (key, parent's hash, token ids in little endian), cut to 128 bits.
///
/// The first block of a sequence has no parent and hashes 16 zero bytes in its place. All blocks of a scheduler have
/// the same number of tokens, so all inputs under one key have the same length.
pub(crate) fn hash_block(key: &[u8; 16], parent: Option<&BlockHash>, tokens: &[u32]) -> BlockHash {
    let mut hasher = Sha256::new();
    hasher.update(key);
    hasher.update(parent.unwrap_or(&[0; 16]));
    for token in tokens {
        hasher.update(token.to_le_bytes());
    }
    let digest = hasher.finalize();
    let mut hash = BlockHash::default();
    hash.copy_from_slice(&digest[..16]);
    hash
}

/// Returns what stands in place of the first block's parent for the requests with one salt: SHA-256 over (key, 16 zero
/// bytes, salt), cut to 128 bits. Without a salt, the first block has no parent.
pub(crate) fn hash_salt(key: &[u8; 16], salt: &str) -> Option<BlockHash> {
    (!salt.is_empty()).then(|| {
        let digest = Sha256::new().chain_update(key).chain_update([0; 16]).chain_update(salt).finalize();
        let mut hash = BlockHash::default();
        hash.copy_from_slice(&digest[..16]);
        hash
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_key_parent_and_every_token() {
        let base = hash_block(&[1; 16], Some(&[2; 16]), &[3, 4]);
        assert_eq!(base, hash_block(&[1; 16], Some(&[2; 16]), &[3, 4]));
        for changed in [
            hash_block(&[0; 16], Some(&[2; 16]), &[3, 4]),
            hash_block(&[1; 16], Some(&[0; 16]), &[3, 4]),
            hash_block(&[1; 16], None, &[3, 4]),
            hash_block(&[1; 16], Some(&[2; 16]), &[4, 3]),
        ] {
            assert_ne!(base, changed);
        }
    }
}
