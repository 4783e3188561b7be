//! Health of a node, for its probes: its load progress, its readiness, and its stuck steps or tasks.
//!
//! The node's task and its heartbeat write this state, and the probes read it. Only the head knows if the whole epoch
//! serves, and it tells each node by a pulse. A pulse counts only while it is fresh and belongs to the epoch that the
//! ranks have joined.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockstep_proto::node::Pulse;
use lockstep_proto::v1::Phase;

/// Time after which a pulse is stale. The head sends one every 500 ms.
const PULSE_LIFETIME: Duration = Duration::from_secs(2);
/// Time without a loaded byte after which the start of a node counts as failed.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Time without progress after which a step in flight counts as stuck. The process ends itself soon after.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time between two iterations of the node's loop, unless the node announces a longer one.
pub(super) const LOOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Health of one local rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RankHealth {
    pub rank: u32,
    pub phase: Phase,
    pub bytes_loaded: u64,
    pub bytes_total: u64,
}

/// Contact of a node with its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadContact {
    /// True while there is a stream to the head.
    pub attached: bool,
    /// Time since the node last heard its head, or since the start of the process if the node never did.
    pub silent_for: Duration,
}

/// Answer to a probe. An error carries the reason.
pub(super) type ProbeResult = Result<(), String>;

#[derive(Debug)]
struct HealthState {
    ranks: Vec<RankHealth>,
    loaded: bool,
    attached: bool,
    leaving: bool,
    /// The epoch that all local ranks have joined.
    joined_epoch: Option<u64>,
    pulse: Option<(Pulse, Instant)>,
    /// Time of the last pulse or of the last new stream, whichever came later. Before both, the start of the process.
    head_heard_at: Instant,
    /// Time at which loading last made progress.
    last_load_progress_at: Instant,
    /// Time at which the step in flight last made progress. `None` while no step is in flight.
    step_progress_at: Option<Instant>,
    /// Time by which the node's loop must begin its next iteration.
    loop_deadline: Instant,
}

/// Health of one node. The node's task, its heartbeat and its probes share it.
#[derive(Debug)]
pub(super) struct Health(Mutex<HealthState>);

impl Health {
    pub(super) fn new(first_rank: u32, ranks: u32) -> Self {
        let rank =
            |local| RankHealth { rank: first_rank + local, phase: Phase::Pending, bytes_loaded: 0, bytes_total: 0 };
        let now = Instant::now();
        Self(Mutex::new(HealthState {
            ranks: (0..ranks).map(rank).collect(),
            loaded: false,
            attached: false,
            leaving: false,
            joined_epoch: None,
            pulse: None,
            head_heard_at: now,
            last_load_progress_at: now,
            step_progress_at: None,
            loop_deadline: now + LOOP_TIMEOUT,
        }))
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the phase of every local rank.
    fn set_phase(&self, phase: Phase) {
        self.state().ranks.iter_mut().for_each(|rank| rank.phase = phase);
    }

    /// Notes that the node's loop runs, and that its next iteration begins within `time`.
    pub(super) fn extend_loop_deadline(&self, time: Duration) {
        self.state().loop_deadline = Instant::now() + time;
    }

    /// Notes that the stream to the head has opened or closed.
    pub(super) fn set_attached(&self, attached: bool) {
        let mut state = self.state();
        (state.attached, state.pulse) = (attached, None);
        if attached {
            (state.last_load_progress_at, state.head_heard_at) = (Instant::now(), Instant::now());
        }
    }

    /// Notes that this process was told to stop.
    pub(super) fn set_leaving(&self) {
        self.state().leaving = true;
    }

    /// Notes that the ranks begin to load.
    pub(super) fn set_loading(&self) {
        let mut state = self.state();
        (state.loaded, state.last_load_progress_at) = (false, Instant::now());
        drop(state);
        self.set_phase(Phase::Loading);
    }

    /// Notes that the node downloads the model.
    pub(super) fn set_downloading(&self) {
        self.set_phase(Phase::Downloading);
    }

    /// Notes how many bytes a local rank has loaded.
    pub(super) fn set_load_progress(&self, local_rank: usize, loaded: u64, total: u64) {
        let mut state = self.state();
        state.last_load_progress_at = Instant::now();
        if let Some(rank) = state.ranks.get_mut(local_rank) {
            (rank.bytes_loaded, rank.bytes_total) = (loaded, total);
        }
    }

    /// Notes that all local ranks have loaded.
    pub(super) fn set_loaded(&self) {
        self.state().loaded = true;
        self.set_phase(Phase::Forming);
    }

    /// Notes that all local ranks have joined an epoch.
    pub(super) fn set_joined(&self, epoch: u64) {
        self.state().joined_epoch = Some(epoch);
        self.set_phase(Phase::Warmup);
    }

    /// Notes that the epoch is over or that a new one forms.
    pub(super) fn clear_joined(&self) {
        let mut state = self.state();
        state.joined_epoch = None;
        if state.loaded {
            drop(state);
            self.set_phase(Phase::Forming);
        }
    }

    pub(super) fn set_pulse(&self, pulse: Pulse) {
        let (mut state, now) = (self.state(), Instant::now());
        (state.pulse, state.head_heard_at) = (Some((pulse, now)), now);
    }

    /// Notes the time at which the step in flight last made progress. The heartbeat's thread calls this every 100 ms.
    pub(super) fn set_step_progress(&self, at: Option<Instant>) {
        self.state().step_progress_at = at;
    }

    /// Returns the epoch that all local ranks have joined.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.state().joined_epoch
    }

    /// Returns the contact with the head at the time `now`.
    pub(super) fn head_contact(&self, now: Instant) -> HeadContact {
        let state = self.state();
        HeadContact { attached: state.attached, silent_for: now.saturating_duration_since(state.head_heard_at) }
    }

    /// Returns the local ranks. While the node is ready, ranks in `Warmup` appear as `Serving`.
    pub(super) fn ranks(&self) -> Vec<RankHealth> {
        let is_ready = self.check_ready(Instant::now()).is_ok();
        let shown = |rank: &RankHealth| match (rank.phase, is_ready) {
            (Phase::Warmup, true) => RankHealth { phase: Phase::Serving, ..*rank },
            _ => *rank,
        };
        self.state().ranks.iter().map(shown).collect()
    }

    /// Checks that the ranks serve in the current epoch.
    pub(super) fn check_ready(&self, now: Instant) -> ProbeResult {
        let state = self.state();
        let not_ready = |reason: &str| Err(reason.to_owned());
        let Some(epoch) = state.joined_epoch.filter(|_| state.attached) else {
            return match (state.attached, state.loaded) {
                (false, _) => not_ready("there is no stream to the head"),
                (true, false) => not_ready("the weights are not loaded"),
                (true, true) => not_ready("the ranks wait for the group to form"),
            };
        };
        if state.leaving {
            return not_ready("this node leaves");
        }
        match state.pulse {
            Some((_, at)) if now.duration_since(at) > PULSE_LIFETIME => {
                not_ready("the head has sent no pulse for two seconds")
            }
            Some((pulse, _)) if pulse.epoch == epoch && pulse.serving => Ok(()),
            _ => Err(format!("epoch {epoch} waits for its first token")),
        }
    }

    /// Checks that the node has loaded. Returns `None` while it still loads and makes progress.
    pub(super) fn check_started(&self, now: Instant) -> Option<ProbeResult> {
        let state = self.state();
        if state.loaded {
            return Some(Ok(()));
        }
        let stalled = now.duration_since(state.last_load_progress_at) > START_TIMEOUT;
        let cause = if state.attached {
            "no byte of the weights was read or fetched"
        } else {
            "there was no stream to the head"
        };
        stalled.then(|| Err(format!("{cause} for {} s", START_TIMEOUT.as_secs())))
    }

    /// Checks that neither a step nor the node's loop is stuck.
    pub(super) fn check_alive(&self, now: Instant) -> ProbeResult {
        let state = self.state();
        if state.step_progress_at.is_some_and(|at| now.duration_since(at) > STEP_TIMEOUT) {
            return Err(format!("a step is in flight and nothing has moved for {} s", STEP_TIMEOUT.as_secs()));
        }
        match now > state.loop_deadline {
            true => Err("the node's task is stuck".into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(verdict: ProbeResult) -> String {
        verdict.expect_err("not yet")
    }

    #[test]
    fn a_node_is_ready_while_a_fresh_pulse_says_that_its_epoch_serves() {
        let health = Health::new(2, 2);
        let now = Instant::now();
        assert!(reason(health.check_ready(now)).contains("no stream"));
        health.set_attached(true);
        assert!(reason(health.check_ready(now)).contains("not loaded"));
        health.set_loaded();
        assert!(reason(health.check_ready(now)).contains("wait for the group"));
        health.set_joined(3);
        health.set_pulse(Pulse { epoch: 2, serving: true });
        assert!(reason(health.check_ready(now)).contains("first token"), "the pulse is of an older epoch");
        health.set_pulse(Pulse { epoch: 3, serving: false });
        assert!(reason(health.check_ready(now)).contains("first token"));
        health.set_pulse(Pulse { epoch: 3, serving: true });
        assert_eq!(health.check_ready(now), Ok(()));
        assert!(health.ranks().iter().all(|rank| rank.phase == Phase::Serving && rank.rank >= 2));
        assert!(reason(health.check_ready(Instant::now() + 2 * PULSE_LIFETIME)).contains("two seconds"));
        health.clear_joined();
        assert!(reason(health.check_ready(now)).contains("wait for the group"));
        health.set_joined(4);
        assert!(reason(health.check_ready(now)).contains("epoch 4"), "the pulse is of epoch 3");
        health.set_pulse(Pulse { epoch: 4, serving: true });
        health.set_leaving();
        assert!(reason(health.check_ready(now)).contains("leaves"));
    }

    /// The time goes on from the last word of the head, also after the stream has ended.
    #[test]
    fn a_node_knows_for_how_long_its_head_has_been_silent() {
        let health = Health::new(0, 1);
        let (start, later) = (Instant::now(), Duration::from_secs(10));
        let never = health.head_contact(start + later);
        assert!(!never.attached && never.silent_for >= later - Duration::from_secs(1), "{never:?}");
        health.set_attached(true);
        health.set_pulse(Pulse { epoch: 1, serving: true });
        let heard = Instant::now();
        assert!(health.head_contact(heard).attached);
        assert_eq!(health.head_contact(heard - Duration::from_secs(1)).silent_for, Duration::ZERO);
        health.set_attached(false);
        let lost = health.head_contact(heard + later);
        assert!(!lost.attached && (later..later + Duration::from_secs(1)).contains(&lost.silent_for), "{lost:?}");
    }

    #[test]
    fn the_start_ends_once_the_node_has_loaded_or_stalled() {
        let health = Health::new(0, 1);
        let now = Instant::now();
        assert_eq!(health.check_started(now), None);
        let late = now + 2 * START_TIMEOUT;
        assert!(reason(health.check_started(late).expect("a verdict")).contains("no stream to the head"));
        health.set_attached(true);
        health.set_loading();
        health.set_load_progress(0, 5, 10);
        assert_eq!(health.check_started(Instant::now()), None);
        assert!(reason(health.check_started(late).expect("a verdict")).contains("no byte"));
        health.set_loaded();
        assert_eq!(health.check_started(late), Some(Ok(())));
    }

    #[test]
    fn a_node_with_a_stuck_step_or_task_is_not_alive() {
        let health = Health::new(0, 1);
        let now = Instant::now();
        assert_eq!(health.check_alive(now), Ok(()));
        assert!(reason(health.check_alive(now + 2 * LOOP_TIMEOUT)).contains("task is stuck"));
        health.set_step_progress(Some(now));
        assert_eq!(health.check_alive(now + STEP_TIMEOUT / 2), Ok(()));
        assert!(reason(health.check_alive(now + 2 * STEP_TIMEOUT)).contains("nothing has moved"));
        health.set_step_progress(None);
        health.extend_loop_deadline(10 * LOOP_TIMEOUT);
        assert_eq!(health.check_alive(now + 5 * LOOP_TIMEOUT), Ok(()));
    }
}
