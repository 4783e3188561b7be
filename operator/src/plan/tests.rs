//! Snapshots of plans, and properties of every plan.

use lockstep_proto::names::env;

use super::{Addresses, LocalPorts, Plan, format_plan, plan, world_size};
use crate::resource::testing;

const LOCAL: LocalPorts = LocalPorts { grpc: 50051, http: 1234, control: 40000 };

fn plan_for(spec: &str, addresses: &Addresses) -> Plan {
    plan(&testing::cluster(spec), addresses)
}

fn kubernetes() -> Addresses {
    Addresses::Kubernetes
}

fn local() -> Addresses {
    Addresses::Local { host: "127.0.0.1".into(), ports: LOCAL, threads: 2 }
}

#[test]
fn pods_of_two_groups() {
    let spec = "{ model: { source: 'file:///models/llama 8b', name: llama-8b, dtype: bf16, quantization: q4_k }, replicas: 2, workers: 1, \
                devicesPerNode: 2, serving: { contextLength: 8192 } }";
    insta::assert_snapshot!(format_plan(&plan_for(spec, &kubernetes())));
}

#[test]
fn processes_of_three_ranks() {
    insta::assert_snapshot!(format_plan(&plan_for("{ model: { source: 'builtin://tiny' }, workers: 2 }", &local())));
}

#[test]
fn a_model_of_the_hub() {
    let spec = "{ model: { source: 'hf://org/name', revision: v1 }, workers: 1 }";
    insta::assert_snapshot!(format_plan(&plan_for(spec, &local())));
}

#[test]
fn a_source_becomes_what_the_agent_opens() {
    for (source, expected) in [
        ("hf://org/name:Q4_K_M", "hf://org/name:Q4_K_M"),
        ("hf://org/name/q8/m-00001-of-00002.gguf", "hf://org/name/q8/m-00001-of-00002.gguf"),
        ("file:///models/m.gguf", "file:///models/m.gguf"),
        ("pvc://claim", "file:///models"),
        ("pvc://claim/llama", "file:///models/llama"),
        ("pvc://claim/llama/m.gguf", "file:///models/llama/m.gguf"),
        ("oci://registry/m:1", "file:///models"),
    ] {
        let plan = plan_for(&format!("{{ model: {{ source: '{source}' }}, workers: 1 }}"), &kubernetes());
        for pod in plan.groups[0].pods() {
            assert_eq!(pod.containers[0].command[1..], ["plain", "-m", expected], "{source}");
        }
    }
}

#[test]
fn one_process() {
    insta::assert_snapshot!(format_plan(&plan_for("{ model: { source: 'builtin://tiny' } }", &local())));
}

#[test]
fn a_plan_as_yaml() {
    let plan = plan_for("{ model: { source: 'builtin://tiny' }, workers: 1 }", &kubernetes());
    insta::assert_snapshot!(serde_yaml::to_string(&plan).unwrap());
}

#[test]
fn every_pod_gets_the_number_of_stages() {
    let plan = plan_for("{ model: { source: 'builtin://tiny' }, workers: 3, parallelism: { pipeline: 2 } }", &local());
    assert!(
        format_plan(&plan).starts_with("group llama-0: 4 ranks (2 stages × 2) on 4 nodes\n"),
        "{}",
        format_plan(&plan)
    );
    let has_stages = |pod: &super::PodPlan| {
        pod.containers[0].env.iter().any(|var| var.name == env::PIPELINE_PARALLEL && var.value == "2")
    };
    assert!(plan.groups[0].pods().all(has_stages));
}

#[test]
fn a_plan_without_groups_says_so() {
    let plan = plan_for("{ model: { source: 'builtin://tiny' }, replicas: 0 }", &local());
    assert_eq!(format_plan(&plan), "llama: replicas is 0, so nothing runs\n");
}

/// For many shapes of groups, each rank is in one pod, each pod has the variables of either a head or a worker, and no
/// container has a variable twice.
#[test]
fn every_plan_is_consistent() {
    for (workers, devices) in (0..5).flat_map(|workers| (1..4).map(move |devices| (workers, devices))) {
        let spec = format!(
            "{{ model: {{ source: 'builtin://tiny' }}, replicas: 2, workers: {workers}, devicesPerNode: {devices} }}"
        );
        for addresses in [local(), kubernetes()] {
            let plan = plan_for(&spec, &addresses);
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
    assert_eq!(world_size(&testing::cluster(spec).spec), 16);
}
