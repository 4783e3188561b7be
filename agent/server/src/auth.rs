//! The group's key, and the challenge by which a node and the head prove to each other on the control stream that
//! they have it. Layout of what is proved: `proto/lockstep/node/v1/control.proto`, `Challenge`.

use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use lockstep_proto::names::group_key::{MAX_BYTES as MAX_KEY_BYTES, MIN_BYTES as MIN_KEY_BYTES};
use sha2::Sha256;

use lockstep_engine::source::read_small_file;

/// Longest file that is read: white space may follow the key.
const MAX_KEY_FILE: u64 = 2 * MAX_KEY_BYTES as u64;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

/// The group's key. Never shown.
#[derive(Clone)]
pub struct GroupKey(Vec<u8>);

impl std::fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GroupKey(…)")
    }
}

/// Who proves; the roles' proofs differ, so that neither can be played back to its maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Head,
    Node,
}

/// Why there is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read the group's key {path}: {cause}; a key has {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random bytes")]
    Read { path: String, cause: std::io::Error },
    #[error("the group's key {path} has {bytes} bytes: give it {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random ones")]
    Size { path: String, bytes: usize },
}

impl GroupKey {
    /// Reads a key; white space at its end does not count.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let shown = path.display().to_string();
        let read = read_small_file(path, MAX_KEY_FILE);
        let mut bytes = read.map_err(|cause| KeyError::Read { path: shown.clone(), cause })?;
        bytes.truncate(bytes.trim_ascii_end().len());
        if !(MIN_KEY_BYTES..=MAX_KEY_BYTES).contains(&bytes.len()) {
            return Err(KeyError::Size { path: shown, bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// The key's bytes, for the ring's own challenge.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What `side` says to show that it has the key.
    pub fn prove(&self, side: Side, cluster_id: &str, node_nonce: &[u8], head_nonce: &[u8]) -> Vec<u8> {
        self.mac(side, cluster_id, node_nonce, head_nonce).finalize().into_bytes().to_vec()
    }

    /// Whether `proof` is what `side` must say; takes the same time wherever it differs.
    pub fn accepts(&self, proof: &[u8], side: Side, cluster_id: &str, node_nonce: &[u8], head_nonce: &[u8]) -> bool {
        self.mac(side, cluster_id, node_nonce, head_nonce).verify_slice(proof).is_ok()
    }

    fn mac(&self, side: Side, cluster_id: &str, node_nonce: &[u8], head_nonce: &[u8]) -> Hmac<Sha256> {
        let role: &[u8] = match side {
            Side::Head => b"head",
            Side::Node => b"node",
        };
        // A key of any length is good for HMAC (RFC 2104); the empty one cannot occur.
        let mut mac = <Hmac<Sha256>>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
        for part in [role, cluster_id.as_bytes(), node_nonce, head_nonce] {
            mac.update(&(part.len() as u32).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Fresh random bytes.
pub fn nonce() -> Vec<u8> {
    [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_hold_for_their_maker_alone() {
        let (key, other) = (GroupKey(vec![1; 16]), GroupKey(vec![2; 16]));
        let (a, b) = (nonce(), nonce());
        assert_eq!(a.len(), NONCE_BYTES);
        let proof = key.prove(Side::Node, "c", &a, &b);
        assert!(key.accepts(&proof, Side::Node, "c", &a, &b));
        assert!(!key.accepts(&proof, Side::Head, "c", &a, &b));
        assert!(!key.accepts(&proof, Side::Node, "d", &a, &b));
        assert!(!key.accepts(&proof, Side::Node, "c", &b, &a));
        assert!(!other.accepts(&proof, Side::Node, "c", &a, &b));
    }

    #[test]
    fn bad_key_files_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let told = format!("{:#}", anyhow::Error::from(GroupKey::read(&path).unwrap_err()));
        assert!(told.contains("read the group's key") && told.matches("No such file").count() == 1, "{told}");
        std::fs::write(&path, "short\n").expect("write");
        assert!(GroupKey::read(&path).unwrap_err().to_string().contains("has 5 bytes: give it 16 to 4096"));
        std::fs::write(&path, "x".repeat(10_000)).expect("write");
        let told = GroupKey::read(&path).unwrap_err().to_string();
        assert!(told.contains("larger than 8192 bytes; a key has 16 to 4096"), "{told}");
        std::fs::write(&path, "0123456789abcdef\n").expect("write");
        assert_eq!(GroupKey::read(&path).expect("a key").bytes(), b"0123456789abcdef");
    }
}
