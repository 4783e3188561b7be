//! The planner, by cases and by simulation.

use super::lost::PATIENCE;
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

fn serving(revision: &str) -> Group {
    Group { revision: revision.into(), scheduled: true, ready: true, taking_requests: true, ..Group::default() }
}

/// With nothing left to do, for so long that nothing comes any more.
fn drained(revision: &str) -> Group {
    Group { draining: Some(0), drained_for: Some(LINGER), ..serving(revision) }
}

fn forming(revision: &str) -> Group {
    Group { ready: false, taking_requests: false, ..serving(revision) }
}

#[track_caller]
fn check(wanted: &Wanted, groups: impl IntoIterator<Item = Group>, steps: &[Step]) {
    let groups = (0..).zip(groups).collect();
    assert_eq!(decide(wanted, &groups).into_values().collect::<Vec<_>>(), steps);
}

#[test]
fn groups_are_created_one_at_a_time() {
    use Step::{Create, Keep, Wait};
    check(&wanted(3), [], &[Create, Wait, Wait]);
    check(&wanted(3), [Group { scheduled: false, ..forming("new") }], &[Keep, Wait, Wait]);
    check(&wanted(3), [forming("new")], &[Keep, Create, Wait]);
}

#[test]
fn a_change_takes_one_group_at_a_time_from_the_last() {
    use Step::{Drain, Keep, Replace};
    check(&wanted(3), [serving("old"), serving("old"), serving("old")], &[Keep, Keep, Drain]);
    let early = Group { draining: Some(0), drained_for: Some(LINGER / 2), ..serving("old") };
    check(&wanted(3), [serving("old"), serving("old"), early], &[Keep, Keep, Drain]);
    check(&wanted(3), [serving("old"), serving("old"), drained("old")], &[Keep, Keep, Replace]);
    check(&wanted(3), [serving("old"), serving("old"), forming("new")], &[Keep, Keep, Keep]);
    check(&wanted(3), [serving("old"), serving("old"), serving("new")], &[Keep, Drain, Keep]);
}

#[test]
fn a_drain_has_a_deadline() {
    let drained_for =
        |seconds| Group { draining: Some(3), drained_for: Some(Duration::from_secs(seconds)), ..serving("old") };
    check(&wanted(1), [drained_for(301)], &[Step::Replace]);
    check(&wanted(1), [drained_for(3)], &[Step::Drain]);
}

#[test]
fn a_partition_keeps_the_lower_groups() {
    let partition = Wanted { partition: 2, ..wanted(3) };
    check(&partition, [serving("old"), serving("old"), serving("new")], &[Step::Keep; 3]);
}

#[test]
fn broken_groups_are_replaced_at_once_and_cost_no_serving_one() {
    check(&wanted(2), [serving("old"), forming("old")], &[Step::Keep, Step::Replace]);
}

#[test]
fn what_is_not_wanted_is_drained_and_removed() {
    use Step::{Drain, Keep, Remove};
    check(&wanted(1), [serving("new"), serving("new")], &[Keep, Drain]);
    check(&wanted(1), [serving("new"), drained("new")], &[Keep, Remove]);
    check(&wanted(0), [forming("new")], &[Remove]);
}

#[test]
fn a_spent_budget_stops_a_group_until_the_spec_changes() {
    let spent = Group { spent: true, ..forming("new") };
    check(&wanted(1), [spent.clone()], &[Step::Stop]);
    let stopped = Group { stopped_at: Some(2), scheduled: false, spent: false, ..spent };
    check(&wanted(2), [stopped.clone()], &[Step::Stop, Step::Create]);
    check(&wanted(1), [Group { stopped_at: Some(1), ..stopped }], &[Step::Keep]);
    check(&wanted(1), [Group { spent: true, ..forming("old") }], &[Step::Replace]);
}

#[test]
fn a_change_taken_back_gives_a_draining_group_a_fresh_head() {
    check(&wanted(1), [Group { draining: Some(2), ..serving("new") }], &[Step::RestartHead]);
}

/// A rolling change over any number of groups ends, and never has more groups away than it may.
#[test]
fn a_rollout_ends_within_its_bounds() {
    for (replicas, max_unavailable) in (1..7).flat_map(|r| (1..4).map(move |m| (r, m))) {
        let wanted = Wanted { max_unavailable, ..wanted(replicas) };
        let mut now: BTreeMap<u32, Group> = (0..replicas).map(|index| (index, serving("old"))).collect();
        for round in 0.. {
            assert!(round < 100, "no end: {now:?}");
            let steps = decide(&wanted, &now);
            if steps.values().all(|step| *step == Step::Keep) && now.values().all(|group| group.ready) {
                break;
            }
            for (index, step) in steps {
                let group = now.get_mut(&index).unwrap();
                match step {
                    Step::Drain => {
                        group.draining = Some(group.draining.map_or(2, |left| left.saturating_sub(1)));
                        group.drained_for = Some(group.drained_for.unwrap_or_default() + LINGER / 4);
                    }
                    Step::Replace => *group = forming("new"),
                    Step::Keep => group.ready = true,
                    other => panic!("{other:?}"),
                }
            }
            let away = now.values().filter(|group| !group.ready || group.draining.is_some()).count();
            assert!(away <= max_unavailable as usize, "{now:?}");
        }
        assert!(now.values().all(|group| group.revision == "new"));
    }
}

#[test]
fn a_pod_on_a_silent_node_is_forced_away_once_the_head_gave_it_up() {
    let pod = Stuck { overdue: None, node_ready: false, is_head: false, ranks_lost: Some(true) };
    assert!(must_force(pod));
    assert!(!must_force(Stuck { ranks_lost: Some(false), ..pod }));
    assert!(!must_force(Stuck { node_ready: true, ..pod }));
    // Without a head's word, and for a head, the end of the grace period is waited for, and a little more.
    for pod in [Stuck { ranks_lost: None, ..pod }, Stuck { is_head: true, ..pod }] {
        assert!(!must_force(pod));
        assert!(!must_force(Stuck { overdue: Some(PATIENCE / 2), ..pod }));
        assert!(must_force(Stuck { overdue: Some(PATIENCE), ..pod }));
    }
}
