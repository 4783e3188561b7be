//! The first step: what there is of a cluster, gathered from the watches' stores and from what its head said. It asks the
//! API server only for what no watch tells: why a StatefulSet cannot make its pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::{Context, elapsed};
use crate::heads::{GroupKey, HeadPod, Report};
use crate::objects::is_owned_by;
use crate::plan::Names;
use crate::resource::InferenceCluster;

/// Most groups of a cluster: the CRD's bound on `replicas`.
const MAX_GROUPS: u32 = 256;
/// A set that is older than this and lacks pods is asked about.
const CREATION: Duration = Duration::from_secs(5);
/// How long an answer of the API server about a set's trouble holds.
const ASKED: Duration = Duration::from_secs(10);

/// What there is of a cluster.
#[derive(Default)]
pub struct Observation {
    /// Groups of which a StatefulSet exists, by index.
    pub groups: BTreeMap<u32, GroupSeen>,
    /// Names that the cluster needs and another owner has.
    pub taken: Vec<String>,
}

/// What there is of a group.
#[derive(Default)]
pub struct GroupSeen {
    pub head_set: Option<Arc<StatefulSet>>,
    pub worker_set: Option<Arc<StatefulSet>>,
    /// By node of the group: 0 is the head's.
    pub pods: BTreeMap<u32, Arc<Pod>>,
    pub report: Option<Report>,
    /// Why the head cannot be reached, where it is tried.
    pub unreachable: Option<String>,
    /// Why Kubernetes refuses to make a pod.
    pub refused: Option<String>,
}

impl GroupSeen {
    /// The head's pod.
    #[must_use]
    pub fn head(&self) -> Option<&Arc<Pod>> {
        self.pods.get(&0)
    }

    /// What the head says now.
    #[must_use]
    pub fn live(&self) -> Option<&Report> {
        self.report.as_ref().filter(|report| report.live)
    }

    /// Where the head is, once it has an address.
    #[must_use]
    pub fn head_pod(&self) -> Option<HeadPod> {
        let pod = self.head()?;
        let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some(HeadPod { uid: pod.uid()?, address })
    }

    /// Worker pods that the group's set asks for.
    #[must_use]
    pub fn workers(&self) -> u32 {
        let replicas = self.worker_set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
        replicas.and_then(|replicas| replicas.try_into().ok()).unwrap_or(0)
    }
}

/// Looks at `cluster`.
pub async fn dereference(context: &Context, cluster: &InferenceCluster) -> Observation {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let uid = cluster.uid().unwrap_or_default();
    let mut seen = Observation::default();
    for index in 0..MAX_GROUPS {
        let names = Names::new(&name, index);
        let mut set = |name: String| {
            let set = context.observed.set(&namespace, &name)?;
            if is_owned_by(&set.metadata, &uid) == Some(true) {
                return Some(set);
            }
            seen.taken.push(format!("StatefulSet {name}"));
            None
        };
        let (head_set, worker_set) = (set(names.head_set()), set(names.worker_set()));
        if head_set.is_none() && worker_set.is_none() {
            continue;
        }
        let mut group = GroupSeen { head_set, worker_set, ..GroupSeen::default() };
        pods(context, &namespace, &names, cluster.spec.workers, &mut group);
        let key = GroupKey::new(&namespace, &name, index);
        group.report = group.head().and_then(|head| context.heads.report(&key, &head.uid()?));
        group.unreachable = context.heads.trouble(&key);
        group.refused = refused(context, &namespace, &group).await;
        seen.groups.insert(index, group);
    }
    seen
}

fn pods(context: &Context, namespace: &str, names: &Names, wanted: u32, group: &mut GroupSeen) {
    let workers = group.workers().max(wanted);
    let expected = std::iter::once(names.head_pod()).chain((0..workers).map(|ordinal| names.worker_pod(ordinal)));
    for (node, name) in (0u32..).zip(expected) {
        if let Some(pod) = context.observed.pod(namespace, &name) {
            group.pods.insert(node, pod);
        }
    }
}

/// Why a set of the group makes no pods (quota, Pod Security, a webhook), where it lacks some.
async fn refused(context: &Context, namespace: &str, group: &GroupSeen) -> Option<String> {
    let sets = [(&group.head_set, 1, 0), (&group.worker_set, group.workers(), 1)];
    for (set, wanted, first) in sets {
        let Some(set) = set else { continue };
        let wanted = if replicas(set) == 0 { 0 } else { wanted };
        let there = group.pods.range(first..first + wanted).count();
        if there >= wanted as usize || age(set) < CREATION || !looked_at(set) {
            continue;
        }
        if let Some(why) = asked(context, namespace, set).await {
            return Some(why);
        }
    }
    None
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether the controller has come to this very set: before, it lacks pods because many others came first.
fn looked_at(set: &StatefulSet) -> bool {
    set.status.as_ref().and_then(|status| status.observed_generation) >= set.metadata.generation
}

fn age(set: &StatefulSet) -> Duration {
    set.creation_timestamp().map(|created| elapsed(created.0)).unwrap_or_default()
}

/// The newest event by which the set's controller says that it failed; asked at most every [`ASKED`].
async fn asked(context: &Context, namespace: &str, set: &StatefulSet) -> Option<String> {
    let uid = set.uid()?;
    if let Some((at, answer)) = context.refusals.lock().await.get(&uid)
        && at.elapsed() < ASKED
    {
        return answer.clone();
    }
    let selector = format!("involvedObject.uid={uid},reason=FailedCreate");
    let events: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    context.metrics.request("list");
    let found = events.list(&ListParams::default().fields(&selector).limit(50)).await;
    let newest = match found {
        Ok(found) => found.items.into_iter().max_by_key(|event| event.last_timestamp.clone().map(|time| time.0)),
        Err(error) => {
            tracing::debug!(%error, set = set.name_any(), "cannot read events");
            None
        }
    };
    let answer = newest.and_then(|event| event.message);
    let mut refusals = context.refusals.lock().await;
    refusals.retain(|_, (at, _)| at.elapsed() < ASKED);
    refusals.insert(uid, (Instant::now(), answer.clone()));
    answer
}
