//! The operator's process against a real API server, its controllers and scheduler. Pods go to fake nodes, where they
//! seem to run and to be ready: the tests try the operator, not the agents.

mod change;
mod create;
mod lists;
mod operators;
mod placement;
mod world;

use std::process::ExitCode;

use lockstep_tests::cluster::{Needs, main as run_inside, trial};

fn main() -> ExitCode {
    let trials = vec![
        trial("every_object_is_owned", create::every_object_is_owned),
        trial("groups_are_created_one_at_a_time", create::groups_are_created_one_at_a_time),
        trial("objects_of_others_are_left_alone", create::objects_of_others_are_left_alone),
        trial("a_cluster_with_the_name_of_a_group_is_refused", create::a_cluster_with_the_name_of_a_group_is_refused),
        trial("refusals_of_kubernetes_are_reported", create::refusals_of_kubernetes_are_reported),
        trial("a_restricted_namespace_takes_the_pods", create::a_restricted_namespace_takes_the_pods),
        trial("changes_by_others_are_undone", change::changes_by_others_are_undone),
        trial("a_change_rolls_group_by_group", change::a_change_rolls_group_by_group),
        trial("changes_that_pods_do_not_see_restart_none", change::changes_that_pods_do_not_see_restart_none),
        trial("scaling_adds_and_removes_whole_groups", change::scaling_adds_and_removes_whole_groups),
        trial("deletion_leaves_nothing", change::deletion_leaves_nothing),
        trial("nothing_is_decided_before_everything_is_listed", lists::nothing_is_decided_before_everything_is_listed),
        trial("one_of_two_operators_leads", operators::one_of_two_operators_leads),
        trial("a_rollout_ends_after_a_kill_at_each_stage", operators::a_rollout_ends_after_a_kill_at_each_stage),
        trial(
            "transitions_make_one_event_and_steady_clusters_no_request",
            operators::transitions_make_one_event_and_steady_clusters_no_request,
        ),
        trial("groups_lie_on_nodes_of_their_own", placement::groups_lie_on_nodes_of_their_own),
        trial("a_pod_monitor_is_made_where_the_kind_exists", create::a_pod_monitor_is_made_where_the_kind_exists),
    ];
    run_inside(Needs::nodes(1), trials)
}
