//! The progress of a download.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_engine::source::format_bytes;
use tokio::sync::watch;

/// Shortest time between two lines of the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Progress of a download, in bytes of the requested files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that are in the cache, also those that another process fetched.
    pub bytes: u64,
    pub total: u64,
    /// Bytes of other work, such as the check of a digest. The number only shows that the download is alive.
    pub checked: u64,
}

/// Counter of a download's bytes. Clones share the count.
#[derive(Debug, Clone)]
pub struct Meter(Arc<watch::Sender<Progress>>);

impl Meter {
    pub fn new() -> (Self, watch::Receiver<Progress>) {
        let (sender, receiver) = watch::channel(Progress::default());
        (Self(Arc::new(sender)), receiver)
    }

    pub fn begin(&self, total: u64) {
        self.0.send_replace(Progress { bytes: 0, total, checked: 0 });
    }

    pub fn add(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.bytes = progress.bytes.saturating_add(bytes).min(progress.total));
    }

    /// Subtracts bytes that have a wrong digest, or that another process did not complete.
    pub fn take_back(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.bytes = progress.bytes.saturating_sub(bytes));
    }

    pub fn add_checked(&self, bytes: u64) {
        self.0.send_modify(|progress| progress.checked += bytes);
    }
}

/// Log lines of one download. There is at most one line in ten seconds, and none for a short download.
#[derive(Debug)]
pub struct ProgressLog {
    /// Time of the last line, or of the beginning.
    last_line_at: Instant,
    /// Time of the first call with a known total, and the bytes at that time.
    first: Option<(Instant, u64)>,
}

impl ProgressLog {
    pub fn new(now: Instant) -> Self {
        Self { last_line_at: now, first: None }
    }

    /// Returns the next log line if it is due.
    pub fn next_line(&mut self, now: Instant, progress: Progress) -> Option<String> {
        if progress.total == 0 {
            return None;
        }
        let (began, first) = *self.first.get_or_insert((now, progress.bytes));
        if now.duration_since(self.last_line_at) < LOG_INTERVAL {
            return None;
        }
        self.last_line_at = now;
        let seconds = now.duration_since(began).as_secs_f64().max(0.001);
        let rate = progress.bytes.saturating_sub(first) as f64 / seconds;
        let percent = progress.bytes.saturating_mul(100) / progress.total;
        let remaining_time = match rate >= 1.0 {
            true => format!(", {} s left", ((progress.total - progress.bytes) as f64 / rate).ceil()),
            false => String::new(),
        };
        let (bytes, total) = (format_bytes(progress.bytes), format_bytes(progress.total));
        Some(format!("downloading: {percent}%, {bytes} of {total}, {}/s{remaining_time}", format_bytes(rate as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_download_is_logged_every_ten_seconds() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let progress = |bytes| Progress { bytes, total: 4_000_000_000, checked: 0 };
        let mut log = ProgressLog::new(began);
        assert_eq!(log.next_line(at(0), progress(1_000_000_000)), None);
        assert_eq!(log.next_line(at(9), progress(1_900_000_000)), None);
        let line = log.next_line(at(10), progress(2_000_000_000)).unwrap();
        assert_eq!(line, "downloading: 50%, 2.0 GB of 4.0 GB, 100.0 MB/s, 20 s left");
        assert_eq!(log.next_line(at(19), progress(2_000_000_000)), None);
    }

    #[test]
    fn a_meter_stays_within_its_total() {
        let (meter, watch) = Meter::new();
        meter.begin(10);
        meter.add(7);
        meter.add(7);
        assert_eq!(*watch.borrow(), Progress { bytes: 10, total: 10, checked: 0 });
        meter.take_back(20);
        assert_eq!(watch.borrow().bytes, 0);
    }
}
