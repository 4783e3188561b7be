//! Part of the first step: asks around about a head that the operator cannot reach, and about the machines below pods
//! that their group has given up. Nothing is asked of a group that serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::Instant;

use super::Context;
use super::observation::GroupSeen;
use crate::clock::elapsed;
use crate::heads::{Network, ask_nodes, does_machine_answer, does_pod_answer};
use crate::observe::Observed;
use crate::pods;
use crate::rollout::{SILENCE, is_head_silent};

/// Shortest silence that is worth another look. A node hears its head twice a second.
const SUSPICIOUS: Duration = Duration::from_secs(2);

/// Time after which a pod on a Kubernetes node that works has its address. Only large volumes take longer.
const NO_ADDRESS: Duration = Duration::from_secs(10);

/// Answers about a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contacts {
    /// True if the head is silent: neither the operator nor a node that answers hears it.
    pub head_silent: bool,
    /// Ordinals of the pods that the group has given up and that do not answer, nor does the machine below them, while
    /// another machine does.
    pub silent_machines: BTreeSet<u32>,
    /// Time after which to ask again, so that a silence that has begun is long enough at the end of the questions. `None` if
    /// there is none.
    pub look_again: Option<Duration>,
}

/// Asks the machines of `group`, if there is need, all at once, and then its nodes. `ranks_per_pod` is the number of ranks
/// of each pod.
pub(super) async fn ask_around(context: &Context, group: &GroupSeen, ranks_per_pod: u32) -> Contacts {
    let (observed, network) = (&context.observed, context.heads.network());
    let head_suspected = may_be_silent(group);
    let is_suspected = |ordinal: u32, pod: &Pod| match ordinal {
        0 => head_suspected,
        _ => group.has_lost_ranks(ordinal, pod, ranks_per_pod) == Some(true),
    };
    let suspected = || group.pods.iter().filter(|(ordinal, pod)| is_suspected(**ordinal, pod));
    if suspected().next().is_none() {
        return Contacts::default();
    }
    let asked = Instant::now();
    let silent = suspected().map(|(&ordinal, pod)| async move {
        let machine = machine(observed, pod)?;
        is_pod_silent(network, pod).await.then_some((ordinal, machine))
    });
    let (silent, answers) = futures::join!(futures::future::join_all(silent), ask_machines(network, observed, group));
    let silent: BTreeMap<u32, IpAddr> = silent.into_iter().flatten().collect();
    let took = asked.elapsed();
    // The nodes come last, because a silence that was too short a moment ago may be long enough by now.
    let nodes = group.pods.iter().filter(|(ordinal, _)| head_suspected && !silent.contains_key(ordinal));
    let words = ask_nodes(network, nodes.filter_map(|(_, pod)| address(pod))).await;
    let head_silent = head_suspected && is_head_silent(group.live_report().is_some(), &words);
    let given_up: Vec<_> = silent.into_iter().filter(|(ordinal, _)| *ordinal != 0 || head_silent).collect();
    let shortest = words.iter().map(|word| word.silent_for).min().unwrap_or_default();
    Contacts {
        head_silent,
        silent_machines: find_silent(&given_up, &answers),
        look_again: (SUSPICIOUS..SILENCE).contains(&shortest).then(|| (SILENCE - shortest).saturating_sub(took)),
    }
}

/// Returns true if nothing answers at the address of `pod`, or if it has got no address for longer than usual.
async fn is_pod_silent(network: &dyn Network, pod: &Pod) -> bool {
    match address(pod) {
        Some(address) => !does_pod_answer(network, address).await,
        None => pods::assigned_since(pod).is_some_and(|since| elapsed(since) >= NO_ADDRESS),
    }
}

/// Returns true if the operator does not reach the head of `group`: its pod does not answer, or has no address on the
/// Kubernetes node that it was assigned to.
fn may_be_silent(group: &GroupSeen) -> bool {
    let Some(head) = group.head() else { return false };
    let is_assigned = pods::kube_node(head).is_some();
    group.live_report().is_none() && is_assigned && (group.unreachable.is_some() || address(head).is_none())
}

/// Asks the machine of each pod. Returns the answers by address.
async fn ask_machines(network: &dyn Network, observed: &Observed, group: &GroupSeen) -> BTreeMap<IpAddr, bool> {
    let machines: BTreeSet<IpAddr> = group.pods.values().filter_map(|pod| machine(observed, pod)).collect();
    let asked =
        machines.into_iter().map(|machine| async move { (machine, does_machine_answer(network, machine).await) });
    futures::future::join_all(asked).await.into_iter().collect()
}

/// Returns the ordinals of `suspects`, which are given with their machines, whose machine does not answer. If no machine
/// answers, the operator itself may be cut off, or may not reach any kubelet, and nothing is known.
fn find_silent(suspects: &[(u32, IpAddr)], answers: &BTreeMap<IpAddr, bool>) -> BTreeSet<u32> {
    if !answers.values().any(|answered| *answered) {
        return BTreeSet::new();
    }
    let is_silent = |machine: &IpAddr| answers.get(machine) == Some(&false);
    suspects.iter().filter(|(_, machine)| is_silent(machine)).map(|(ordinal, _)| *ordinal).collect()
}

/// Returns the address of `pod`.
fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// Returns the address of the machine below `pod`. A pod that no kubelet has looked at yet does not have it.
fn machine(observed: &Observed, pod: &Pod) -> Option<IpAddr> {
    let own = pod.status.as_ref().and_then(|status| status.host_ip.as_ref()?.parse().ok());
    own.or_else(|| {
        let node = observed.node(pods::kube_node(pod)?)?;
        internal_address(&node)
    })
}

/// Returns the address of a Kubernetes node in its cluster.
fn internal_address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|address| address.type_ == "InternalIP")?.address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_machine_is_silent_only_if_another_one_answers() {
        let suspects = [(0, machine(1)), (2, machine(2)), (3, machine(1))];
        let answers = |one, two, three| [(machine(1), one), (machine(2), two), (machine(3), three)].into();
        assert_eq!(find_silent(&suspects, &answers(false, true, true)), [0, 3].into());
        assert_eq!(find_silent(&suspects, &answers(false, false, true)), [0, 2, 3].into());
        assert_eq!(find_silent(&suspects, &answers(true, true, false)), [].into(), "no suspect lies there");
        assert_eq!(find_silent(&suspects, &answers(false, false, false)), [].into(), "the operator is cut off");
    }
}
