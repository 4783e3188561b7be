//! Lifetimes of certificates, and the times at which they are renewed.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use x509_parser::certificate::Validity;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Lifetime of a CA.
pub const CA_LIFETIME: Duration = Duration::from_secs(365 * DAY);

/// Lifetime of a leaf.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * DAY);

/// Time within which a written Secret reaches every pod. A kubelet needs a minute or two. A Kubernetes node that is
/// away for a while needs longer, and nothing is lost by waiting.
pub const SPREAD: Duration = Duration::from_secs(DAY);

/// Seconds by which a certificate is dated back, for clocks that are slow.
const BACKDATED: i64 = HOUR as i64;

/// Time in which a certificate is valid, in seconds of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub not_before: i64,
    pub not_after: i64,
}

impl Lifetime {
    /// Returns the lifetime of a certificate that is made `now` and holds for `duration`.
    pub fn starting_at(now: Timestamp, duration: Duration) -> Self {
        let now = now.as_second();
        Self { not_before: now - BACKDATED, not_after: now + seconds(duration) }
    }

    /// Returns the lifetime in a certificate.
    pub fn from_x509(validity: &Validity) -> Self {
        Self { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() }
    }

    /// Returns the time at which the certificate was made.
    pub fn issued_at(self) -> i64 {
        self.not_before + BACKDATED
    }

    /// Returns the time at which two thirds of the lifetime are over and the certificate is renewed.
    pub fn renewed_at(self) -> i64 {
        self.issued_at() + (self.not_after - self.issued_at()) / 3 * 2
    }

    /// Returns true if the certificate is valid and not to be renewed yet. A certificate from the future, made under a
    /// wrong clock, is not valid.
    pub fn is_fresh(self, now: Timestamp) -> bool {
        self.is_valid(now) && now.as_second() < self.renewed_at()
    }

    pub fn is_valid(self, now: Timestamp) -> bool {
        (self.not_before..self.not_after).contains(&now.as_second())
    }

    /// Returns true if every pod has had the time to see the certificate.
    pub fn is_spread(self, now: Timestamp) -> bool {
        now.as_second() >= self.spread_at()
    }

    pub fn spread_at(self) -> i64 {
        self.issued_at() + seconds(SPREAD)
    }
}

fn seconds(duration: Duration) -> i64 {
    duration.as_secs().try_into().unwrap_or(i64::MAX)
}
