//! Tests of `decide`, by cases and by simulation.

use super::stuck::LOST_NODE_TIMEOUT;
use super::*;

fn wanted(replicas: u32) -> Wanted {
    Wanted {
        revision: "new".into(),
        generation: 2,
        replicas,
        max_unavailable: 1,
        partition: 0,
        drain_timeout: Duration::from_secs(300),
    }
}

fn serving(revision: &str) -> GroupRollout {
    GroupRollout {
        revision: revision.into(),
        scheduled: true,
        ready: true,
        taking_requests: true,
        gets_clients: true,
        ..GroupRollout::default()
    }
}

/// Returns a group without requests that has drained for the shortest time of a drain.
fn drained(revision: &str) -> GroupRollout {
    GroupRollout { requests_to_drain: Some(0), drained_for: Some(MIN_DRAIN), ..serving(revision) }
}

fn forming(revision: &str) -> GroupRollout {
    GroupRollout { ready: false, taking_requests: false, gets_clients: false, ..serving(revision) }
}

#[track_caller]
fn check(wanted: &Wanted, groups: impl IntoIterator<Item = GroupRollout>, steps: &[Step]) {
    let groups = (0..).zip(groups).collect();
    assert_eq!(decide(wanted, &groups).into_values().collect::<Vec<_>>(), steps);
}

#[test]
fn groups_are_created_one_at_a_time() {
    use Step::{Create, Keep, Wait};
    check(&wanted(3), [], &[Create, Wait, Wait]);
    check(&wanted(3), [GroupRollout { scheduled: false, ..forming("new") }], &[Keep, Wait, Wait]);
    check(&wanted(3), [forming("new")], &[Keep, Create, Wait]);
}

#[test]
fn a_change_takes_one_group_at_a_time_from_the_highest_index_down() {
    use Step::{Drain, Keep, Replace};
    check(&wanted(3), [serving("old"), serving("old"), serving("old")], &[Keep, Keep, Drain]);
    let early = GroupRollout { requests_to_drain: Some(0), drained_for: Some(MIN_DRAIN / 2), ..serving("old") };
    check(&wanted(3), [serving("old"), serving("old"), early], &[Keep, Keep, Drain]);
    check(&wanted(3), [serving("old"), serving("old"), drained("old")], &[Keep, Keep, Replace]);
    check(&wanted(3), [serving("old"), serving("old"), forming("new")], &[Keep, Keep, Keep]);
    check(&wanted(3), [serving("old"), serving("old"), serving("new")], &[Keep, Drain, Keep]);
}

/// A pause for clients to turn to another group is of use only if there is one.
#[test]
fn a_group_alone_is_replaced_as_soon_as_it_has_no_request_and_gets_none() {
    let idle = GroupRollout {
        requests_to_drain: Some(0),
        drained_for: Some(Duration::ZERO),
        gets_clients: false,
        ..serving("old")
    };
    check(&wanted(1), [idle.clone()], &[Step::Replace]);
    check(&wanted(1), [GroupRollout { requests_to_drain: Some(1), ..idle.clone() }], &[Step::Drain]);
    let listed = GroupRollout { gets_clients: true, ..idle.clone() };
    check(&wanted(1), [listed.clone()], &[Step::Drain]);
    check(&wanted(1), [GroupRollout { drained_for: Some(MIN_DRAIN), ..listed }], &[Step::Replace]);
    check(&wanted(2), [forming("new"), idle.clone()], &[Step::Keep, Step::Replace]);
    check(&wanted(2), [serving("new"), idle], &[Step::Keep, Step::Drain]);
}

#[test]
fn a_drain_has_a_deadline() {
    let drained_for = |seconds| GroupRollout {
        requests_to_drain: Some(3),
        drained_for: Some(Duration::from_secs(seconds)),
        ..serving("old")
    };
    check(&wanted(1), [drained_for(301)], &[Step::Replace]);
    check(&wanted(1), [drained_for(3)], &[Step::Drain]);
}

#[test]
fn a_partition_keeps_the_lower_groups() {
    let partition = Wanted { partition: 2, ..wanted(3) };
    check(&partition, [serving("old"), serving("old"), serving("new")], &[Step::Keep; 3]);
    // Half of a group has changed, or was deleted.
    check(&partition, [serving("old"), forming(""), serving("new")], &[Step::Keep, Step::Replace, Step::Keep]);
}

#[test]
fn broken_groups_are_replaced_at_once_and_no_serving_group_goes() {
    check(&wanted(2), [serving("old"), forming("old")], &[Step::Keep, Step::Replace]);
}

#[test]
fn surplus_groups_are_drained_and_removed() {
    use Step::{Drain, Keep, Remove};
    check(&wanted(1), [serving("new"), serving("new")], &[Keep, Drain]);
    check(&wanted(1), [serving("new"), drained("new")], &[Keep, Remove]);
    check(&wanted(0), [forming("new")], &[Remove]);
}

#[test]
fn a_spent_budget_stops_a_group_until_the_spec_changes() {
    let spent = GroupRollout { budget_spent: true, ..forming("new") };
    check(&wanted(1), [spent.clone()], &[Step::Stop]);
    let stopped = GroupRollout { stopped_at: Some(2), scheduled: false, budget_spent: false, ..spent };
    check(&wanted(2), [stopped.clone()], &[Step::Stop, Step::Create]);
    check(&wanted(1), [GroupRollout { stopped_at: Some(1), ..stopped }], &[Step::Keep]);
    check(&wanted(1), [GroupRollout { budget_spent: true, ..forming("old") }], &[Step::Replace]);
}

#[test]
fn a_reverted_change_restarts_the_head_of_a_draining_group() {
    check(&wanted(1), [GroupRollout { requests_to_drain: Some(2), ..serving("new") }], &[Step::RestartHead]);
}

/// A rollout over any number of groups ends, and never takes more than `max_unavailable` groups out of service.
#[test]
fn a_rollout_ends_and_keeps_max_unavailable() {
    for (replicas, max_unavailable) in (1..7).flat_map(|r| (1..4).map(move |m| (r, m))) {
        let wanted = Wanted { max_unavailable, ..wanted(replicas) };
        let mut now: BTreeMap<u32, GroupRollout> = (0..replicas).map(|index| (index, serving("old"))).collect();
        for round in 0.. {
            assert!(round < 100, "the rollout does not end: {now:?}");
            let steps = decide(&wanted, &now);
            if steps.values().all(|step| *step == Step::Keep) && now.values().all(|group| group.ready) {
                break;
            }
            for (index, step) in steps {
                let group = now.get_mut(&index).unwrap();
                match step {
                    Step::Drain => {
                        group.requests_to_drain =
                            Some(group.requests_to_drain.map_or(2, |requests| requests.saturating_sub(1)));
                        group.drained_for = Some(group.drained_for.unwrap_or_default() + MIN_DRAIN / 4);
                    }
                    Step::Replace => *group = forming("new"),
                    Step::Keep => group.ready = true,
                    other => panic!("{other:?}"),
                }
            }
            let unavailable = now.values().filter(|group| !group.ready || group.requests_to_drain.is_some()).count();
            assert!(unavailable <= max_unavailable as usize, "{now:?}");
        }
        assert!(now.values().all(|group| group.revision == "new"));
    }
}

/// Pod of a worker that is being deleted on a lost Kubernetes node, and whose ranks the head has given up.
const LOST_WORKER: StuckPod = StuckPod {
    deleted: true,
    overdue: None,
    kube_node_ready: false,
    kube_node_silent: false,
    is_head: false,
    head_silent: false,
    ranks_lost: Some(true),
};

#[test]
fn a_pod_on_a_lost_node_is_forced_once_the_head_gave_up_its_ranks() {
    let pod = LOST_WORKER;
    assert!(must_force_delete(pod));
    assert!(!must_force_delete(StuckPod { ranks_lost: Some(false), ..pod }));
    assert!(!must_force_delete(StuckPod { kube_node_ready: true, ..pod }));
    // Without a report of the head, and for the head's own pod, the operator waits until LOST_NODE_TIMEOUT after the
    // grace period.
    for pod in [StuckPod { ranks_lost: None, ..pod }, StuckPod { is_head: true, ..pod }] {
        assert!(!must_force_delete(pod));
        assert!(!must_force_delete(StuckPod { overdue: Some(LOST_NODE_TIMEOUT / 2), ..pod }));
        assert!(must_force_delete(StuckPod { overdue: Some(LOST_NODE_TIMEOUT), ..pod }));
    }
}

/// A silent head, and a worker that its head gave up, do not wait for Kubernetes if their machine is silent.
#[test]
fn a_pod_that_its_group_gave_up_goes_with_the_machine_below_it() {
    let running = StuckPod { deleted: false, kube_node_ready: true, kube_node_silent: true, ..LOST_WORKER };
    let head = StuckPod { is_head: true, head_silent: true, ranks_lost: None, ..running };
    for pod in [running, head] {
        assert!(must_force_delete(pod));
        assert!(!must_force_delete(StuckPod { kube_node_silent: false, ..pod }), "the machine answers");
        assert!(must_force_delete(StuckPod { kube_node_silent: false, deleted: true, kube_node_ready: false, ..pod }));
    }
    assert!(!must_force_delete(StuckPod { ranks_lost: None, ..running }), "no head has given it up");
    assert!(!must_force_delete(StuckPod { ranks_lost: Some(false), ..running }));
    assert!(!must_force_delete(StuckPod { head_silent: false, ..head }), "a node hears the head");
}

#[test]
fn a_head_is_silent_if_no_node_hears_it_and_one_says_so() {
    let word = |silent_for| NodeWord { silent_for };
    let silent = [word(SILENCE), word(2 * SILENCE)];
    assert!(is_head_silent(false, &silent));
    assert!(!is_head_silent(true, &silent), "the operator hears it");
    assert!(!is_head_silent(false, &[word(SILENCE), word(SILENCE / 2)]), "a node hears it");
    assert!(!is_head_silent(false, &[]), "the operator may be cut off");
}
