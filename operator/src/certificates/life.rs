//! How long certificates live, and when they are renewed.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use x509_parser::certificate::Validity;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// How long a CA is valid.
pub const CA_LIFE: Duration = Duration::from_secs(365 * DAY);

/// How long a leaf is valid.
pub const LEAF_LIFE: Duration = Duration::from_secs(30 * DAY);

/// How long a written Secret may take to reach every pod. The kubelet needs a minute or two; a node that is away for a
/// while needs longer, and nothing is lost by waiting.
pub const SPREAD: Duration = Duration::from_secs(DAY);

/// How far a certificate is dated back, for clocks that are slow.
const BACKDATED: i64 = HOUR as i64;

/// From when to when a certificate is valid, in seconds of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub not_before: i64,
    pub not_after: i64,
}

impl Life {
    /// Of a certificate made `now`.
    pub fn starting(now: Timestamp, lasting: Duration) -> Self {
        let now = now.as_second();
        Self { not_before: now - BACKDATED, not_after: now + seconds(lasting) }
    }

    /// As a certificate says it.
    pub fn said(validity: &Validity) -> Self {
        Self { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() }
    }

    /// When it was made.
    pub fn issued(self) -> i64 {
        self.not_before + BACKDATED
    }

    /// When two thirds of it are over.
    pub fn renewed_at(self) -> i64 {
        self.issued() + (self.not_after - self.issued()) / 3 * 2
    }

    /// It is neither over nor to be renewed. One from the future was made under a clock that was wrong.
    pub fn fresh(self, now: Timestamp) -> bool {
        self.valid(now) && now.as_second() < self.renewed_at()
    }

    pub fn valid(self, now: Timestamp) -> bool {
        (self.not_before..self.not_after).contains(&now.as_second())
    }

    /// Since it was made, every pod has had the time to see it.
    pub fn spread(self, now: Timestamp) -> bool {
        now.as_second() >= self.spread_at()
    }

    pub fn spread_at(self) -> i64 {
        self.issued() + seconds(SPREAD)
    }
}

fn seconds(duration: Duration) -> i64 {
    duration.as_secs().try_into().unwrap_or(i64::MAX)
}
