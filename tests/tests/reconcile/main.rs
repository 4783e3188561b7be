//! The operator's process against a real API server, its controllers and scheduler. Pods go to fake nodes, where they
//! seem to run and to be ready: what is tried is what the operator makes of a cluster, not what agents do.

mod change;
mod create;
mod operators;
mod world;

use std::process::ExitCode;

use lockstep_tests::cluster::{Needs, main as run_inside, trial};

fn main() -> ExitCode {
    let trials = vec![
        trial("all_that_is_made_is_owned", create::all_that_is_made_is_owned),
        trial("groups_are_created_one_at_a_time", create::groups_are_created_one_at_a_time),
        trial("what_belongs_to_others_is_left_alone", create::what_belongs_to_others_is_left_alone),
        trial("a_cluster_named_as_a_group_is_told", create::a_cluster_named_as_a_group_is_told),
        trial("what_kubernetes_refuses_is_told", create::what_kubernetes_refuses_is_told),
        trial("a_restricted_namespace_takes_the_pods", create::a_restricted_namespace_takes_the_pods),
        trial("what_others_change_comes_back", change::what_others_change_comes_back),
        trial("a_change_rolls_group_by_group", change::a_change_rolls_group_by_group),
        trial("what_means_nothing_to_pods_restarts_none", change::what_means_nothing_to_pods_restarts_none),
        trial("scaling_adds_and_removes_whole_groups", change::scaling_adds_and_removes_whole_groups),
        trial("deletion_leaves_nothing", change::deletion_leaves_nothing),
        trial("of_two_operators_one_leads", operators::of_two_operators_one_leads),
        trial("killed_at_each_stage_the_rollout_ends", operators::killed_at_each_stage_the_rollout_ends),
        trial(
            "transitions_are_told_once_and_steady_clusters_are_silent",
            operators::transitions_are_told_once_and_steady_clusters_are_silent,
        ),
        trial("a_pod_monitor_is_made_where_the_kind_exists", create::a_pod_monitor_is_made_where_the_kind_exists),
    ];
    run_inside(Needs::nodes(1), trials)
}
