//! The group's key for links, and the proof that a rank knows it.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::CollectiveError;

/// Bytes of a proof.
pub(crate) const PROOF_BYTES: usize = 32;

/// Fewest bytes of a key.
const MIN_KEY_BYTES: usize = 16;

/// Secret that every rank of a group has, and no stranger.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkKey(Vec<u8>);

impl LinkKey {
    /// Makes a key; `Usage` if it is shorter than 16 bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, CollectiveError> {
        let bytes = bytes.into();
        if bytes.len() < MIN_KEY_BYTES {
            let found = bytes.len();
            let message = format!("the group's key has {found} bytes: give it at least {MIN_KEY_BYTES}");
            return Err(CollectiveError::Usage(message));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(…)")
    }
}

/// Side of a connection that makes a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialer,
    Acceptor,
}

/// Starts an HMAC-SHA256 under the key, and feeds it the side and both greetings. The caller finalizes or verifies it.
/// The greetings hold cluster, epoch, both ranks and both nonces.
fn start_mac(key: &LinkKey, side: Side, transcript: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).ok()?;
    mac.update(match side {
        Side::Dialer => b"lockstep ring dialer",
        Side::Acceptor => b"lockstep ring accept",
    });
    mac.update(transcript);
    Some(mac)
}

/// Returns the proof of one side. In a group without a key it is zeros.
pub(crate) fn make_proof(key: Option<&LinkKey>, side: Side, transcript: &[u8]) -> [u8; PROOF_BYTES] {
    key.and_then(|key| start_mac(key, side, transcript))
        .map_or([0; PROOF_BYTES], |mac| mac.finalize().into_bytes().into())
}

/// Returns true if `proof` is the proof of `side`. The comparison takes constant time.
pub(crate) fn verify_proof(key: Option<&LinkKey>, side: Side, transcript: &[u8], proof: &[u8]) -> bool {
    match key {
        Some(key) => start_mac(key, side, transcript).is_some_and(|mac| mac.verify_slice(proof).is_ok()),
        None => proof == [0; PROOF_BYTES],
    }
}
