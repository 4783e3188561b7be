//! Download of one file: several ranges at a time. A range that is cut goes on where it stopped.
//!
//! The first range is requested alone. Its response tells the file's final address (the hub redirects to a storage, by
//! links that last a while), the storage's `ETag`, and the support of ranges. A host without ranges sends the whole
//! file in this response.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use reqwest::{StatusCode, Url};
use tokio::sync::Semaphore;

use crate::client::{Client, HubRequest, HubResponse, in_words};
use crate::error::{Failure, HubError};
use crate::listing::HubFile;
use crate::model::Repository;
use crate::partial::Partial;
use crate::progress::Meter;
use crate::retry::Retries;

/// Download of one file.
pub(crate) struct Fetch<'a> {
    pub client: &'a Client,
    pub repository: &'a Repository,
    pub commit: &'a str,
    pub file: &'a HubFile,
    /// The file and its model, for errors.
    pub what: String,
    pub partial: Arc<Partial>,
    /// Connections that may be open, all files together.
    pub connections: &'a Semaphore,
    pub meter: &'a Meter,
    /// Final address of the file, and its `ETag` there.
    pub place: Mutex<Option<Place>>,
}

/// Place of a file in a storage.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    url: Url,
    etag: Option<String>,
}

/// A range on its way. Bytes before `at` are written or in `piece`.
struct Run {
    at: u64,
    end: u64,
    /// Bytes of the piece that `at` is in.
    piece: Vec<u8>,
}

impl Fetch<'_> {
    /// Fetches the missing pieces.
    ///
    /// # Errors
    /// The hub's refusal, a response that makes no sense, or the disk's error.
    pub(crate) async fn all(&self) -> Result<(), HubError> {
        let most = self.client.limits.run_pieces;
        let Some(first) = self.partial.missing(most).into_iter().next() else { return Ok(()) };
        self.run(first).await?;
        let rest = self.partial.missing(most).into_iter().map(|range| self.run(range));
        let mut rest = futures::stream::iter(rest).buffer_unordered(self.client.limits.connections);
        while let Some(done) = rest.next().await {
            done?;
        }
        Ok(())
    }

    async fn run(&self, range: Range<u64>) -> Result<(), HubError> {
        let mut run = Run { at: range.start, end: range.end, piece: Vec::new() };
        let mut retries = Retries::new(self.client.limits.retry);
        loop {
            let before = self.partial.bytes_done();
            let (reason, after) = match self.attempt(&mut run).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { reason, after }) => (reason, after),
            };
            if self.partial.bytes_done() > before {
                retries.reset();
            }
            // The link may have run out. The next attempt asks for a new one.
            *self.place() = None;
            self.client.pause(&mut retries, &self.what, reason, after).await?;
        }
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request and reads its response.
    async fn attempt(&self, run: &mut Run) -> Result<(), Failure> {
        let permit = self.connections.acquire().await;
        let _permit = permit.map_err(|_| HubError::Ended("its connections were closed".into()))?;
        let place = self.place().clone();
        let (url, etag) = place.map_or_else(|| (self.url(), None), |place| (place.url, place.etag));
        let ask = HubRequest { what: &self.what, url, range: Some(run.at..run.end), if_range: etag.as_deref() };
        let answer = self.client.try_get(&ask).await?;
        *self.place() = Some(Place { url: answer.url.clone(), etag: answer.etag() });
        let body = self.sent(&answer, run)?;
        self.read_body(answer, body, run).await
    }

    fn url(&self) -> Url {
        let repository = self.repository.as_str().split('/');
        let parts = repository.chain(["resolve", self.commit]).chain(self.file.name.split('/'));
        self.client.url(parts)
    }

    /// Returns the range of the file that the response's body holds, checked against the request and the hub's list.
    fn sent(&self, answer: &HubResponse, run: &mut Run) -> Result<Range<u64>, HubError> {
        let wrong = |reason: String| HubError::Answer { what: self.what.clone(), reason };
        let (headers, size) = (answer.response.headers(), self.file.size);
        let length = number(headers, CONTENT_LENGTH.as_str());
        let body = match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let said = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
                let (range, total) = content_range(said).ok_or_else(|| wrong(format!("a range of `{said}`")))?;
                if total.is_some_and(|total| total != size) {
                    return Err(wrong(format!("it is a part of {} bytes, the hub lists {size}", total.unwrap_or(0))));
                }
                if range.start != run.at || range.end > run.end {
                    return Err(wrong(format!("the range {said} in answer to {}-{}", run.at, run.end - 1)));
                }
                range
            }
            _ => {
                // The host sends all of the file, so all of it is read: for another range it would send everything
                // again.
                run.end = size;
                0..size
            }
        };
        match length {
            Some(length) if length != body.end - body.start => {
                Err(wrong(format!("{length} bytes are announced, the hub lists {}", body.end - body.start)))
            }
            _ => Ok(body),
        }
    }

    /// Reads `body`, which may begin before the run and end before it.
    async fn read_body(&self, answer: HubResponse, body: Range<u64>, run: &mut Run) -> Result<(), Failure> {
        let mut response = answer.response;
        let mut position = body.start;
        while let Some(chunk) = response.chunk().await.map_err(|error| Failure::again(in_words(error)))? {
            if chunk.len() as u64 > body.end - position {
                let reason = format!("more than the {} bytes that were announced", body.end - body.start);
                return Err(HubError::Answer { what: self.what.clone(), reason }.into());
            }
            let skipped = (run.at - position.min(run.at)).min(chunk.len() as u64);
            position += chunk.len() as u64;
            self.write_pieces(&chunk[skipped as usize..], run).await?;
        }
        match run.at {
            at if at >= run.end => Ok(()),
            at => Err(Failure::again(format!("the answer was cut {} bytes before its end", run.end - at))),
        }
    }

    /// Adds bytes to the run, and writes each piece that they fill.
    async fn write_pieces(&self, mut bytes: &[u8], run: &mut Run) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let start = run.at - run.piece.len() as u64;
            let whole = self.partial.piece_at(start);
            let (now, later) = bytes.split_at(bytes.len().min((whole.end - run.at) as usize));
            run.at += now.len() as u64;
            bytes = later;
            run.piece.extend_from_slice(now);
            // A host without ranges also sends pieces that are there already.
            if !self.partial.has(start) {
                self.meter.add(now.len() as u64);
            }
            if run.at == whole.end {
                let piece = std::mem::take(&mut run.piece);
                self.write(start, piece).await?;
            }
        }
        Ok(())
    }

    async fn write(&self, start: u64, piece: Vec<u8>) -> Result<(), HubError> {
        if self.partial.has(start) {
            return Ok(());
        }
        let partial = self.partial.clone();
        let written = tokio::task::spawn_blocking(move || {
            partial.write(start, &piece).map_err(|cause| HubError::disk(partial.path(), cause))
        });
        written.await.unwrap_or_else(|error| Err(HubError::Ended(error.to_string())))
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// `bytes 0-4/10` as 0..5 and 10, `bytes 0-4/*` as 0..5 (RFC 9110, 14.4).
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let end = last.checked_add(1)?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first < end && total.is_none_or(|total| end <= total)).then_some((first..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers() {
        assert_eq!(content_range("bytes 0-4/10"), Some((0..5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5..10, None)));
        let max = format!("bytes 0-{}/*", u64::MAX);
        for bad in ["", "bytes */10", "bytes 4-0/10", "bytes 0-10/10", "items 0-4/10", "bytes a-b/c", &max] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
