//! The group's key and the proof of knowing it.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::communicator::CollectiveError;

/// Bytes of a proof.
pub(crate) const PROOF_BYTES: usize = 32;

/// Shortest key that is accepted, in bytes.
const SHORTEST_KEY: usize = 16;

/// A secret that every rank of a group has and no stranger.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupKey(Vec<u8>);

impl GroupKey {
    /// `Usage` when the key is shorter than 16 bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, CollectiveError> {
        let bytes = bytes.into();
        if bytes.len() < SHORTEST_KEY {
            let found = bytes.len();
            let message = format!("the group's key has {found} bytes: give it at least {SHORTEST_KEY}");
            return Err(CollectiveError::Usage(message));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupKey(…)")
    }
}

/// Who proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialer,
    Acceptor,
}

/// HMAC-SHA256 over the side and both greetings, which hold cluster, epoch, both ranks and both nonces.
fn mac(key: &GroupKey, side: Side, transcript: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).ok()?;
    mac.update(match side {
        Side::Dialer => b"lockstep ring dialer",
        Side::Acceptor => b"lockstep ring accept",
    });
    mac.update(transcript);
    Some(mac)
}

/// The proof of one side; zeros in a group without a key.
pub(crate) fn prove(key: Option<&GroupKey>, side: Side, transcript: &[u8]) -> [u8; PROOF_BYTES] {
    key.and_then(|key| mac(key, side, transcript)).map_or([0; PROOF_BYTES], |mac| mac.finalize().into_bytes().into())
}

/// Whether `proof` is the other side's, compared in constant time; without a key, whether it is zeros.
pub(crate) fn proves(key: Option<&GroupKey>, side: Side, transcript: &[u8], proof: &[u8]) -> bool {
    match key {
        Some(key) => mac(key, side, transcript).is_some_and(|mac| mac.verify_slice(proof).is_ok()),
        None => proof == [0; PROOF_BYTES],
    }
}
