//! Kubernetes around the operator: the controllers of StatefulSets, Kubernetes nodes and garbage, and the scheduler. Each
//! acts in the ticks of the world.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use lockstep_operator::objects::annotation;

use super::World;
use super::network::machine_address;
use super::objects::{NAMESPACE, time_in_object};
use super::script::Millis;

/// Silence of a kubelet after which Kubernetes gives its node up, and time until it evicts pods from there.
const NODE_GRACE: Millis = 40_000;
const EVICTION: Millis = 10_000;

/// A machine, which is a Kubernetes node.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub off_until: Millis,
    pub cut_until: Millis,
    /// Time at which its kubelet last spoke to the API server.
    spoke_at: Millis,
    /// Time since which Kubernetes counts the node as lost.
    lost_since: Option<Millis>,
}

impl Machine {
    pub(super) fn is_on(&self, now: Millis) -> bool {
        now >= self.off_until
    }

    pub(super) fn is_cut(&self, now: Millis) -> bool {
        now < self.cut_until
    }

    pub(super) fn is_well(&self, now: Millis) -> bool {
        self.is_on(now) && !self.is_cut(now)
    }
}

fn name_of(machine: usize) -> String {
    format!("node-{machine}")
}

/// Returns the machine of a Kubernetes node's name.
fn machine_of(node: &str) -> Option<usize> {
    node.strip_prefix("node-")?.parse().ok()
}

pub(super) fn condition(kind: &str, status: bool, now: Millis) -> PodCondition {
    PodCondition {
        type_: kind.into(),
        status: if status { "True" } else { "False" }.into(),
        last_transition_time: Some(time_in_object(now)),
        ..PodCondition::default()
    }
}

impl World {
    pub(super) fn make_nodes(&mut self) {
        for machine in 0..self.machines.len() {
            self.write_node(machine, true);
        }
    }

    fn write_node(&mut self, machine: usize, ready: bool) {
        let mut node = Node::default();
        node.metadata.name = Some(name_of(machine));
        node.metadata.uid = Some(format!("uid-of-{machine}"));
        node.status = Some(NodeStatus {
            addresses: Some(vec![NodeAddress {
                type_: "InternalIP".into(),
                address: machine_address(machine).to_string(),
            }]),
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: if ready { "True" } else { "Unknown" }.into(),
                message: (!ready).then(|| "Kubelet stopped posting node status.".into()),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        });
        self.objects.put_node(self.now, node);
    }

    /// Lets Kubernetes act.
    pub(super) fn tick_kubernetes(&mut self) {
        if self.now < self.down_until {
            // Kubelets go on: their processes live and die. Nothing is written.
            return self.tick_processes();
        }
        self.tick_node_controller();
        self.collect_garbage();
        self.tick_sets();
        self.tick_scheduler();
        self.tick_kubelets();
        self.tick_processes();
    }

    fn tick_processes(&mut self) {
        let now = self.now;
        let off: Vec<String> = self
            .processes
            .iter()
            .filter(|(_, process)| !self.machines[process.machine].is_on(now))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in off {
            self.processes.remove(&uid);
            self.vanished.insert(uid);
        }
        self.tick_heads();
    }

    fn tick_node_controller(&mut self) {
        for index in 0..self.machines.len() {
            let now = self.now;
            let machine = &mut self.machines[index];
            if machine.is_well(now) {
                machine.spoke_at = now;
                if machine.lost_since.take().is_some() {
                    self.write_node(index, true);
                }
                continue;
            }
            if machine.lost_since.is_none() && now > machine.spoke_at + NODE_GRACE {
                machine.lost_since = Some(now);
                self.write_node(index, false);
                self.set_ready_of_all(index);
            }
            if self.machines[index].lost_since.is_some_and(|since| now > since + EVICTION) {
                let pods = self.pods_on(index);
                pods.into_iter().for_each(|name| self.delete_pod(&name, None));
            }
        }
    }

    /// Marks all pods of a lost node as not ready.
    fn set_ready_of_all(&mut self, machine: usize) {
        for name in self.pods_on(machine) {
            let Some(pod) = self.objects.pods.get(&name) else { continue };
            let mut pod = Pod::clone(pod);
            let now = self.now;
            let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
            conditions.retain(|one| one.type_ != "Ready");
            conditions.push(condition("Ready", false, now));
            if let Some(container) = pod.metadata.uid.as_ref().and_then(|uid| self.containers.get_mut(uid)) {
                container.written = None;
            }
            self.objects.put_pod(now, pod);
        }
    }

    pub(super) fn pods_on(&self, machine: usize) -> Vec<String> {
        let node = name_of(machine);
        let pods = self.objects.pods.objects.iter();
        let is_there = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref() == Some(&node));
        pods.filter(|(_, pod)| is_there(pod)).map(|(name, _)| name.clone()).collect()
    }

    /// Deletes a pod, with its own grace period or `grace` seconds. Kubernetes itself forgets a pod only if its kubelet
    /// says that it is gone, if it has no kubelet, or without a grace period.
    pub(super) fn delete_pod(&mut self, name: &str, grace: Option<i64>) {
        let Some(pod) = self.objects.pods.get(name) else { return };
        let mut pod = Pod::clone(pod);
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let grace = grace.unwrap_or(own);
        let is_placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if grace == 0 || !is_placed {
            return self.objects.remove_pod(self.now, name);
        }
        let end = time_in_object(self.now + grace as Millis * 1000);
        if pod.metadata.deletion_timestamp.as_ref().is_some_and(|before| *before <= end) {
            return;
        }
        pod.metadata.deletion_timestamp = Some(end);
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.objects.put_pod(self.now, pod);
    }

    /// Deletes what belongs to a StatefulSet or a cluster that is gone.
    fn collect_garbage(&mut self) {
        if !self.now.is_multiple_of(500) {
            return;
        }
        let objects = &self.objects;
        let lives = |owners: Option<&Vec<OwnerReference>>| {
            let uids = objects.sets.objects.values().map(|set| set.metadata.uid.as_ref());
            let uids = uids.chain(objects.clusters.objects.values().map(|cluster| cluster.metadata.uid.as_ref()));
            let uids: Vec<_> = uids.flatten().collect();
            owners.into_iter().flatten().all(|owner| uids.contains(&&owner.uid))
        };
        let orphans = |names: Vec<(&String, bool)>| -> Vec<String> {
            names.into_iter().filter(|(_, lives)| !lives).map(|(name, _)| name.clone()).collect()
        };
        let sets = objects.sets.objects.iter();
        let sets = orphans(sets.map(|(name, set)| (name, lives(set.metadata.owner_references.as_ref()))).collect());
        let others = objects.others.objects.iter();
        let others = orphans(others.map(|(name, one)| (name, lives(one.metadata.owner_references.as_ref()))).collect());
        let pods = objects.pods.objects.iter();
        let pods = orphans(pods.map(|(name, pod)| (name, lives(pod.metadata.owner_references.as_ref()))).collect());
        let now = self.now;
        for name in sets {
            self.objects.sets.remove(&mut self.objects.counter, now, &name);
        }
        for name in others {
            self.objects.others.remove(&mut self.objects.counter, now, &name);
        }
        pods.into_iter().for_each(|name| self.delete_pod(&name, None));
    }

    fn tick_sets(&mut self) {
        let sets: Vec<_> = self.objects.sets.objects.values().cloned().collect();
        for set in sets {
            let name = set.name_any();
            let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            for ordinal in 0..wanted {
                let pod = format!("{name}-{ordinal}");
                // The controller is a little late, and not always by the same time.
                if self.objects.pods.get(&pod).is_none() && self.rng.chance(30) {
                    self.make_pod(&set, &pod);
                }
            }
            let prefix = format!("{name}-");
            let number = |pod: &String| pod.strip_prefix(&prefix).and_then(|number| number.parse::<i32>().ok());
            let pods = self.objects.pods.objects.keys();
            let surplus: Vec<_> =
                pods.filter(|pod| number(pod).is_some_and(|number| number >= wanted)).cloned().collect();
            surplus.into_iter().for_each(|pod| self.delete_pod(&pod, None));
            let observed = set.status.as_ref().and_then(|status| status.observed_generation);
            if observed != set.metadata.generation {
                let mut set = StatefulSet::clone(&set);
                set.status.get_or_insert_default().observed_generation = set.metadata.generation;
                self.objects.put_set(self.now, set);
            }
        }
    }

    fn make_pod(&mut self, set: &StatefulSet, name: &str) {
        let template = set.spec.clone().unwrap_or_default().template;
        let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some(NAMESPACE.to_owned());
        pod.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "apps/v1".into(),
            kind: "StatefulSet".into(),
            name: set.name_any(),
            uid: set.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]);
        pod.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
        self.objects.put_pod(self.now, pod);
    }

    fn tick_scheduler(&mut self) {
        let waiting: Vec<Arc<Pod>> = self
            .objects
            .pods
            .objects
            .values()
            .filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()))
            .cloned()
            .collect();
        for waiting in waiting {
            let mut pod = Pod::clone(&waiting);
            let avoided = pod.annotations().get(annotation::AVOIDS).cloned().unwrap_or_default();
            let avoided: Vec<&str> = avoided.split(',').collect();
            let fits = |machine: &usize| {
                let is_known_lost = self.machines[*machine].lost_since.is_some();
                !is_known_lost && !avoided.contains(&name_of(*machine).as_str())
            };
            let room = self.script.shape.room;
            let free = (0..self.machines.len()).filter(fits).map(|machine| (self.pods_on(machine).len(), machine));
            let best = free.filter(|(used, _)| *used < room).min();
            let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
            let before = conditions.iter().find(|one| one.type_ == "PodScheduled").map(|one| one.status.clone());
            conditions.retain(|one| one.type_ != "PodScheduled");
            conditions.push(condition("PodScheduled", best.is_some(), self.now));
            if let Some((_, machine)) = best {
                pod.spec.get_or_insert_default().node_name = Some(name_of(machine));
            } else if before.is_some_and(|before| before == "False") {
                continue;
            }
            self.objects.put_pod(self.now, pod);
        }
    }

    /// Returns the machine of a pod.
    pub(super) fn machine_of_pod(&self, pod: &Pod) -> Option<usize> {
        machine_of(pod.spec.as_ref()?.node_name.as_ref()?)
    }
}
