//! The processes of pods: heads and workers, as far as the operator sees them. The rules by which a group forms and serves
//! are those of the agent, in short: a head serves once every worker of its own revision has loaded and reaches it.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use lockstep_operator::objects::label;
use lockstep_operator::plan::Names;
use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};
use tokio::sync::watch;

use super::script::Millis;
use super::{CLUSTER, World};

/// Time from the last rank's joining to the first token.
const FORM: Millis = 300;
/// Silence after which a head does not count on a worker any longer, and after which it gives the worker up.
const SUSPECT: Millis = 800;
const LOST: Millis = 3_000;
/// Shortest drain of a head with requests.
const SHORTEST_DRAIN: Millis = 2_500;

/// A process in a pod.
pub(super) struct Process {
    pub pod: String,
    pub group: u32,
    /// Ordinal of the pod in its group. The head is 0.
    pub ordinal: u32,
    pub machine: usize,
    pub revision: String,
    pub loaded_at: Millis,
    /// Time of SIGTERM, and the grace period from then.
    pub term: Option<(Millis, Millis)>,
    /// Time at which a worker last heard a head. A head hears itself.
    pub heard_at: Millis,
    pub head: Option<Head>,
}

/// What a head knows.
pub(super) struct Head {
    pub status: watch::Sender<ClusterStatus>,
    /// Workers by ordinal: pod, uid, and time of their last word.
    pub workers: Vec<Option<(String, String, Millis)>>,
    pub complete_since: Option<Millis>,
    pub serves: bool,
    pub has_served: bool,
    pub draining_since: Option<Millis>,
    /// Time at which the last request of a head that drains has ended.
    pub idle_at: Millis,
    epoch: u64,
    recoveries: u64,
}

impl Head {
    fn new(workers: usize) -> Self {
        let (status, _) = watch::channel(ClusterStatus::default());
        Self {
            status,
            workers: vec![None; workers],
            complete_since: None,
            serves: false,
            has_served: false,
            draining_since: None,
            idle_at: 0,
            epoch: 0,
            recoveries: 0,
        }
    }

    /// Returns the number of requests at `now`. There are always two, until a head has finished them in its drain.
    pub(super) fn requests(&self, now: Millis) -> u32 {
        let drained = self.draining_since.is_some() && now >= self.idle_at;
        if self.has_served && !drained { 2 } else { 0 }
    }

    /// Returns true if the head takes new requests.
    pub(super) fn is_accepting(&self) -> bool {
        self.has_served && self.draining_since.is_none()
    }
}

impl World {
    /// Starts the process of a pod on its machine.
    pub(super) fn start_process(&mut self, pod: &Pod, machine: usize) {
        let label = |key: &str| pod.labels().get(key).cloned().unwrap_or_default();
        let name = pod.name_any();
        let is_head = label(label::ROLE) == "head";
        let number: u32 = name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        let group = label(label::GROUP).parse().unwrap_or_default();
        let workers = self.script.shape.workers as usize;
        let load = self.script.shape.load;
        let process = Process {
            pod: name,
            group,
            ordinal: if is_head { 0 } else { number + 1 },
            machine,
            revision: label(label::REVISION),
            loaded_at: self.now + load + self.rng.below(load / 4 + 1),
            term: None,
            heard_at: self.now,
            head: is_head.then(|| Head::new(workers)),
        };
        let uid = pod.uid().unwrap_or_default();
        self.vanished.remove(&uid);
        self.processes.insert(uid, process);
    }

    /// Tells a process to end.
    pub(super) fn terminate(&mut self, uid: &str, grace: Millis) {
        let (now, finish) = (self.now, 500 + self.rng.below(3_500));
        let Some(process) = self.processes.get_mut(uid) else { return };
        let (since, before) = process.term.unwrap_or((now, grace));
        process.term = Some((since, before.min(now + grace - since)));
        if let Some(head) = &mut process.head
            && head.draining_since.is_none()
        {
            head.draining_since = Some(now);
            head.idle_at = now + if head.serves { finish } else { 0 };
        }
    }

    /// Tells a head to drain.
    pub(super) fn drain(&mut self, uid: &str) {
        let finish = 500 + self.rng.below(6_000);
        let now = self.now;
        let Some(head) = self.processes.get_mut(uid).and_then(|process| process.head.as_mut()) else { return };
        if head.draining_since.is_none() {
            head.draining_since = Some(now);
            head.idle_at = now + if head.has_served { finish.max(SHORTEST_DRAIN) } else { 0 };
        }
    }

    /// Returns true if a process that was told to end has done so.
    pub(super) fn has_ended(&self, process: &Process) -> bool {
        let Some((since, grace)) = process.term else { return false };
        let finished = process.head.as_ref().map_or(since + 300, |head| head.idle_at.max(since) + 300);
        self.now >= finished.min(since + grace)
    }

    /// Returns true if the machines reach each other.
    pub(super) fn reach(&self, one: usize, other: usize) -> bool {
        let now = self.now;
        let (one_up, other_up) = (self.machines[one].is_on(now), self.machines[other].is_on(now));
        let is_cut = self.machines[one].is_cut(now) || self.machines[other].is_cut(now);
        one_up && other_up && (one == other || !is_cut)
    }

    /// Lets all heads look at their workers.
    pub(super) fn tick_heads(&mut self) {
        let heads: Vec<String> =
            self.processes.iter().filter(|(_, process)| process.head.is_some()).map(|(uid, _)| uid.clone()).collect();
        for uid in heads {
            self.tick_head(&uid);
        }
    }

    fn tick_head(&mut self, uid: &str) {
        let mut process = self.processes.remove(uid).expect("a head");
        let mut head = process.head.take().expect("a head");
        let now = self.now;
        process.heard_at = now;
        // Workers find the head by the name of its pod, which the group's Service publishes.
        let is_named = self.objects.pods.get(&process.pod).and_then(|pod| pod.metadata.uid.as_deref()) == Some(uid)
            && self
                .objects
                .others
                .get(&format!("Service/{}", Names::new(CLUSTER, process.group).group_name()))
                .is_some();
        let mut complete = now >= process.loaded_at;
        for ordinal in 1..=head.workers.len() as u32 {
            let place = &mut head.workers[ordinal as usize - 1];
            let known = place.as_ref().map(|(_, uid, _)| uid.clone());
            let worker = self.processes.iter().find(|(worker_uid, worker)| {
                let is_of_group = worker.group == process.group && worker.ordinal == ordinal && worker.head.is_none();
                let can_dial = is_named || known.as_ref() == Some(worker_uid);
                is_of_group && can_dial && self.reach(worker.machine, process.machine)
            });
            let worker = worker.map(|(uid, worker)| (uid.clone(), worker.pod.clone(), worker.term.is_none()));
            if let Some((worker_uid, pod, stays)) = worker {
                let worker = self.processes.get_mut(&worker_uid).expect("a worker");
                worker.heard_at = now;
                let joins = worker.revision == process.revision && now >= worker.loaded_at && stays;
                *place = Some((pod, worker_uid, now));
                complete &= joins;
            } else {
                // The end of a process is seen at once, the silence of a machine only after a time.
                let dead = known.as_ref().is_none_or(|uid| !self.is_in_doubt(uid));
                let silent_for = place.as_ref().map_or(LOST, |(_, _, heard)| now - heard);
                complete &= !dead && silent_for < SUSPECT;
            }
        }
        head.serves = match head.complete_since.filter(|_| complete) {
            Some(since) => now >= since + FORM,
            None => false,
        };
        if !complete && head.complete_since.take().is_some() {
            head.recoveries += 1;
        }
        if complete && head.complete_since.is_none() {
            head.complete_since = Some(now);
            head.epoch += 1;
        }
        head.has_served |= head.serves;
        let status = self.report(&process, &head);
        head.status.send_if_modified(|before| {
            let differs = *before != status;
            *before = status;
            differs
        });
        process.head = Some(head);
        self.processes.insert(uid.to_owned(), process);
    }

    /// Returns true if a process lives, or has ended without a word.
    fn is_in_doubt(&self, uid: &str) -> bool {
        self.processes.contains_key(uid) || self.vanished.contains(uid)
    }

    /// Returns the report of a head.
    fn report(&self, process: &Process, head: &Head) -> ClusterStatus {
        let rank = |rank: u32, host: &str, phase: Phase| RankStatus {
            rank,
            node: rank,
            phase: phase.into(),
            host: host.to_owned(),
            ..RankStatus::default()
        };
        let joined = |loaded_at: Millis| match (self.now >= loaded_at, head.serves) {
            (true, true) => Phase::Serving,
            (true, false) => Phase::Forming,
            (false, _) => Phase::Loading,
        };
        let mut ranks = vec![rank(0, &process.pod, joined(process.loaded_at))];
        for (ordinal, worker) in (1..).zip(&head.workers) {
            ranks.push(match worker {
                None => rank(ordinal, "", Phase::Pending),
                Some((pod, uid, heard)) if self.now < heard + LOST && self.is_in_doubt(uid) => {
                    let loaded_at = self.processes.get(uid).map_or(0, |worker| worker.loaded_at);
                    rank(ordinal, pod, joined(loaded_at))
                }
                Some((pod, ..)) => rank(ordinal, pod, Phase::Lost),
            });
        }
        let mut requests = head.requests(self.now);
        if self.planted == Some(super::Planted::HidesRequests) && head.draining_since.is_some() {
            requests = 0;
        }
        ClusterStatus {
            epoch: head.epoch,
            ready: head.serves && head.draining_since.is_none(),
            accepting: head.is_accepting(),
            world_size: ranks.len() as u32,
            ranks,
            running: requests,
            recoveries: head.recoveries,
            draining: head.draining_since.is_some(),
            ..ClusterStatus::default()
        }
    }

    /// Returns the head of a group that clients reach: its pod is the one of its name.
    pub(super) fn head_of(&self, group: u32) -> Option<(&Process, &Head)> {
        self.processes.iter().find_map(|(uid, process)| {
            let head = process.head.as_ref().filter(|_| process.group == group)?;
            let pod = self.objects.pods.get(&process.pod)?;
            (pod.metadata.uid.as_ref() == Some(uid) && self.machines[process.machine].is_well(self.now))
                .then_some((process, head))
        })
    }

    /// Returns true if a group serves, and goes on to.
    pub(super) fn serves(&self, group: u32) -> bool {
        self.head_of(group).is_some_and(|(process, head)| head.serves && head.is_accepting() && process.term.is_none())
    }
}
