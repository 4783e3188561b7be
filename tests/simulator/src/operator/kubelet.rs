//! The kubelets: containers start, die, start again after growing pauses, and are probed.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
};
use kube::ResourceExt as _;

use super::World;
use super::kubernetes::condition;
use super::network::machine_address;
use super::objects::time_in_object;
use super::script::Millis;

/// Lag of a readiness probe.
const PROBE: Millis = 1_000;
/// Pauses between restarts of a container: none, then 10 s, doubled each time.
const FIRST_BACK_OFF: Millis = 10_000;

/// What a kubelet knows of the container of a pod.
#[derive(Debug, Clone, Default)]
pub(super) struct Container {
    start_at: Millis,
    runs: bool,
    restarts: i32,
    started: Millis,
    ended: Option<(Millis, i32)>,
    ready_at: Option<Millis>,
    /// Number of times that the container still dies right after its start.
    pub crashes: u32,
    /// What the pod's status says of it: whether it is ready and runs, and its restarts.
    pub(super) written: Option<(bool, bool, i32)>,
}

impl World {
    pub(super) fn tick_kubelets(&mut self) {
        for machine in 0..self.machines.len() {
            if self.machines[machine].is_well(self.now) {
                for name in self.pods_on(machine) {
                    self.tick_pod(machine, &name);
                }
            }
        }
        // A process goes on only as long as its pod is there, or its machine is cut off.
        let now = self.now;
        let known: Vec<&String> =
            self.objects.pods.objects.values().filter_map(|pod| pod.metadata.uid.as_ref()).collect();
        let gone: Vec<String> = self
            .processes
            .iter()
            .filter(|(uid, process)| !known.contains(uid) && self.machines[process.machine].is_well(now))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.processes.remove(&uid);
        }
    }

    /// Lets a kubelet look at one of its pods.
    fn tick_pod(&mut self, machine: usize, name: &str) {
        let Some(pod) = self.objects.pods.get(name).cloned() else { return };
        let uid = pod.uid().unwrap_or_default();
        let now = self.now;
        let start = self.script.shape.start;
        let jitter = self.rng.below(start / 2 + 1);
        let mut container = self
            .containers
            .remove(&uid)
            .unwrap_or(Container { start_at: now + start + jitter, ..Container::default() });
        if pod.metadata.deletion_timestamp.is_some() {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30) as Millis * 1000;
            self.terminate(&uid, grace);
            let is_over = self.processes.get(&uid).is_none_or(|process| self.has_ended(process));
            if is_over {
                self.check_end(&uid);
                self.processes.remove(&uid);
                return self.objects.remove_pod(now, name);
            }
            self.containers.insert(uid, container);
            return;
        }
        let lives = self.processes.contains_key(&uid);
        if container.runs && !lives {
            container.runs = false;
            container.ended = Some((now, 137));
            let pause = match container.restarts {
                0 => 0,
                restarts => (FIRST_BACK_OFF << (restarts - 1).min(5)).min(300_000),
            };
            container.start_at = now + pause + start / 3;
            container.restarts += 1;
        } else if !container.runs && now >= container.start_at {
            container.runs = true;
            container.started = now;
            container.ready_at = None;
            self.start_process(&pod, machine);
        } else if container.runs && container.crashes > 0 && now >= container.started + 500 {
            container.crashes -= 1;
            self.processes.remove(&uid);
        }
        let is_ready = self.is_process_ready(&uid);
        container.ready_at = is_ready.then(|| container.ready_at.unwrap_or(now + PROBE));
        let ready = container.ready_at.is_some_and(|at| now >= at);
        let state = Some((ready, container.runs, container.restarts));
        if container.written != state {
            container.written = state;
            self.write_pod(machine, Pod::clone(&pod), &container, ready);
        }
        self.containers.insert(uid, container);
    }

    /// Returns the answer of the readiness probe. A head is ready while it accepts requests, a worker while its ranks serve.
    fn is_process_ready(&self, uid: &str) -> bool {
        let Some(process) = self.processes.get(uid) else { return false };
        match &process.head {
            Some(head) => head.is_accepting(),
            None => self.processes.values().any(|head| {
                head.group == process.group
                    && head.head.as_ref().is_some_and(|state| state.serves)
                    && self.reach(head.machine, process.machine)
            }),
        }
    }

    /// Writes the status of a pod if it differs.
    fn write_pod(&mut self, machine: usize, mut pod: Pod, container: &Container, ready: bool) {
        let now = self.now;
        let status = pod.status.get_or_insert_default();
        let was_ready = status.conditions.iter().flatten().find(|one| one.type_ == "Ready").cloned();
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|one| one.type_ != "Ready");
        let new = condition("Ready", ready, now);
        conditions.push(was_ready.filter(|was| was.status == new.status).unwrap_or(new));
        status.host_ip = Some(machine_address(machine).to_string());
        if container.runs && status.pod_ip.is_none() {
            self.addresses += 1;
            let last = 1 + self.addresses % 250;
            status.pod_ip = Some(format!("10.{}.{}.{last}", 1 + self.addresses / 250 % 200, machine + 1));
            status.phase = Some("Running".into());
        }
        let end = container.ended.map(|(at, code)| ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: code,
                reason: Some("Error".into()),
                started_at: Some(time_in_object(container.started.min(at))),
                finished_at: Some(time_in_object(at)),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
        let waits = ContainerStateWaiting {
            reason: Some(if end.is_some() { "CrashLoopBackOff" } else { "ContainerCreating" }.into()),
            message: None,
        };
        let state = if container.runs {
            ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() }
        } else {
            ContainerState { waiting: Some(waits), ..ContainerState::default() }
        };
        // The containers that the pod's template names. They live and die together.
        let names = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.clone());
        let container_status = |name| ContainerStatus {
            name,
            ready,
            restart_count: container.restarts,
            state: Some(state.clone()),
            last_state: end.clone(),
            ..ContainerStatus::default()
        };
        status.container_statuses = Some(names.map(container_status).collect());
        self.objects.put_pod(now, pod);
    }

    /// Ends a container `times` in a row.
    pub(super) fn crash(&mut self, group: u32, ordinal: u32, times: u32) {
        let uid = self.processes.iter().find(|(_, process)| (process.group, process.ordinal) == (group, ordinal));
        let Some(uid) = uid.map(|(uid, _)| uid.clone()) else { return };
        self.processes.remove(&uid);
        if let Some(container) = self.containers.get_mut(&uid) {
            container.crashes = times - 1;
        }
    }
}
