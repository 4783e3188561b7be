//! Leader election by a Lease (coordination.k8s.io/v1), with the times that Kubernetes' own controllers use.
//!
//! A holder that cannot renew ends before others may take over, so that two never hold the lease at once as long as
//! clocks run at about the same speed: each waits a whole duration by its own clock since it last saw a change.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

/// How long a lease holds after its last renewal.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// A holder that has not renewed for this long gives up.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two tries.
const RETRY: Duration = Duration::from_secs(2);

/// One contender for a lease.
pub(super) struct Election {
    api: Api<Lease>,
    name: String,
    holder: String,
    /// The lease as last seen, and since when it has been so.
    seen: Option<(Option<String>, Instant)>,
}

impl Election {
    pub(super) fn new(client: Client, namespace: &str, name: &str, holder: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.into(), holder: holder.into(), seen: None }
    }

    /// Waits until this process holds the lease; false where `stop` came first.
    pub(super) async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        let mut told = false;
        loop {
            match self.attempt().await {
                Ok(None) => return true,
                Ok(Some(other)) if !told => {
                    tracing::info!(lease = self.name, holder = other, "standing by: another operator leads");
                    told = true;
                }
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(lease = self.name, %error, "cannot take the lease; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    /// Renews until it fails for too long (then returns) or `stop`.
    pub(super) async fn hold(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left.max(Duration::from_millis(1)), self.attempt()).await {
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

    /// Gives the lease up, so that the next need not wait for its end.
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

    /// Takes or renews the lease; the answer is who else holds it.
    async fn attempt(&mut self) -> kube::Result<Option<String>> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return self.settle(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let held = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).filter(|held| !held.is_empty());
        let over = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() > DURATION);
        match held {
            Some(other) if other != self.holder && !over => Ok(Some(other)),
            _ => {
                lease.spec = Some(self.spec(lease.spec.as_ref()));
                // The version in it makes the API server refuse whoever comes second.
                self.settle(self.api.replace(&self.name, &PostParams::default(), &lease).await)
            }
        }
    }

    fn settle(&self, written: kube::Result<Lease>) -> kube::Result<Option<String>> {
        match written {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some("another contender".into())),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = before.is_some_and(|before| before.holder_identity.as_deref() == Some(&self.holder));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: before.filter(|_| same).and_then(|before| before.acquire_time.clone()).or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}
