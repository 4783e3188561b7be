//! End to end: the operator installed by its chart on a real Kubernetes, with real pods of the project's own images.
//! Each trial starts from the state that the trial before it left. By the prefix `end_to_end::`, `make test` leaves
//! these trials out of the run of all other tests, and runs them beside it.

mod access;
mod campaign;
mod faults;
mod leave;
mod models;
mod serve;
mod steps;
mod strangers;
mod troubles;

use std::process::ExitCode;

use lockstep_tests::cluster::{Needs, async_trial, main as run_inside, trial};

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "campaign") {
        let trials = vec![
            trial("campaign::the_chart_installs_the_operator", steps::install),
            async_trial("campaign::the_quickstart_serves", serve::the_quickstart_answers_as_one_process_does),
            async_trial("campaign::each_fault_costs_seconds", campaign::each_fault_costs_seconds),
            async_trial("campaign::two_groups_lose_nothing", campaign::two_groups_lose_nothing),
        ];
        return run_inside(Needs::nodes(4).with_images(), trials);
    }
    let trials = vec![
        trial("end_to_end::the_chart_installs_the_operator", steps::install),
        async_trial(
            "end_to_end::the_quickstart_answers_as_one_process_does",
            serve::the_quickstart_answers_as_one_process_does,
        ),
        trial("end_to_end::the_plugin_reaches_it_through_the_api_server", serve::the_plugin_reaches_it),
        trial("end_to_end::helm_test_generates_a_token", serve::helm_test_generates_a_token),
        trial("end_to_end::keys_and_certificates_come_from_secrets", access::keys_and_certificates_come_from_secrets),
        async_trial("end_to_end::a_change_of_groups_loses_no_request", serve::a_change_of_groups_loses_no_request),
        trial("end_to_end::a_drained_head_ends_at_once", serve::a_drained_head_ends_at_once),
        async_trial("end_to_end::a_worker_is_replaced_alone", faults::a_worker_is_replaced_alone),
        async_trial("end_to_end::a_deleted_head_costs_no_weights", faults::a_deleted_head_costs_no_weights),
        async_trial(
            "end_to_end::a_drained_node_takes_no_request_with_it",
            faults::a_drained_node_takes_no_request_with_it,
        ),
        async_trial("end_to_end::a_node_without_power_costs_no_request", faults::a_node_without_power_costs_no_request),
        trial(
            "end_to_end::a_head_without_power_is_replaced_in_seconds",
            faults::a_head_without_power_is_replaced_in_seconds,
        ),
        trial("end_to_end::strangers_are_turned_away", strangers::strangers_are_turned_away),
        trial("end_to_end::what_is_wrong_is_said", troubles::what_is_wrong_is_said),
        trial("end_to_end::a_model_that_cannot_load_is_named", models::a_model_that_cannot_load_is_named),
        trial("end_to_end::an_operator_of_another_version_restarts_nothing", leave::an_upgrade_restarts_nothing),
        trial("end_to_end::uninstalling_keeps_what_serves", leave::uninstalling_keeps_what_serves),
        trial("end_to_end::deleting_a_cluster_leaves_nothing", leave::deleting_a_cluster_leaves_nothing),
    ];
    run_inside(Needs::nodes(3).with_images(), trials)
}
