//! Plans as snapshots, and what holds of every plan.

use lockstep_proto::names::env;

use super::{Addresses, LocalPorts, Plan, plan, text, world_size};
use crate::resource::parse;

const LOCAL: LocalPorts = LocalPorts { grpc: 50051, http: 1234, control: 40000 };

fn made(spec: &str, addresses: &Addresses) -> Plan {
    let text = format!(
        "apiVersion: lockstep.dev/v1alpha1\nkind: InferenceCluster\nmetadata: {{ name: llama }}\nspec: {spec}\n"
    );
    plan(&parse(&text, "test").unwrap(), addresses)
}

fn kubernetes() -> Addresses {
    Addresses::Kubernetes { namespace: "ml".into() }
}

fn local() -> Addresses {
    Addresses::Local { host: "127.0.0.1".into(), ports: LOCAL, threads: 2 }
}

#[test]
fn pods_of_two_groups() {
    let spec = "{ model: { source: 'file:///models/llama 8b', name: llama-8b, dtype: bf16, quantization: q4_k }, replicas: 2, workers: 1, \
                devicesPerNode: 2, serving: { contextLength: 8192 } }";
    insta::assert_snapshot!(text(&made(spec, &kubernetes())));
}

#[test]
fn processes_of_three_ranks() {
    insta::assert_snapshot!(text(&made("{ model: { source: 'builtin://tiny' }, workers: 2 }", &local())));
}

#[test]
fn a_model_of_the_hub() {
    let spec = "{ model: { source: 'hf://org/name', revision: v1 }, workers: 1 }";
    insta::assert_snapshot!(text(&made(spec, &local())));
}

#[test]
fn one_process() {
    insta::assert_snapshot!(text(&made("{ model: { source: 'builtin://tiny' } }", &local())));
}

#[test]
fn a_plan_as_yaml() {
    let plan = made("{ model: { source: 'builtin://tiny' }, workers: 1 }", &kubernetes());
    insta::assert_snapshot!(serde_yaml::to_string(&plan).unwrap());
}

#[test]
fn stages_are_said_and_told_to_every_pod() {
    let plan = made("{ model: { source: 'builtin://tiny' }, workers: 3, parallelism: { pipeline: 2 } }", &local());
    assert!(text(&plan).starts_with("group llama-0: 4 ranks (2 stages × 2) on 4 nodes\n"), "{}", text(&plan));
    let told = |pod: &super::PodPlan| {
        pod.containers[0].env.iter().any(|var| var.name == env::PIPELINE_PARALLEL && var.value == "2")
    };
    assert!(plan.groups[0].pods().all(told));
}

#[test]
fn no_groups_are_said_to_be_none() {
    let plan = made("{ model: { source: 'builtin://tiny' }, replicas: 0 }", &local());
    assert_eq!(text(&plan), "llama: replicas is 0, so nothing runs\n");
}

/// Over many shapes: each rank has one place, no pod is told both a head's and a worker's part, no variable twice.
#[test]
fn what_holds_of_every_plan() {
    for (workers, devices) in (0..5).flat_map(|workers| (1..4).map(move |devices| (workers, devices))) {
        let spec = format!(
            "{{ model: {{ source: 'builtin://tiny' }}, replicas: 2, workers: {workers}, devicesPerNode: {devices} }}"
        );
        for addresses in [local(), kubernetes()] {
            let plan = made(&spec, &addresses);
            assert_eq!(plan.groups.len(), 2);
            for group in &plan.groups {
                let ranks: Vec<u32> = group.pods().flat_map(|pod| pod.ranks.clone()).collect();
                assert_eq!(ranks, (0..(1 + workers) * devices).collect::<Vec<_>>());
                assert_eq!(group.world_size as usize, ranks.len());
                for pod in group.pods() {
                    assert!(pod.name.len() <= 63);
                    let first: Vec<_> = pod.containers[0].env.iter().map(|var| var.name).collect();
                    assert!(first.contains(&env::HEAD_PORT) != first.contains(&env::WORKER_SERVER_ADDR));
                    for container in &pod.containers {
                        let mut names: Vec<_> = container.env.iter().map(|var| var.name).collect();
                        assert!(names.iter().all(|name| env::ALL.contains(name)));
                        assert!(container.env.iter().all(|var| !var.value.is_empty()));
                        names.sort_unstable();
                        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_longest_names_are_legal() {
    let names = super::Names::new(&"a".repeat(40), 255);
    assert!(names.worker_pod(1022).len() <= 63);
    let spec = "{ model: { source: 'builtin://tiny' }, workers: 3, devicesPerNode: 4 }";
    let text =
        format!("apiVersion: lockstep.dev/v1alpha1\nkind: InferenceCluster\nmetadata: {{ name: a }}\nspec: {spec}\n");
    assert_eq!(world_size(&parse(&text, "test").unwrap().spec), 16);
}
