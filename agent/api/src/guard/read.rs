//! Reads the body of a request, within bounds of size and time and within the memory of all bodies.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use lockstep_proto::errors::with_causes;

use super::bodies::{BodyMemory, MAX_BODIES_BYTES};

/// Longest part of a body that is one allocation while the body comes.
const CHUNK_BYTES: usize = 64 << 10;

/// Longest body, in bytes: more text than any context holds.
pub(crate) const MAX_BODY_BYTES: usize = 16 << 20;
/// Time within which a client must send its body.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest pause of a client within its body.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a client may find memory for its body, in seconds.
pub(crate) const RETRY_AFTER_S: u32 = 2;

/// Reason why a body was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is longer than {MAX_BODY_BYTES} bytes: no context holds so much text")]
    TooLong,
    #[error("the body came too slowly: no more of it within {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("the body has too many values: send fewer token ids, messages or prompts in one request")]
    TooManyValues,
    #[error("the server has no memory left for the bodies of requests: try again in {RETRY_AFTER_S} s")]
    NoMemory,
    #[error("read the body: {0}")]
    Broken(String),
}

/// Reads a whole body. Refuses a body that announces more bytes than there is memory for without reading it.
///
/// # Errors
/// The body is too long, comes too slowly or breaks off, or there is no memory for it now.
pub(crate) async fn read_body(body: Body, memory: &mut BodyMemory) -> Result<Vec<u8>, BodyError> {
    let read = tokio::time::timeout(BODY_TIMEOUT, read_frames(body, memory));
    read.await.unwrap_or(Err(BodyError::TooSlow(BODY_TIMEOUT)))
}

async fn read_frames(mut body: Body, memory: &mut BodyMemory) -> Result<Vec<u8>, BodyError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    check_length(announced)?;
    if !memory.has_room(announced) {
        return Err(BodyError::NoMemory);
    }
    // One allocation that grows would be copied, and need twice the memory.
    let (mut chunks, mut length): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
    loop {
        let frame = tokio::time::timeout(PAUSE_TIMEOUT, body.frame()).await;
        let Some(frame) = frame.map_err(|_| BodyError::TooSlow(PAUSE_TIMEOUT))? else { break };
        let frame = frame.map_err(|error| BodyError::Broken(with_causes(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        check_length(length)?;
        if !memory.grow(length) {
            return Err(BodyError::NoMemory);
        }
        match chunks.last_mut().filter(|chunk| chunk.len() + data.len() <= CHUNK_BYTES) {
            Some(chunk) => chunk.extend_from_slice(&data),
            None => chunks.push(data.to_vec()),
        }
    }
    join(chunks, length, memory)
}

fn check_length(bytes: usize) -> Result<(), BodyError> {
    if bytes > MAX_BODY_BYTES { Err(BodyError::TooLong) } else { Ok(()) }
}

/// Returns the whole body. Both it and its chunks need memory for a moment.
fn join(mut chunks: Vec<Vec<u8>>, length: usize, memory: &mut BodyMemory) -> Result<Vec<u8>, BodyError> {
    if chunks.len() <= 1 {
        return Ok(chunks.pop().unwrap_or_default());
    }
    if !memory.grow(2 * length) {
        return Err(BodyError::NoMemory);
    }
    let mut bytes = Vec::with_capacity(length);
    chunks.into_iter().for_each(|chunk| bytes.extend_from_slice(&chunk));
    Ok(bytes)
}

impl BodyMemory {
    /// Grows to the bytes that a body and its values need.
    ///
    /// # Errors
    /// [`BodyError::TooManyValues`] if all memory is not enough, or [`BodyError::NoMemory`] if there is not enough now.
    pub(crate) fn grow_to_values(&mut self, bytes: usize) -> Result<(), BodyError> {
        match bytes <= MAX_BODIES_BYTES {
            false => Err(BodyError::TooManyValues),
            true if self.grow(bytes) => Ok(()),
            true => Err(BodyError::NoMemory),
        }
    }
}
