//! What a node can say of itself when it is probed: how far its ranks are, whether they serve, whether it is stuck.
//!
//! Every state is written where it changes and read by the probes; whether the ranks serve is the head's word, told by
//! its pulse, and counts only as long as the pulse is fresh and of the epoch that these ranks have joined.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lockstep_proto::node::Pulse;
use lockstep_proto::v1::Phase;

/// A pulse, sent every 500 ms, that is older than this says nothing.
const PULSE_LIFE: Duration = Duration::from_secs(2);
/// A node that has not loaded and whose bytes do not move for this long does not start.
const START_STALL: Duration = Duration::from_secs(120);
/// A step in flight during which nothing moves for this long is stuck. The process ends itself soon after.
const STEP_STALL: Duration = Duration::from_secs(15);
/// The node's task turns at least this often, unless it said that it will be long.
pub const TURN: Duration = Duration::from_secs(60);

/// One local rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankHealth {
    pub rank: u32,
    pub phase: Phase,
    pub bytes_loaded: u64,
    pub bytes_total: u64,
}

/// An answer to a probe: good, or not and why.
pub type Verdict = Result<(), String>;

#[derive(Debug)]
struct State {
    ranks: Vec<RankHealth>,
    loaded: bool,
    attached: bool,
    leaving: bool,
    /// The epoch that all local ranks have joined.
    joined: Option<u64>,
    pulse: Option<(Pulse, Instant)>,
    /// When loading last got on.
    moved_at: Instant,
    /// A step is in flight and has not moved since.
    still_since: Option<Instant>,
    /// When the node's task turns again at the latest.
    turns_by: Instant,
}

/// The state of one node; shared by its task, its heartbeat and its probes.
#[derive(Debug)]
pub struct Health(Mutex<State>);

impl Health {
    pub fn new(first_rank: u32, ranks: u32) -> Self {
        let rank =
            |local| RankHealth { rank: first_rank + local, phase: Phase::Pending, bytes_loaded: 0, bytes_total: 0 };
        let now = Instant::now();
        Self(Mutex::new(State {
            ranks: (0..ranks).map(rank).collect(),
            loaded: false,
            attached: false,
            leaving: false,
            joined: None,
            pulse: None,
            moved_at: now,
            still_since: None,
            turns_by: now + TURN,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self, phase: Phase) {
        self.state().ranks.iter_mut().for_each(|rank| rank.phase = phase);
    }

    /// The node's task turned, and will again within `time`.
    pub fn turn(&self, time: Duration) {
        self.state().turns_by = Instant::now() + time;
    }

    pub fn attached(&self, attached: bool) {
        let mut state = self.state();
        (state.attached, state.pulse) = (attached, None);
        if attached {
            state.moved_at = Instant::now();
        }
    }

    pub fn leaving(&self) {
        self.state().leaving = true;
    }

    pub fn loading(&self) {
        let mut state = self.state();
        (state.loaded, state.moved_at) = (false, Instant::now());
        drop(state);
        self.phase(Phase::Loading);
    }

    pub fn downloading(&self) {
        self.phase(Phase::Downloading);
    }

    pub fn progress(&self, local_rank: usize, loaded: u64, total: u64) {
        let mut state = self.state();
        state.moved_at = Instant::now();
        if let Some(rank) = state.ranks.get_mut(local_rank) {
            (rank.bytes_loaded, rank.bytes_total) = (loaded, total);
        }
    }

    pub fn loaded(&self) {
        self.state().loaded = true;
        self.phase(Phase::Forming);
    }

    /// All local ranks have joined an epoch.
    pub fn joined(&self, epoch: u64) {
        self.state().joined = Some(epoch);
        self.phase(Phase::Warmup);
    }

    /// The epoch is over, or a new one forms.
    pub fn unjoined(&self) {
        let mut state = self.state();
        state.joined = None;
        if state.loaded {
            drop(state);
            self.phase(Phase::Forming);
        }
    }

    pub fn pulse(&self, pulse: Pulse) {
        self.state().pulse = Some((pulse, Instant::now()));
    }

    /// From the heartbeat: a step is in flight and has not moved since then.
    pub fn still_since(&self, since: Option<Instant>) {
        self.state().still_since = since;
    }

    pub fn epoch(&self) -> Option<u64> {
        self.state().joined
    }

    /// The local ranks, with what the head says of them.
    pub fn ranks(&self) -> Vec<RankHealth> {
        let serves = self.ready(Instant::now()).is_ok();
        let shown = |rank: &RankHealth| match (rank.phase, serves) {
            (Phase::Warmup, true) => RankHealth { phase: Phase::Serving, ..*rank },
            _ => *rank,
        };
        self.state().ranks.iter().map(shown).collect()
    }

    /// Whether the ranks serve in the current epoch.
    pub fn ready(&self, now: Instant) -> Verdict {
        let state = self.state();
        let wrong = |reason: &str| Err(reason.to_owned());
        let Some(epoch) = state.joined.filter(|_| state.attached) else {
            return match (state.attached, state.loaded) {
                (false, _) => wrong("there is no stream to the head"),
                (true, false) => wrong("the weights are not loaded"),
                (true, true) => wrong("the ranks wait for the group to form"),
            };
        };
        if state.leaving {
            return wrong("this node leaves");
        }
        match state.pulse {
            Some((_, at)) if now.duration_since(at) > PULSE_LIFE => {
                wrong("the head has not been heard for two seconds")
            }
            Some((pulse, _)) if pulse.epoch == epoch && pulse.serving => Ok(()),
            _ => Err(format!("epoch {epoch} waits for its first token")),
        }
    }

    /// `None`: it still loads, and bytes move.
    pub fn started(&self, now: Instant) -> Option<Verdict> {
        let state = self.state();
        if state.loaded {
            return Some(Ok(()));
        }
        let stalled = now.duration_since(state.moved_at) > START_STALL;
        let what = if state.attached {
            "no byte of the weights was read or fetched"
        } else {
            "there was no stream to the head"
        };
        stalled.then(|| Err(format!("{what} for {} s", START_STALL.as_secs())))
    }

    /// Whether the process can still do its work.
    pub fn alive(&self, now: Instant) -> Verdict {
        let state = self.state();
        if state.still_since.is_some_and(|since| now.duration_since(since) > STEP_STALL) {
            return Err(format!("a step is in flight and nothing has moved for {} s", STEP_STALL.as_secs()));
        }
        match now > state.turns_by {
            true => Err("the node's task is stuck".into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(verdict: Verdict) -> String {
        verdict.expect_err("not yet")
    }

    #[test]
    fn ready_is_what_the_head_says_of_the_epoch_that_was_joined() {
        let health = Health::new(2, 2);
        let now = Instant::now();
        assert!(reason(health.ready(now)).contains("no stream"));
        health.attached(true);
        assert!(reason(health.ready(now)).contains("not loaded"));
        health.loaded();
        assert!(reason(health.ready(now)).contains("wait for the group"));
        health.joined(3);
        health.pulse(Pulse { epoch: 2, serving: true });
        assert!(reason(health.ready(now)).contains("first token"), "the pulse is of an older epoch");
        health.pulse(Pulse { epoch: 3, serving: false });
        assert!(reason(health.ready(now)).contains("first token"));
        health.pulse(Pulse { epoch: 3, serving: true });
        assert_eq!(health.ready(now), Ok(()));
        assert!(health.ranks().iter().all(|rank| rank.phase == Phase::Serving && rank.rank >= 2));
        assert!(reason(health.ready(Instant::now() + 2 * PULSE_LIFE)).contains("two seconds"));
        health.unjoined();
        assert!(reason(health.ready(now)).contains("wait for the group"));
        health.joined(4);
        assert!(reason(health.ready(now)).contains("epoch 4"), "the pulse is of epoch 3");
        health.pulse(Pulse { epoch: 4, serving: true });
        health.leaving();
        assert!(reason(health.ready(now)).contains("leaves"));
    }

    #[test]
    fn starting_ends_loaded_or_stalled() {
        let health = Health::new(0, 1);
        let now = Instant::now();
        assert_eq!(health.started(now), None);
        let late = now + 2 * START_STALL;
        assert!(reason(health.started(late).expect("a verdict")).contains("no stream to the head"));
        health.attached(true);
        health.loading();
        health.progress(0, 5, 10);
        assert_eq!(health.started(Instant::now()), None);
        assert!(reason(health.started(late).expect("a verdict")).contains("no byte"));
        health.loaded();
        assert_eq!(health.started(late), Some(Ok(())));
    }

    #[test]
    fn a_stuck_step_or_task_is_not_alive() {
        let health = Health::new(0, 1);
        let now = Instant::now();
        assert_eq!(health.alive(now), Ok(()));
        assert!(reason(health.alive(now + 2 * TURN)).contains("task is stuck"));
        health.still_since(Some(now));
        assert_eq!(health.alive(now + STEP_STALL / 2), Ok(()));
        assert!(reason(health.alive(now + 2 * STEP_STALL)).contains("nothing has moved"));
        health.still_since(None);
        health.turn(10 * TURN);
        assert_eq!(health.alive(now + 5 * TURN), Ok(()));
    }
}
