//! The group's life as histories of events.

use std::time::{Duration, Instant};

use lockstep_proto::node::{self as pb, from_head::Message};

use super::group::{Action, Group};
use super::member::Member;
use super::testing::{config, hello, loaded, member};

struct History {
    group: Group,
    now: Instant,
}

impl History {
    fn new(nodes: usize) -> Self {
        Self { group: Group::new(config(nodes)), now: Instant::now() }
    }

    fn attach(&mut self, node: u32, connection: u64) -> Vec<Action> {
        let mut member = member(node, connection);
        (member.heard_at, member.moved_at) = (self.now, self.now);
        self.group.attach(member, self.now)
    }

    fn formed(nodes: usize) -> Self {
        let mut history = Self::new(nodes);
        for node in 0..nodes as u32 {
            history.attach(node, u64::from(node));
        }
        history.form(nodes, 1);
        history
    }

    fn form(&mut self, nodes: usize, epoch: u64) {
        let mut actions = Vec::new();
        for node in 0..nodes {
            actions = self.group.loaded(node, loaded(10 + node as u32), self.now);
        }
        assert_eq!(forms(&actions), vec![(epoch, 10); nodes], "{actions:?}");
        for node in 0..nodes - 1 {
            assert_eq!(self.group.formed(node, epoch), []);
        }
        assert_eq!(self.group.formed(nodes - 1, epoch), [Action::Formed { epoch, num_blocks: 10 }]);
    }

    /// Lets `millis` pass in ticks, while the given nodes' hearts beat with the given progress.
    fn pass(&mut self, millis: u64, beats: &[(usize, u64)]) -> Vec<Action> {
        let mut actions = Vec::new();
        for _ in 0..millis / 50 {
            self.now += Duration::from_millis(50);
            for (node, progress) in beats {
                let beat = pb::Heartbeat { progress: *progress, epoch: self.group.epoch(), ..Default::default() };
                self.group.heartbeat(*node, &beat, self.now);
            }
            actions.extend(self.group.tick(self.now));
        }
        actions
    }
}

fn forms(actions: &[Action]) -> Vec<(u64, u32)> {
    let form = |action: &Action| match action {
        Action::Send { message: Message::Form(form), .. } => Some((form.epoch, form.num_blocks)),
        _ => None,
    };
    actions.iter().filter_map(form).collect()
}

fn aborted(actions: &[Action]) -> Vec<usize> {
    let abort = |action: &Action| match action {
        Action::Send { node, message: Message::Abort(_) } => Some(*node),
        _ => None,
    };
    actions.iter().filter_map(abort).collect()
}

fn evicted(actions: &[Action]) -> Vec<usize> {
    let evict = |action: &Action| match action {
        Action::Evict { node, .. } => Some(*node),
        _ => None,
    };
    actions.iter().filter_map(evict).collect()
}

fn lost(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Lost { .. })).count()
}

#[test]
fn forms_once_all_have_loaded_and_again_after_a_loss() {
    let mut history = History::formed(3);
    let actions = history.group.detach(1, 1, "its stream closed", history.now);
    assert_eq!((aborted(&actions), lost(&actions)), (vec![0, 2], 1));
    assert!(!history.group.is_formed());
    assert_eq!(history.pass(500, &[(0, 0), (2, 0)]), []);
    history.attach(1, 9);
    let actions = history.group.loaded(1, loaded(12), history.now);
    assert_eq!(forms(&actions), vec![(2, 10); 3]);
    assert_eq!(history.group.recoveries(), 1);
}

#[test]
fn a_loss_while_forming_is_not_a_recovery() {
    let mut history = History::new(2);
    history.attach(0, 0);
    history.attach(1, 1);
    history.group.loaded(0, loaded(1), history.now);
    history.group.loaded(1, loaded(1), history.now);
    let actions = history.group.detach(1, 1, "its stream closed", history.now);
    assert_eq!((aborted(&actions), lost(&actions), history.group.recoveries()), (vec![0], 0, 0));
    assert_eq!(history.group.formed(0, 1), []);
}

#[test]
fn an_old_stream_ends_no_newer_one() {
    let mut history = History::formed(2);
    assert_eq!(history.group.detach(1, 77, "late", history.now), []);
    assert!(history.group.is_formed());
}

#[test]
fn a_newer_process_evicts_the_older() {
    let mut history = History::formed(2);
    let actions = history.attach(1, 5);
    assert_eq!((evicted(&actions), lost(&actions)), (vec![1], 1));
    assert_eq!(history.group.connection(1), Some(5));
}

#[test]
fn silence_is_noticed_within_a_second() {
    let mut history = History::formed(3);
    assert_eq!(history.pass(700, &[(0, 1), (1, 1)]), []);
    let actions = history.pass(200, &[(0, 1), (1, 1)]);
    assert_eq!((evicted(&actions), lost(&actions)), (vec![2], 1));
}

#[test]
fn the_rank_that_is_behind_is_hung() {
    let mut history = History::formed(3);
    history.group.busy(true, history.now);
    assert_eq!(history.pass(800, &[(0, 8), (1, 7), (2, 8)]), []);
    let actions = history.pass(200, &[(0, 8), (1, 7), (2, 8)]);
    assert_eq!((evicted(&actions), aborted(&actions)), (vec![1], vec![0, 2]));
}

/// Stages count different layers and are in different steps: the first that has not done the oldest step is awaited.
#[test]
fn the_stage_that_the_others_wait_for_is_hung() {
    let stages = |nodes, stages| {
        let mut config = config(nodes);
        config.assignment.pipeline_parallel_size = stages;
        let mut history = History { group: Group::new(config), now: Instant::now() };
        (0..nodes as u32).for_each(|node| drop(history.attach(node, u64::from(node))));
        history.form(nodes, 1);
        history.group.busy(true, history.now);
        history
    };
    // The steps that each node has done, and its progress; who is evicted.
    let cases = [
        (3, vec![(5, 90), (4, 10), (4, 80)], vec![1]),
        (3, vec![(5, 10), (5, 90), (4, 80)], vec![2]),
        (3, vec![(4, 90), (4, 10), (4, 80)], vec![0]),
        (2, vec![(5, 90), (5, 90), (4, 10), (4, 11)], vec![2]),
        (2, vec![(5, 90), (5, 90), (4, 12), (5, 11)], vec![2]),
        (2, vec![(5, 90), (5, 90), (4, 10), (4, 10)], vec![]),
    ];
    for (number, nodes, expected) in cases {
        let mut history = stages(nodes.len(), number);
        for (node, (step, _)) in nodes.iter().enumerate() {
            history.group.step_done(node, *step, 10, history.now);
        }
        let beats: Vec<(usize, u64)> = nodes.iter().map(|(_, progress)| *progress).enumerate().collect();
        let actions = history.pass(1100, &beats);
        assert_eq!((evicted(&actions), lost(&actions)), (expected, 1), "{nodes:?} in {number} stages");
    }
}

#[test]
fn what_was_sampled_is_told_by_the_last_stage() {
    for (nodes, stages, reporter) in [(3, 1, 0), (2, 2, 1), (4, 2, 2), (6, 3, 4)] {
        let mut config = config(nodes);
        config.assignment.pipeline_parallel_size = stages;
        assert_eq!(Group::new(config).reporting_node(), reporter);
    }
    let mut config = config(2);
    (config.local_world_size, config.assignment.world_size, config.assignment.pipeline_parallel_size) = (4, 8, 4);
    assert_eq!(Group::new(config).reporting_node(), 1);
}

#[test]
fn an_idle_group_is_not_hung() {
    let mut history = History::formed(2);
    assert_eq!(history.pass(5000, &[(0, 3), (1, 3)]), []);
    history.group.busy(true, history.now);
    assert_eq!(history.pass(800, &[(0, 3), (1, 3)]), []);
    history.group.busy(false, history.now);
    assert_eq!(history.pass(2000, &[(0, 3), (1, 3)]), []);
}

#[test]
fn level_ranks_form_again_with_nobody_evicted() {
    let mut history = History::formed(2);
    history.group.busy(true, history.now);
    let actions = history.pass(1000, &[(0, 3), (1, 3)]);
    assert_eq!((evicted(&actions), aborted(&actions), lost(&actions)), (vec![], vec![0, 1], 1));
    assert_eq!(forms(&history.pass(300, &[(0, 0), (1, 0)])), vec![(2, 10); 2]);
}

#[test]
fn nobody_is_blamed_for_the_heads_own_sleep() {
    let mut history = History::formed(2);
    history.pass(100, &[(0, 1), (1, 1)]);
    history.now += Duration::from_secs(20);
    assert_eq!(history.group.tick(history.now), []);
    assert_eq!(history.pass(200, &[(0, 1), (1, 1)]), []);
}

#[test]
fn another_model_is_refused() {
    let mut history = History::new(1);
    history.attach(0, 0);
    let other = pb::Loaded { model: "other".into(), ..Default::default() };
    assert_eq!(evicted(&history.group.loaded(0, other, history.now)), vec![0]);
}

#[test]
fn epochs_go_on_above_what_the_nodes_have_seen() {
    let mut history = History::new(1);
    let seen = pb::Hello { last_epoch: 41, ..hello(0) };
    let lo = [127, 0, 0, 1].into();
    history.group.attach(Member::new(seen, 0, lo, lo, history.now), history.now);
    assert_eq!(forms(&history.group.loaded(0, loaded(3), history.now)), vec![(42, 3)]);
}

#[test]
fn faults_end_the_epoch_and_fatal_ones_the_node() {
    let mut history = History::formed(2);
    let stale = pb::Fault { epoch: 0, ..Default::default() };
    assert_eq!(history.group.fault(1, &stale, history.now), []);
    let fault = pb::Fault { epoch: 1, rank: 1, message: "link closed".into(), ..Default::default() };
    let actions = history.group.fault(1, &fault, history.now);
    assert_eq!((evicted(&actions), lost(&actions)), (vec![], 1));
    let fatal = pb::Fault { epoch: 1, fatal: true, ..Default::default() };
    assert_eq!(evicted(&history.group.fault(0, &fatal, history.now)), vec![0]);
}

/// A node that was told to stop goes between two steps: nobody is at fault, nothing counts as lost.
#[test]
fn a_leaver_goes_at_a_boundary() {
    let mut history = History::formed(3);
    let pause = Duration::from_millis(500);
    for node in 0..3 {
        history.group.step_done(node, 7, 10, history.now);
    }
    history.group.leaving(1, "told to stop", history.now);
    assert_eq!(history.group.leaver(history.now, pause), None);
    history.now += pause;
    assert_eq!(history.group.leaver(history.now, pause), Some(1));
    assert!(!history.group.is_at_boundary(Some(8)), "step 8 is in flight");
    for node in [0, 2, 1] {
        assert!(!history.group.is_at_boundary(Some(8)), "node {node} has not done it");
        history.group.step_done(node, 8, 10, history.now);
    }
    assert!(history.group.is_at_boundary(Some(8)));
    let actions = history.group.let_go(1);
    assert!(matches!(actions[0], Action::Send { node: 1, message: Message::Drain(_) }), "{actions:?}");
    assert_eq!((aborted(&actions), lost(&actions), evicted(&actions)), (vec![0, 2], 0, vec![]));
    assert!(matches!(actions.last(), Some(Action::Ended { .. })), "{actions:?}");
    assert_eq!((history.group.recoveries(), history.group.places()[1].restarts), (0, 0));
    assert_eq!(history.group.leaver(history.now, pause), None);
    assert_eq!(history.group.detach(1, 1, "its process ended", history.now), []);
    // Its successor is all that is missing.
    history.attach(1, 9);
    let actions = history.group.loaded(1, loaded(12), history.now);
    assert_eq!(forms(&actions), vec![(2, 10); 3]);
}

#[test]
fn a_leaver_of_no_epoch_goes_at_once() {
    let mut history = History::new(2);
    history.attach(0, 0);
    history.group.leaving(0, "told to stop", history.now);
    assert!(history.group.is_at_boundary(None));
    let actions = history.group.let_go(0);
    assert!(matches!(actions[..], [Action::Send { node: 0, message: Message::Drain(_) }]), "{actions:?}");
    assert_eq!(history.group.let_go(0), []);
}
