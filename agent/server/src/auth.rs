//! The group's key. Node and head prove to each other on the control stream that they have it.
//!
//! `Challenge` in `proto/lockstep/node/v1/control.proto` gives the layout of a proof.

use std::io::ErrorKind;
use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use lockstep_proto::names::group_key::{MAX_BYTES as MAX_KEY_BYTES, MIN_BYTES as MIN_KEY_BYTES};
use sha2::Sha256;

use lockstep_engine::source::read_secret_file;

/// Largest key file. White space may follow the key.
const MAX_KEY_FILE: u64 = 2 * MAX_KEY_BYTES as u64;

/// The group's key. `Debug` hides it.
#[derive(Clone)]
pub struct GroupKey(Vec<u8>);

impl std::fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GroupKey(…)")
    }
}

/// Side that proves the key. The proofs of the two sides differ, so a side cannot replay a proof to the side that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Head,
    Node,
}

/// Reason why there is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read the group's key {path}: {cause}; a key has {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random bytes")]
    Read { path: String, cause: std::io::Error },
    #[error("read the group's key {path}: {cause}")]
    Denied { path: String, cause: std::io::Error },
    #[error("the group's key {path} has {bytes} bytes: give it {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random ones")]
    Size { path: String, bytes: usize },
}

impl GroupKey {
    /// Reads a key from a file. White space at the end of the file is not part of the key.
    ///
    /// # Errors
    /// Fails if the file cannot be read, other users have access to it, or the key is too short or too long.
    pub fn read_file(path: &Path) -> Result<Self, KeyError> {
        let shown = path.display().to_string();
        let mut bytes = match read_secret_file(path, MAX_KEY_FILE) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == ErrorKind::PermissionDenied => {
                return Err(KeyError::Denied { path: shown, cause });
            }
            Err(cause) => return Err(KeyError::Read { path: shown, cause }),
        };
        bytes.truncate(bytes.trim_ascii_end().len());
        if !(MIN_KEY_BYTES..=MAX_KEY_BYTES).contains(&bytes.len()) {
            return Err(KeyError::Size { path: shown, bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// Returns the key's bytes, for the ring's own challenge.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the proof by which `side` shows that it has the key.
    pub fn prove(&self, side: Side, cluster_id: &str, node_nonce: &[u8], head_nonce: &[u8]) -> Vec<u8> {
        self.mac(side, cluster_id, node_nonce, head_nonce).finalize().into_bytes().to_vec()
    }

    /// Returns true if `proof` is the proof of `side`. The comparison takes constant time.
    pub fn accepts(&self, proof: &[u8], side: Side, cluster_id: &str, node_nonce: &[u8], head_nonce: &[u8]) -> bool {
        self.mac(side, cluster_id, node_nonce, head_nonce).verify_slice(proof).is_ok()
    }

    /// Returns the authentication code of a proof.
    fn mac(&self, side: Side, cluster_id: &str, node_nonce: &[u8], head_nonce: &[u8]) -> Hmac<Sha256> {
        let role: &[u8] = match side {
            Side::Head => b"head",
            Side::Node => b"node",
        };
        // HMAC takes a key of any length (RFC 2104).
        let mut mac = <Hmac<Sha256>>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
        for part in [role, cluster_id.as_bytes(), node_nonce, head_nonce] {
            mac.update(&(part.len() as u32).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Returns 32 fresh random bytes.
pub(crate) fn nonce() -> Vec<u8> {
    [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{expose, write_secret};

    #[test]
    fn a_proof_is_valid_only_for_its_side_key_cluster_and_nonces() {
        let (key, other) = (GroupKey(vec![1; 16]), GroupKey(vec![2; 16]));
        let (a, b) = (nonce(), nonce());
        assert_eq!(a.len(), 32);
        let proof = key.prove(Side::Node, "c", &a, &b);
        assert!(key.accepts(&proof, Side::Node, "c", &a, &b));
        assert!(!key.accepts(&proof, Side::Head, "c", &a, &b));
        assert!(!key.accepts(&proof, Side::Node, "d", &a, &b));
        assert!(!key.accepts(&proof, Side::Node, "c", &b, &a));
        assert!(!other.accepts(&proof, Side::Node, "c", &a, &b));
    }

    #[test]
    fn errors_name_the_bad_key_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let message = format!("{:#}", anyhow::Error::from(GroupKey::read_file(&path).unwrap_err()));
        assert!(message.contains("read the group's key") && message.matches("No such file").count() == 1, "{message}");
        write_secret(&path, "short\n");
        assert!(GroupKey::read_file(&path).unwrap_err().to_string().contains("has 5 bytes: give it 16 to 4096"));
        write_secret(&path, &"x".repeat(10_000));
        let message = GroupKey::read_file(&path).unwrap_err().to_string();
        assert!(message.contains("larger than 8192 bytes; a key has 16 to 4096"), "{message}");
        write_secret(&path, "0123456789abcdef\n");
        assert_eq!(GroupKey::read_file(&path).expect("a key").bytes(), b"0123456789abcdef");
        expose(&path);
        let message = GroupKey::read_file(&path).unwrap_err().to_string();
        assert!(message.contains("its mode 0644 gives") && message.ends_with("/key`"), "{message}");
    }
}
