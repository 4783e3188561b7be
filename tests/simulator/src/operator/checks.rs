//! Checks of the operator's actions and of the state that follows.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use lockstep_operator::objects::{annotation, label};
use lockstep_operator::plan::Names;
use lockstep_operator::resource::InferenceCluster;
use lockstep_operator::resource::status::GroupStatus;

use super::script::Millis;
use super::{CLUSTER, Property, World, seconds};

/// Time for which a decision may rest on a state that was true before: watches, reports and requests take time.
const STALE: Millis = 8_000;
/// Time after which the operator has heard that a group serves.
const HEARD: Millis = 3_000;
/// Time for which the status may lag behind on a good day.
const STATUS_LAG: Millis = 15_000;

fn label<'a>(labels: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    labels.get(key).map(String::as_str).unwrap_or_default()
}

/// Returns the group that an object's labels name.
fn group_of(labels: &BTreeMap<String, String>) -> u32 {
    label(labels, label::GROUP).parse().unwrap_or_default()
}

impl World {
    fn group_status(&self, group: u32) -> Option<&GroupStatus> {
        let cluster = self.objects.clusters.get(CLUSTER)?;
        cluster.status.as_ref()?.groups.iter().find(|status| status.index == group as i32)
    }

    /// Returns true if the operator has waited for the drain timeout since it began to drain the group.
    fn is_drain_overdue(&self, group: u32) -> bool {
        let since = self.group_status(group).and_then(|status| status.draining_since.as_ref());
        let waited = since.map(|since| super::objects::time_of_day(self.now).duration_since(since.0).as_millis());
        waited.is_some_and(|waited| waited + 1_000 >= self.script.shape.drain_timeout.into())
    }

    /// Checks that the operator takes no group out of service that serves and does not drain, and cuts off no request.
    fn check_take_down(&mut self, group: u32, what: &str, grace: Option<i64>) {
        let head = self.objects.pods.get(&Names::new(CLUSTER, group).head_pod());
        let head = head.and_then(|head| head.metadata.uid.clone()).unwrap_or_default();
        if self.is_drain_overdue(group) {
            self.condemned.insert(head);
            return;
        }
        if self.condemned.contains(&head) {
            return;
        }
        // A group that has just begun to serve may not have been heard of.
        if self.service.get(&group).is_some_and(|(serves, at)| *serves && *at + HEARD + self.watch_lag() > self.now) {
            return;
        }
        let Some((_, head)) = self.head_of(group) else { return };
        let requests = head.requests(self.now);
        if head.serves && head.is_accepting() {
            self.find(Property::DrainsFirst, format!("{what} of group {group} goes, which serves and does not drain"));
        } else if head.draining_since.is_some() && head.serves && requests > 0 && grace.is_none_or(|grace| grace < 5) {
            self.find(
                Property::DrainsFirst,
                format!("{what} of group {group} goes, whose head has {requests} requests"),
            );
        }
    }

    /// Checks the deletion of a pod by the operator, with a grace period in seconds if it is not the pod's own.
    pub(super) fn check_pod_deletion(&mut self, pod: &Pod, grace: Option<i64>) {
        self.counts.deletions += 1;
        let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
        let lives = self.processes.contains_key(&uid);
        let machine = self.machine_of_pod(pod);
        let was_unwell = machine.is_some_and(|machine| {
            let machine = &self.machines[machine];
            let until = machine.off_until.max(machine.cut_until);
            until > 0 && self.now < until + STALE
        });
        if grace == Some(0) {
            self.counts.forced += 1;
            if lives && !was_unwell {
                self.find(Property::ForcesOnlyTheLost, format!("{name} is deleted by force, lives and can be reached"));
            }
            return;
        }
        if was_unwell || pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        let group = group_of(pod.labels());
        // A request of a head that ends with its own grace period is finished.
        let is_head = label(pod.labels(), label::ROLE) == "head";
        self.check_take_down(group, &name, if is_head { grace.or(Some(30)) } else { None });
    }

    /// Checks a change of a StatefulSet by the operator, or its deletion if there is no `after`.
    pub(super) fn check_set_change(&mut self, before: &StatefulSet, after: Option<&StatefulSet>) {
        let group = group_of(before.labels());
        let replicas = |set: &StatefulSet| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
        let shrinks = after.is_none_or(|after| replicas(after) < replicas(before));
        let revision = |set: &StatefulSet| set.annotations().get(annotation::REVISION).cloned();
        let changes = after.is_some_and(|after| revision(after) != revision(before));
        let Some(cluster) = self.objects.clusters.get(CLUSTER) else { return };
        if before.owner_references().iter().any(|owner| Some(&owner.uid) != cluster.metadata.uid.as_ref()) {
            return;
        }
        let partition = self.lowest_partition;
        if changes && group < partition && self.is_whole(group) {
            self.find(Property::KeepsRevisions, format!("group {group} changes, below the partition {partition}"));
        }
        if shrinks || changes {
            self.check_take_down(group, &before.name_any(), None);
        }
    }

    /// Returns true if the StatefulSets of a group are there and have the same revision.
    fn is_whole(&self, group: u32) -> bool {
        let names = Names::new(CLUSTER, group);
        let revision = |name: &str| self.objects.sets.get(name)?.annotations().get(annotation::REVISION).cloned();
        let head = revision(&names.head_set());
        head.is_some() && (self.script.shape.workers == 0 || head == revision(&names.worker_set()))
    }

    /// Checks that nothing is made for a cluster that is gone.
    pub(super) fn check_making(&mut self, name: &str, exists: bool) {
        let is_gone = self.objects.clusters.get(CLUSTER).is_none();
        if is_gone && !exists && self.now > self.deleted_at + STALE + self.watch_lag() {
            self.find(Property::EndsWithItsCluster, format!("{name} is made although the cluster is gone"));
        }
    }

    /// Returns the time by which watches are late now.
    fn watch_lag(&self) -> Millis {
        let late = self.watches.iter().map(|watch| {
            let lists = watch.list_until.saturating_sub(self.now);
            let lag = if self.now < watch.late_until + watch.lag { watch.lag } else { 0 };
            lag.max(lists)
        });
        late.max().unwrap_or_default()
    }

    /// Returns true if a group has served, or not, since before `since`.
    fn has_been(&self, group: u32, serves: bool, since: Millis) -> bool {
        self.service.get(&group).is_some_and(|(now, at)| *now == serves && *at < since)
    }

    /// Checks the order to drain a head: not more groups than allowed are out of service by the operator's own will.
    pub(super) fn check_drain(&mut self, uid: &str) {
        let Some(process) = self.processes.get(uid) else { return };
        let group = process.group;
        if !process.head.as_ref().is_some_and(|head| head.serves && head.is_accepting()) {
            return;
        }
        let Some(cluster) = self.objects.clusters.get(CLUSTER) else { return };
        let (replicas, allowed) = (cluster.spec.replicas, cluster.spec.update_strategy.max_unavailable);
        if group >= replicas {
            return;
        }
        let since = self.now.saturating_sub(STALE + self.watch_lag());
        let out = |other: &u32| *other != group && self.has_been(*other, false, since);
        let out: Vec<u32> = (0..replicas).filter(out).collect();
        if out.len() >= allowed as usize && self.operator_since + STALE < self.now {
            let text = format!("group {group} drains while {out:?} have been out of service, of {allowed} allowed");
            self.find(Property::KeepsServing, text);
        }
    }

    /// Checks that a pod of a head has not ended with requests that it would have finished.
    pub(super) fn check_end(&mut self, uid: &str) {
        let Some((_, grace)) = self.processes.get(uid).and_then(|process| process.term) else { return };
        let Some(head) = self.processes.get(uid).and_then(|process| process.head.as_ref()) else { return };
        if head.serves && head.requests(self.now) > 0 && grace < 5_000 {
            let pod = self.processes[uid].pod.clone();
            self.find(Property::DrainsFirst, format!("{pod} ended with requests after {} s", grace / 1000));
        }
    }

    /// Looks at what is true now: which groups serve, and what the status says of it.
    pub(super) fn check_state(&mut self) {
        let Some(cluster) = self.objects.clusters.get(CLUSTER).cloned() else { return };
        let replicas = cluster.spec.replicas;
        for group in 0..replicas.max(3) {
            let (now, serves) = (self.now, self.serves(group));
            let (before, since) = self.service.entry(group).or_insert((serves, now));
            if *before != serves {
                (*before, *since) = (serves, now);
            }
        }
        let all_serve = (0..replicas).all(|group| self.serves(group));
        let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
        let says_ready = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
        let lies = says_ready && !all_serve;
        // While the operator cannot know better, its word may be old.
        let is_blind = self.now < self.blind_until + STATUS_LAG + self.watch_lag();
        if !lies || is_blind || self.watch_lag() > 0 {
            self.lies_since = self.now;
        } else if self.now > self.lies_since + STATUS_LAG {
            let out: Vec<u32> = (0..replicas).filter(|group| !self.serves(*group)).collect();
            let text =
                format!("the status has said Ready for {} s, and groups {out:?} do not serve", STATUS_LAG / 1000);
            self.find(Property::StatusIsTrue, text);
        }
        if self.now > self.quiet_from {
            self.check_return(&cluster, all_serve && says_ready);
        }
    }

    /// Checks that everything is as the spec asks within a bound after the last fault, and then costs nothing.
    fn check_return(&mut self, cluster: &InferenceCluster, serves: bool) {
        let is_observed =
            cluster.status.as_ref().and_then(|status| status.observed_generation) == cluster.metadata.generation;
        let updated = self.is_updated(cluster);
        let is_settled = serves && is_observed && updated;
        if !is_settled {
            self.settled_at = None;
            if self.now > self.quiet_from + self.bound {
                let text = format!(
                    "{} s after the last fault: serves {serves}, spec seen {is_observed}, pods of the wanted revision {updated}",
                    seconds(self.bound)
                );
                self.find(Property::ServesAgain, text);
            }
            return;
        }
        if self.settled_at.is_none() {
            self.settled_at = Some(self.now);
            self.writes_then = self.counts.writes;
            self.counts.return_time = self.now - self.quiet_from;
        }
    }

    /// Returns true if each group has the pods that the spec asks for.
    fn is_updated(&self, cluster: &InferenceCluster) -> bool {
        let wanted = lockstep_operator::reconcile::build::revision(&cluster.spec);
        let partition = cluster.spec.update_strategy.partition;
        let pods = self.objects.pods.objects.values();
        let mut groups = BTreeMap::<u32, u32>::new();
        for pod in pods {
            let group = group_of(pod.labels());
            *groups.entry(group).or_default() += 1;
            if group >= partition && label(pod.labels(), label::REVISION) != wanted {
                return false;
            }
        }
        groups.len() == cluster.spec.replicas as usize && groups.values().all(|pods| *pods == 1 + cluster.spec.workers)
    }

    /// Checks that a cluster at rest costs the API server nothing.
    pub(super) fn check_rest(&mut self) {
        let writes = self.counts.writes - self.writes_then;
        if writes > 4 {
            self.find(Property::RestsInPeace, format!("{writes} writes after everything was as the spec asks"));
        }
    }
}
