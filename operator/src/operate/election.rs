//! Leader election by a Lease (coordination.k8s.io/v1), with the times that Kubernetes' own controllers use.
//!
//! A holder that cannot renew the lease ends before another contender may take it. Each contender waits a whole duration, by
//! its own clock, since it last saw the lease change. So two never hold the lease at once, as long as their clocks run at
//! about the same speed.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

/// Time for which a lease holds after its last renewal.
pub(super) const LEASE_DURATION: Duration = Duration::from_secs(15);
/// Time without a renewal after which a holder gives up.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Contender for a lease.
pub(super) struct Election {
    api: Api<Lease>,
    name: String,
    holder: String,
    /// Version of the lease that was seen last, and the time at which it was seen first.
    seen: Option<(Option<String>, Instant)>,
}

impl Election {
    pub(super) fn new(client: Client, namespace: &str, name: &str, holder: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.into(), holder: holder.into(), seen: None }
    }

    /// Waits until this process holds the lease. Returns false if `stop` came first.
    pub(super) async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        let mut is_logged = false;
        loop {
            match self.attempt().await {
                Ok(None) => return true,
                Ok(Some(other)) if !is_logged => {
                    tracing::info!(lease = self.name, holder = other, "standing by: another operator leads");
                    is_logged = true;
                }
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(lease = self.name, %error, "cannot take the lease; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_PAUSE) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    /// Renews the lease until renewals fail for too long, or until `stop`.
    pub(super) async fn hold(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY_PAUSE) => {}
                () = stop.cancelled() => return,
            }
            let remaining = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(remaining.max(Duration::from_millis(1)), self.attempt()).await {
                Ok(Ok(None)) => renewed = Instant::now(),
                Ok(Ok(Some(other))) => {
                    tracing::error!(lease = self.name, holder = other, "another operator took the lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "cannot renew the lease"),
                Err(_) => tracing::warn!(lease = self.name, "the API server did not answer in time"),
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                tracing::error!(lease = self.name, "the lease could not be renewed");
                return;
            }
        }
    }

    /// Gives the lease up, so that the next holder need not wait for its end.
    pub(super) async fn release(&self) {
        let Ok(mut lease) = self.api.get(&self.name).await else { return };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_deref() == Some(&self.holder) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
                tracing::warn!(lease = self.name, %error, "cannot give the lease up");
            }
        }
    }

    /// Takes or renews the lease. Returns the other holder if there is one.
    async fn attempt(&mut self) -> kube::Result<Option<String>> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.make_spec(None)) };
            return self.judge_write(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let holder =
            lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty());
        let is_over = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() > LEASE_DURATION);
        match holder {
            Some(other) if other != self.holder && !is_over => Ok(Some(other)),
            _ => {
                lease.spec = Some(self.make_spec(lease.spec.as_ref()));
                // The API server refuses the second of two contenders, because the lease names its version.
                self.judge_write(self.api.replace(&self.name, &PostParams::default(), &lease).await)
            }
        }
    }

    /// Returns the other holder if a contender was faster.
    fn judge_write(&self, written: kube::Result<Lease>) -> kube::Result<Option<String>> {
        match written {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some("another contender".into())),
            Err(error) => Err(error),
        }
    }

    fn make_spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = before.is_some_and(|before| before.holder_identity.as_deref() == Some(&self.holder));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
            acquire_time: before.filter(|_| same).and_then(|before| before.acquire_time.clone()).or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}
