//! Constants of the handshake that dialer and acceptor share: its time limit, the layout of the acceptor's last
//! message, and the pauses between two calls.

use std::time::Duration;

use crate::ring::key::PROOF_BYTES;

/// Time within which a caller must prove that it knows the key. Afterwards the acceptor closes the connection.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// First byte of the acceptor's last message if it accepts the dialer.
pub(crate) const ACCEPTED: u8 = 1;
/// First byte of the acceptor's last message if it rejects the dialer's proof.
pub(crate) const NOT_ACCEPTED: u8 = 2;
/// Bytes of the acceptor's last message: the byte above, then the acceptor's proof.
pub(crate) const LAST_MESSAGE_BYTES: usize = 1 + PROOF_BYTES;

/// First and longest pause between two calls to a rank that does not listen yet. The pause doubles.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(10);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(100);
