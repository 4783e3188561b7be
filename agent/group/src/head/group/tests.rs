//! Each test plays a history of events to a group and checks the actions that follow.

use std::time::{Duration, Instant};

use lockstep_proto::node::{self as pb, from_head::Message};

use super::{Action, HeadGroup};
use crate::head::member::Member;
use crate::head::testing::{config, hello, loaded, member};

struct History {
    group: HeadGroup,
    now: Instant,
}

impl History {
    fn new(nodes: usize) -> Self {
        Self { group: HeadGroup::new(config(nodes)), now: Instant::now() }
    }

    fn attach(&mut self, node: u32, connection: u64) -> Vec<Action> {
        let mut member = member(node, connection);
        (member.last_heartbeat_at, member.last_progress_at) = (self.now, self.now);
        let reason = "a newer process took the place";
        let mut actions = self.group.evict(node as usize, reason, self.now);
        actions.push(self.group.attach(member));
        actions
    }

    fn new_formed(nodes: usize) -> Self {
        let mut history = Self::new(nodes);
        for node in 0..nodes as u32 {
            history.attach(node, u64::from(node));
        }
        history.form_epoch(nodes, 1);
        history
    }

    fn form_epoch(&mut self, nodes: usize, epoch: u64) {
        let mut actions = Vec::new();
        for node in 0..nodes {
            actions = self.group.node_loaded(node, loaded(10 + node as u32), self.now);
        }
        assert_eq!(form_messages(&actions), vec![(epoch, 10); nodes], "{actions:?}");
        for node in 0..nodes - 1 {
            assert_eq!(self.group.node_formed(node, epoch), []);
        }
        assert_eq!(self.group.node_formed(nodes - 1, epoch), [Action::StartEpoch { epoch, num_blocks: 10 }]);
    }

    /// Lets `millis` pass in ticks, while each of the given nodes sends heartbeats with the given progress.
    fn pass_time(&mut self, millis: u64, beats: &[(usize, u64)]) -> Vec<Action> {
        let mut actions = Vec::new();
        for _ in 0..millis / 50 {
            self.now += Duration::from_millis(50);
            for (node, progress) in beats {
                let beat = pb::Heartbeat { progress: *progress, epoch: self.group.epoch(), ..Default::default() };
                self.group.record_heartbeat(*node, &beat, self.now);
            }
            actions.extend(self.group.tick(self.now));
        }
        actions
    }
}

fn form_messages(actions: &[Action]) -> Vec<(u64, u32)> {
    let form = |action: &Action| match action {
        Action::Send { message: Message::Form(form), .. } => Some((form.epoch, form.num_blocks)),
        _ => None,
    };
    actions.iter().filter_map(form).collect()
}

fn aborted_nodes(actions: &[Action]) -> Vec<usize> {
    let abort = |action: &Action| match action {
        Action::Send { node, message: Message::Abort(_) } => Some(*node),
        _ => None,
    };
    actions.iter().filter_map(abort).collect()
}

fn evicted_nodes(actions: &[Action]) -> Vec<usize> {
    let evict = |action: &Action| match action {
        Action::Evict { node, .. } => Some(*node),
        _ => None,
    };
    actions.iter().filter_map(evict).collect()
}

/// Returns the nodes that the reason of a failed epoch calls hung.
fn hung_nodes(actions: &[Action]) -> Vec<usize> {
    let hung = |action: &Action| match action {
        Action::FailEpoch { reason } => {
            let nodes = reason.strip_prefix("node ")?.split_once(": hung")?.0;
            Some(nodes.split(", ").map(|node| node.parse().unwrap()).collect())
        }
        _ => None,
    };
    actions.iter().find_map(hung).unwrap_or_default()
}

fn failed_epochs(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::FailEpoch { .. })).count()
}

#[test]
fn the_group_forms_once_all_nodes_have_loaded_and_again_after_a_loss() {
    let mut history = History::new_formed(3);
    let actions = history.group.detach(1, 1, "its stream closed", history.now);
    assert_eq!((aborted_nodes(&actions), failed_epochs(&actions)), (vec![0, 2], 1));
    assert!(!history.group.is_formed());
    assert_eq!(history.pass_time(500, &[(0, 0), (2, 0)]), []);
    history.attach(1, 9);
    let actions = history.group.node_loaded(1, loaded(12), history.now);
    assert_eq!(form_messages(&actions), vec![(2, 10); 3]);
    assert_eq!(history.group.recoveries(), 1);
}

#[test]
fn a_loss_while_forming_is_not_a_recovery() {
    let mut history = History::new(2);
    history.attach(0, 0);
    history.attach(1, 1);
    history.group.node_loaded(0, loaded(1), history.now);
    history.group.node_loaded(1, loaded(1), history.now);
    let actions = history.group.detach(1, 1, "its stream closed", history.now);
    assert_eq!((aborted_nodes(&actions), failed_epochs(&actions), history.group.recoveries()), (vec![0], 0, 0));
    assert_eq!(history.group.node_formed(0, 1), []);
}

#[test]
fn the_end_of_an_old_stream_does_not_end_a_newer_one() {
    let mut history = History::new_formed(2);
    assert_eq!(history.group.detach(1, 77, "late", history.now), []);
    assert!(history.group.is_formed());
}

#[test]
fn a_newer_process_evicts_an_older_one() {
    let mut history = History::new_formed(2);
    let actions = history.attach(1, 5);
    assert_eq!((evicted_nodes(&actions), failed_epochs(&actions)), (vec![1], 1));
    assert_eq!(history.group.connection(1), Some(5));
}

/// A node that is short of CPU is suspect, and its step waits. Silence of some seconds ends the stream, not the process.
#[test]
fn a_silent_node_is_suspect_and_then_disconnected_and_may_come_back() {
    let mut history = History::new_formed(3);
    history.group.set_in_flight(true, history.now);
    for _ in 0..3 {
        assert_eq!(history.pass_time(750, &[(0, 1), (1, 1)]), []);
        assert!(!history.group.has_suspects());
        assert_eq!(history.pass_time(2000, &[(0, 1), (1, 1)]), []);
        assert_eq!(history.group.suspects().collect::<Vec<_>>(), [2]);
        // It speaks again. The step has time to go on.
        assert_eq!(history.pass_time(800, &[(0, 1), (1, 1), (2, 1)]), []);
        assert!(!history.group.has_suspects());
        history.group.set_in_flight(false, history.now);
        history.group.set_in_flight(true, history.now);
    }
    let actions = history.pass_time(3100, &[(0, 1), (1, 1)]);
    let disconnected = |action: &Action| matches!(action, Action::Disconnect { node: 2, connection: 2, .. });
    assert!(actions.iter().any(disconnected), "{actions:?}");
    assert_eq!((evicted_nodes(&actions), failed_epochs(&actions)), (vec![], 1));
    assert_eq!(history.group.connection(2), None);
    history.attach(2, 9);
    let actions = history.group.node_loaded(2, loaded(12), history.now);
    assert_eq!(form_messages(&actions), vec![(2, 10); 3]);
}

#[test]
fn the_rank_with_the_least_progress_is_hung_and_keeps_its_weights() {
    let mut history = History::new_formed(3);
    history.group.set_in_flight(true, history.now);
    assert_eq!(history.pass_time(800, &[(0, 8), (1, 7), (2, 8)]), []);
    let actions = history.pass_time(200, &[(0, 8), (1, 7), (2, 8)]);
    assert_eq!((hung_nodes(&actions), aborted_nodes(&actions)), (vec![1], vec![0, 1, 2]));
    assert_eq!(evicted_nodes(&actions), Vec::<usize>::new());
}

/// Stages have different layers and are in different steps. The others wait for the first stage that has not finished
/// the oldest step.
#[test]
fn the_stage_that_holds_up_the_others_is_hung() {
    let stages = |nodes, stages| {
        let mut config = config(nodes);
        config.assignment.pipeline_parallel_size = stages;
        let mut history = History { group: HeadGroup::new(config), now: Instant::now() };
        (0..nodes as u32).for_each(|node| drop(history.attach(node, u64::from(node))));
        history.form_epoch(nodes, 1);
        history.group.set_in_flight(true, history.now);
        history
    };
    // Number of stages; last step and progress of each node; hung nodes.
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
            history.group.record_step(node, *step, 10, history.now);
        }
        let beats: Vec<(usize, u64)> = nodes.iter().map(|(_, progress)| *progress).enumerate().collect();
        let actions = history.pass_time(1100, &beats);
        assert_eq!((hung_nodes(&actions), failed_epochs(&actions)), (expected, 1), "{nodes:?} in {number} stages");
    }
}

#[test]
fn the_last_stage_reports_the_sampled_tokens() {
    for (nodes, stages, reporter) in [(3, 1, 0), (2, 2, 1), (4, 2, 2), (6, 3, 4)] {
        let mut config = config(nodes);
        config.assignment.pipeline_parallel_size = stages;
        assert_eq!(HeadGroup::new(config).reporting_node(), reporter);
    }
    let mut config = config(2);
    (config.local_world_size, config.assignment.world_size, config.assignment.pipeline_parallel_size) = (4, 8, 4);
    assert_eq!(HeadGroup::new(config).reporting_node(), 1);
}

#[test]
fn an_idle_group_is_not_hung() {
    let mut history = History::new_formed(2);
    assert_eq!(history.pass_time(5000, &[(0, 3), (1, 3)]), []);
    history.group.set_in_flight(true, history.now);
    assert_eq!(history.pass_time(800, &[(0, 3), (1, 3)]), []);
    history.group.set_in_flight(false, history.now);
    assert_eq!(history.pass_time(2000, &[(0, 3), (1, 3)]), []);
}

#[test]
fn ranks_with_equal_progress_form_again_without_an_eviction() {
    let mut history = History::new_formed(2);
    history.group.set_in_flight(true, history.now);
    let actions = history.pass_time(1000, &[(0, 3), (1, 3)]);
    assert_eq!((evicted_nodes(&actions), aborted_nodes(&actions), failed_epochs(&actions)), (vec![], vec![0, 1], 1));
    assert_eq!(form_messages(&history.pass_time(300, &[(0, 0), (1, 0)])), vec![(2, 10); 2]);
}

#[test]
fn a_pause_of_the_head_evicts_no_node() {
    let mut history = History::new_formed(2);
    history.pass_time(100, &[(0, 1), (1, 1)]);
    history.now += Duration::from_secs(20);
    assert_eq!(history.group.tick(history.now), []);
    assert_eq!(history.pass_time(200, &[(0, 1), (1, 1)]), []);
}

#[test]
fn a_node_that_loaded_another_model_is_evicted() {
    let mut history = History::new(1);
    history.attach(0, 0);
    let other = pb::Loaded { model: "other".into(), ..Default::default() };
    assert_eq!(evicted_nodes(&history.group.node_loaded(0, other, history.now)), vec![0]);
}

#[test]
fn a_new_epoch_is_above_every_epoch_that_a_node_has_seen() {
    let mut history = History::new(1);
    let hello = pb::Hello { last_epoch: 41, ..hello(0) };
    let lo = [127, 0, 0, 1].into();
    history.group.attach(Member::new(hello, 0, lo, lo, history.now));
    assert_eq!(form_messages(&history.group.node_loaded(0, loaded(3), history.now)), vec![(42, 3)]);
}

#[test]
fn a_fault_ends_the_epoch_and_a_fatal_fault_evicts_the_node() {
    let mut history = History::new_formed(2);
    let stale = pb::Fault { epoch: 0, ..Default::default() };
    assert_eq!(history.group.node_faulted(1, &stale, history.now), []);
    let fault = pb::Fault { epoch: 1, rank: 1, message: "link closed".into(), ..Default::default() };
    let actions = history.group.node_faulted(1, &fault, history.now);
    assert_eq!((evicted_nodes(&actions), failed_epochs(&actions)), (vec![], 1));
    let fatal = pb::Fault { epoch: 1, fatal: true, ..Default::default() };
    assert_eq!(evicted_nodes(&history.group.node_faulted(0, &fatal, history.now)), vec![0]);
}

/// A node that was told to stop departs between two steps. No node is at fault, and nothing counts as lost.
#[test]
fn a_departing_node_is_released_between_two_steps() {
    let mut history = History::new_formed(3);
    let pause = Duration::from_millis(500);
    for node in 0..3 {
        history.group.record_step(node, 7, 10, history.now);
    }
    history.group.request_departure(1, "told to stop", history.now);
    assert_eq!(history.group.departing_node(history.now, pause), None);
    history.now += pause;
    assert_eq!(history.group.departing_node(history.now, pause), Some(1));
    assert!(!history.group.has_finished_step(Some(8)), "step 8 is in flight");
    for node in [0, 2, 1] {
        assert!(!history.group.has_finished_step(Some(8)), "node {node} has not finished it");
        history.group.record_step(node, 8, 10, history.now);
    }
    assert!(history.group.has_finished_step(Some(8)));
    let actions = history.group.release(1);
    assert!(matches!(actions[0], Action::Send { node: 1, message: Message::Drain(_) }), "{actions:?}");
    assert_eq!((aborted_nodes(&actions), failed_epochs(&actions), evicted_nodes(&actions)), (vec![0, 2], 0, vec![]));
    assert!(matches!(actions.last(), Some(Action::EndEpoch { .. })), "{actions:?}");
    assert_eq!((history.group.recoveries(), history.group.slots()[1].restarts), (0, 0));
    assert_eq!(history.group.departing_node(history.now, pause), None);
    assert_eq!(history.group.detach(1, 1, "its process ended", history.now), []);
    // The group waits only for the successor of node 1.
    history.attach(1, 9);
    let actions = history.group.node_loaded(1, loaded(12), history.now);
    assert_eq!(form_messages(&actions), vec![(2, 10); 3]);
}

#[test]
fn a_departing_node_is_released_at_once_without_an_epoch() {
    let mut history = History::new(2);
    history.attach(0, 0);
    history.group.request_departure(0, "told to stop", history.now);
    assert!(history.group.has_finished_step(None));
    let actions = history.group.release(0);
    assert!(matches!(actions[..], [Action::Send { node: 0, message: Message::Drain(_) }]), "{actions:?}");
    assert_eq!(history.group.release(0), []);
}
