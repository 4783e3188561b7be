//! The fetch of one file from the hub: several ranges at a time, each resumed after a cut.
//!
//! The first range is requested alone. Its response gives the real address of the file, because the hub redirects to a
//! storage with links that expire. It also gives the `ETag` of the content, and shows if the storage supports ranges: a
//! storage without ranges answers with the whole file.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use reqwest::{StatusCode, Url};
use tokio::sync::Semaphore;

use crate::client::{Client, HubRequest, HubResponse, in_words};
use crate::error::{AttemptError, HubError};
use crate::listing::HubFile;
use crate::model::Repository;
use crate::partial::Partial;
use crate::progress::Meter;
use crate::retry::Retries;
use crate::store::Lock;

/// The fetch of one file.
pub(crate) struct FileFetch<'a> {
    pub client: &'a Client,
    pub repository: &'a Repository,
    pub commit: &'a str,
    pub file: &'a HubFile,
    /// The file and its model, for errors.
    pub what: String,
    pub partial: Arc<Partial>,
    pub lock: &'a Lock,
    /// Permits for connections, shared by all files.
    pub connections: &'a Semaphore,
    pub meter: &'a Meter,
    /// Real address of the file, once a response has given it.
    pub location: Mutex<Option<Location>>,
}

/// Address of a file in a storage.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    url: Url,
    etag: Option<String>,
}

/// The fetch of one range. Bytes before `at` are on the disk or in `piece`.
struct RangeFetch {
    at: u64,
    end: u64,
    /// Fetched bytes of the piece that contains `at`.
    piece: Vec<u8>,
}

impl FileFetch<'_> {
    /// Fetches the missing pieces.
    ///
    /// # Errors
    /// The hub refuses a request or sends a wrong answer, or the disk fails.
    pub(crate) async fn fetch_missing(&self) -> Result<(), HubError> {
        let max_pieces = self.client.limits.pieces_per_request;
        let Some(first) = self.partial.missing(max_pieces).into_iter().next() else { return Ok(()) };
        self.fetch_range(first).await?;
        let ranges = self.partial.missing(max_pieces).into_iter().map(|range| self.fetch_range(range));
        let mut fetches = futures::stream::iter(ranges).buffer_unordered(self.client.limits.connections);
        while let Some(done) = fetches.next().await {
            done?;
        }
        Ok(())
    }

    async fn fetch_range(&self, range: Range<u64>) -> Result<(), HubError> {
        let mut fetch = RangeFetch { at: range.start, end: range.end, piece: Vec::new() };
        let mut retries = Retries::new(self.client.limits.retry);
        loop {
            let before = self.partial.bytes_done();
            let (reason, after) = match self.try_range(&mut fetch).await {
                Ok(()) => return Ok(()),
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::Retry { reason, after }) => (reason, after),
            };
            if self.partial.bytes_done() > before {
                retries.reset();
            }
            // The link may have expired, so the next attempt asks the hub again.
            *self.location() = None;
            self.client.pause(&mut retries, &self.what, reason, after).await?;
        }
    }

    fn location(&self) -> std::sync::MutexGuard<'_, Option<Location>> {
        self.location.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request, and reads its response.
    async fn try_range(&self, fetch: &mut RangeFetch) -> Result<(), AttemptError> {
        let permit = self.connections.acquire().await;
        let _permit = permit.map_err(|_| HubError::Ended("the connections were closed".into()))?;
        let location = self.location().clone();
        let (url, etag) = location.map_or_else(|| (self.url(), None), |location| (location.url, location.etag));
        let range = Some(fetch.at..fetch.end);
        let request = HubRequest { what: &self.what, url, range, if_range: etag.as_deref() };
        let response = self.client.send_once(&request).await?;
        *self.location() = Some(Location { url: response.url.clone(), etag: response.etag() });
        let body = self.body_range(&response, fetch)?;
        self.read_body(response, body, fetch).await
    }

    fn url(&self) -> Url {
        let repository = self.repository.as_str().split('/');
        let parts = repository.chain(["resolve", self.commit]).chain(self.file.name.split('/'));
        self.client.url(parts)
    }

    /// Returns the range of the file that the response's body holds. Checks it against the requested range and the size that
    /// the hub lists.
    fn body_range(&self, response: &HubResponse, fetch: &mut RangeFetch) -> Result<Range<u64>, HubError> {
        let wrong = |reason: String| HubError::WrongAnswer { what: self.what.clone(), reason };
        let (headers, size) = (response.response.headers(), self.file.size);
        let length = parse_number(headers, CONTENT_LENGTH.as_str());
        let body = match response.response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let header = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).unwrap_or_default();
                let (range, total) =
                    parse_content_range(header).ok_or_else(|| wrong(format!("its range is `{header}`")))?;
                if total.is_some_and(|total| total != size) {
                    return Err(wrong(format!("it is a part of {} bytes, the hub lists {size}", total.unwrap_or(0))));
                }
                if range.start != fetch.at || range.end > fetch.end {
                    return Err(wrong(format!("the range {header} in answer to {}-{}", fetch.at, fetch.end - 1)));
                }
                range
            }
            _ => {
                // The host sends the whole file, so this fetch takes all of it: the host would send it again for another range.
                fetch.end = size;
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

    /// Reads the body, whose range `body` may begin before the requested range and end before its end.
    async fn read_body(
        &self,
        response: HubResponse,
        body: Range<u64>,
        fetch: &mut RangeFetch,
    ) -> Result<(), AttemptError> {
        let mut response = response.response;
        let mut position = body.start;
        while let Some(chunk) = response.chunk().await.map_err(|error| AttemptError::retry(in_words(error)))? {
            if chunk.len() as u64 > body.end - position {
                let reason = format!("it has more than the {} bytes that it announced", body.end - body.start);
                return Err(HubError::WrongAnswer { what: self.what.clone(), reason }.into());
            }
            let skipped = (fetch.at - position.min(fetch.at)).min(chunk.len() as u64);
            position += chunk.len() as u64;
            self.add_bytes(&chunk[skipped as usize..], fetch).await?;
        }
        match fetch.at {
            at if at >= fetch.end => Ok(()),
            at => Err(AttemptError::retry(format!("the answer was cut {} bytes before its end", fetch.end - at))),
        }
    }

    /// Adds bytes to the range, and writes each piece that is complete.
    async fn add_bytes(&self, mut bytes: &[u8], fetch: &mut RangeFetch) -> Result<(), AttemptError> {
        while !bytes.is_empty() {
            let start = fetch.at - fetch.piece.len() as u64;
            let piece_range = self.partial.piece_at(start);
            let (now, later) = bytes.split_at(bytes.len().min((piece_range.end - fetch.at) as usize));
            fetch.at += now.len() as u64;
            bytes = later;
            fetch.piece.extend_from_slice(now);
            // A host without ranges sends also the pieces that are there already. They do not count again.
            if !self.partial.has_piece(start) {
                self.meter.add(now.len() as u64);
            }
            if fetch.at == piece_range.end {
                let piece = std::mem::take(&mut fetch.piece);
                self.write(start, piece).await?;
            }
        }
        Ok(())
    }

    async fn write(&self, start: u64, piece: Vec<u8>) -> Result<(), HubError> {
        if self.partial.has_piece(start) {
            return Ok(());
        }
        let (partial, lock) = (self.partial.clone(), self.lock.clone());
        let written = tokio::task::spawn_blocking(move || {
            let _lock = lock;
            partial.write(start, &piece).map_err(|cause| HubError::disk(partial.path(), cause))
        });
        written.await.unwrap_or_else(|error| Err(HubError::Ended(error.to_string())))
    }
}

fn parse_number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Parses `bytes 0-4/10` as 0..5 and 10, and `bytes 0-4/*` as 0..5 (RFC 9110, 14.4).
fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
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
    fn content_ranges_are_parsed_strictly() {
        assert_eq!(parse_content_range("bytes 0-4/10"), Some((0..5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5..10, None)));
        let max = format!("bytes 0-{}/*", u64::MAX);
        for bad in ["", "bytes */10", "bytes 4-0/10", "bytes 0-10/10", "items 0-4/10", "bytes a-b/c", &max] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
