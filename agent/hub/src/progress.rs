//! Progress of a download, for those who show it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::shown;

/// Shortest time between two lines of the log.
const PAUSE: Duration = Duration::from_secs(10);

/// Bytes of the files that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that are there, whichever process fetched them.
    pub bytes: u64,
    pub total: u64,
    /// Bytes of other work, such as reading a file to check it.
    pub moved: u64,
}

/// Counter of progress. Cheap to clone, safe to share.
#[derive(Debug, Clone)]
pub struct Meter(Arc<watch::Sender<Progress>>);

impl Meter {
    pub fn new() -> (Self, watch::Receiver<Progress>) {
        let (sender, receiver) = watch::channel(Progress::default());
        (Self(Arc::new(sender)), receiver)
    }

    pub fn begin(&self, total: u64) {
        self.0.send_replace(Progress { bytes: 0, total, moved: 0 });
    }

    pub fn add(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.bytes = progress.bytes.saturating_add(bytes).min(progress.total));
    }

    /// Subtracts bytes that were damaged, or that another process left unfinished.
    pub fn take_back(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.bytes = progress.bytes.saturating_sub(bytes));
    }

    pub fn moved(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.moved += bytes);
    }
}

/// Lines of the log about one download: at most one in ten seconds, and none about a short download.
#[derive(Debug)]
pub struct Log {
    told: Instant,
    /// Time of the first report, and the number of bytes then.
    first: Option<(Instant, u64)>,
}

impl Log {
    pub fn new(now: Instant) -> Self {
        Self { told: now, first: None }
    }

    /// Returns the line to log now, if there is one.
    pub fn line(&mut self, now: Instant, progress: Progress) -> Option<String> {
        if progress.total == 0 {
            return None;
        }
        let (began, first) = *self.first.get_or_insert((now, progress.bytes));
        if now.duration_since(self.told) < PAUSE {
            return None;
        }
        self.told = now;
        let seconds = now.duration_since(began).as_secs_f64().max(0.001);
        let rate = progress.bytes.saturating_sub(first) as f64 / seconds;
        let percent = progress.bytes.saturating_mul(100) / progress.total;
        let left = match rate >= 1.0 {
            true => format!(", {} s left", ((progress.total - progress.bytes) as f64 / rate).ceil()),
            false => String::new(),
        };
        let (bytes, total) = (shown(progress.bytes), shown(progress.total));
        Some(format!("downloading: {percent}%, {bytes} of {total}, {}/s{left}", shown(rate as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_download_is_told_of_now_and_then() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let progress = |bytes| Progress { bytes, total: 4_000_000_000, moved: 0 };
        let mut log = Log::new(began);
        assert_eq!(log.line(at(0), progress(1_000_000_000)), None);
        assert_eq!(log.line(at(9), progress(1_900_000_000)), None);
        let line = log.line(at(10), progress(2_000_000_000)).unwrap();
        assert_eq!(line, "downloading: 50%, 2.0 GB of 4.0 GB, 100.0 MB/s, 20 s left");
        assert_eq!(log.line(at(19), progress(2_000_000_000)), None);
    }

    #[test]
    fn a_meter_stays_within_its_total() {
        let (meter, watch) = Meter::new();
        meter.begin(10);
        meter.add(7);
        meter.add(7);
        assert_eq!(*watch.borrow(), Progress { bytes: 10, total: 10, moved: 0 });
        meter.take_back(20);
        assert_eq!(watch.borrow().bytes, 0);
    }
}
