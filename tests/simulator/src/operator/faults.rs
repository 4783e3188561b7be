//! The script's faults: how each begins and ends.

use k8s_openapi::api::apps::v1::StatefulSet;
use lockstep_operator::plan::Names;
use lockstep_operator::resource::InferenceCluster;
use serde_json::json;

use super::objects::NAMESPACE;
use super::script::{Fault, Kind};
use super::{CLUSTER, Planted, World};

impl World {
    /// Makes the cluster.
    pub(super) fn make_cluster(&mut self) {
        let shape = &self.script.shape;
        let cluster = json!({
            "apiVersion": "lockstep.dev/v1alpha1",
            "kind": "InferenceCluster",
            "metadata": { "name": CLUSTER, "namespace": NAMESPACE, "generation": 1 },
            "spec": {
                "model": { "source": "builtin://tiny" },
                "replicas": shape.replicas,
                "workers": shape.workers,
                "updateStrategy": {
                    "maxUnavailable": shape.max_unavailable,
                    "partition": shape.partition,
                    "drainTimeout": format!("{}s", shape.drain_timeout / 1000),
                },
            },
        });
        let cluster: InferenceCluster = serde_json::from_value(cluster).expect("a cluster");
        self.objects.clusters.put(&mut self.objects.counter, self.now, CLUSTER, cluster);
    }

    fn change_cluster(&mut self, change: impl FnOnce(&mut InferenceCluster)) {
        let Some(cluster) = self.objects.clusters.get(CLUSTER) else { return };
        let mut cluster = InferenceCluster::clone(cluster);
        change(&mut cluster);
        cluster.metadata.generation = cluster.metadata.generation.map(|generation| generation + 1);
        self.lowest_partition = self.lowest_partition.min(cluster.spec.update_strategy.partition);
        self.objects.clusters.put(&mut self.objects.counter, self.now, CLUSTER, cluster);
    }

    pub(super) fn begin_fault(&mut self, fault: Fault) {
        let now = self.now;
        let until = now + fault.time();
        if fault.time() > 0 {
            self.blind_until = self.blind_until.max(until);
        }
        match fault {
            Fault::OperatorEnds { .. } => {
                self.operator_until = Some(until.max(self.operator_until.unwrap_or_default()))
            }
            Fault::LateWatch { kind, lag, .. } => {
                let watch = &mut self.watches[kind as usize];
                (watch.lag, watch.late_until) = (lag, until);
                self.blind_until = self.blind_until.max(until + lag);
            }
            Fault::LostWatch { kind, .. } => self.lose_watch(kind, until),
            Fault::BrokenWatch { kind } => {
                self.watches[kind as usize].breaks += 1;
                self.wake_watch(kind);
            }
            Fault::Errors { percent, .. } => (self.errors_percent, self.errors_until) = (percent, until),
            Fault::SlowServer { latency, .. } => (self.latency, self.slow_until) = (latency, until),
            Fault::NoServer { .. } => {
                self.down_until = until;
                Kind::ALL.into_iter().for_each(|kind| self.lose_watch(kind, 0));
            }
            Fault::Crash { group, ordinal, times } => self.crash(group, ordinal, times),
            Fault::DeletePod { group, ordinal } => {
                let names = Names::new(CLUSTER, group);
                let name = if ordinal == 0 { names.head_pod() } else { names.worker_pod(ordinal - 1) };
                self.delete_pod(&name, None);
            }
            Fault::PowerOff { machine, .. } => self.machines[machine].off_until = until,
            Fault::CutMachine { machine, .. } => self.machines[machine].cut_until = until,
            Fault::CutOperator { .. } => self.operator_cut_until = until,
            Fault::ChangeEnv => {
                let value = self.now.to_string();
                self.change_cluster(|cluster| {
                    cluster.spec.env =
                        serde_json::from_value(json!([{ "name": "CHANGED", "value": value }])).expect("variables");
                });
            }
            Fault::Scale { replicas } => self.change_cluster(|cluster| cluster.spec.replicas = replicas),
            Fault::SetPartition { partition } => {
                self.change_cluster(|cluster| cluster.spec.update_strategy.partition = partition);
            }
            Fault::EditSet { group, head } => self.edit_set(group, head),
            Fault::DeleteSet { group } => {
                let name = Names::new(CLUSTER, group).worker_set();
                self.objects.sets.remove(&mut self.objects.counter, now, &name);
            }
            Fault::DeleteService { group } => {
                let key = format!("Service/{}", Names::new(CLUSTER, group).group_name());
                self.objects.others.remove(&mut self.objects.counter, now, &key);
            }
            Fault::Recreate => {
                self.objects.clusters.remove(&mut self.objects.counter, now, CLUSTER);
                self.deleted_at = now;
                self.recreate_at = Some(now + self.rng.range(100..=20_000));
            }
        }
    }

    /// Ends what is over.
    pub(super) fn end_faults(&mut self) {
        if self.operator_until.is_some_and(|until| self.now >= until) && self.planted != Some(Planted::StaysAway) {
            self.operator_until = None;
            self.operator_since = self.now;
        }
        if self.recreate_at.take_if(|at| self.now >= *at).is_some() {
            self.lowest_partition = self.script.shape.partition;
            self.make_cluster();
        }
    }

    fn lose_watch(&mut self, kind: Kind, list_until: u64) {
        let watch = &mut self.watches[kind as usize];
        watch.losses += 1;
        watch.list_until = watch.list_until.max(list_until);
        self.wake_watch(kind);
    }

    fn wake_watch(&self, kind: Kind) {
        let objects = &self.objects;
        match kind {
            Kind::Clusters => objects.clusters.news.notify_waiters(),
            Kind::Pods => objects.pods.news.notify_waiters(),
            Kind::Sets => objects.sets.news.notify_waiters(),
            Kind::Nodes => objects.nodes.news.notify_waiters(),
            Kind::Owned => objects.others.news.notify_waiters(),
        }
    }

    /// Scales a StatefulSet to zero.
    fn edit_set(&mut self, group: u32, head: bool) {
        let names = Names::new(CLUSTER, group);
        let name = if head { names.head_set() } else { names.worker_set() };
        let Some(set) = self.objects.sets.get(&name) else { return };
        let mut set = StatefulSet::clone(set);
        set.spec.get_or_insert_default().replicas = Some(0);
        set.metadata.generation = set.metadata.generation.map(|generation| generation + 1);
        self.objects.put_set(self.now, set);
    }
}
