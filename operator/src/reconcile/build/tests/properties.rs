//! Properties of the objects of every cluster, checked for many specs.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PodSpec;
use proptest::prelude::*;

use super::restricted::violations;
use super::{all_objects, validated};
use crate::objects::{LOCKSTEP, label};
use crate::reconcile::build::{Object, cluster_objects, group_objects};

/// Generates specs that the CRD accepts.
fn specs() -> impl Strategy<Value = String> {
    let source = prop::sample::select(vec![
        "builtin://tiny",
        "file:///m",
        "hf://o/n:Q8_0",
        "pvc://claim",
        "pvc://c/a/b.gguf",
        "oci://r/m:1",
    ]);
    let numbers = (0..3u32, 0..6u32, 1..9u32, 1..7200u32);
    let policy = prop::sample::select(vec!["Spread", "SpreadStrictly", "Pack", "Any"]);
    let backend = prop::sample::select(vec!["Auto", "Nccl", "Ring"]);
    let more = prop::sample::subsequence(
        vec![
            "modelCache: { size: 1Gi, accessMode: ReadWriteOnce }",
            "image: 'a/b:1'",
            "imagePullPolicy: Never",
            "env: [{ name: A, value: b }, { name: LOCKSTEP_DRAIN_TIMEOUT, value: 5s }]",
            "resources: { requests: { cpu: 1 }, limits: { memory: 1Gi } }",
            "template: { metadata: { labels: { lockstep.dev/group: '9' } }, spec: { containers: [{ name: side, image: a }] } }",
            "head: { spec: { tolerations: [{ operator: Exists }], volumes: [{ name: head-tmp, emptyDir: { sizeLimit: 1Gi } }] } }",
            "worker: { spec: { initContainers: [{ name: first, image: a }] } }",
            "clients: { from: Namespace }",
            "service: { type: NodePort }",
        ],
        0..10,
    );
    (source, numbers, policy, backend, more).prop_map(|(source, (replicas, workers, devices, drain), policy, backend, more)| {
        let drain = drain.min(3600);
        let more: String = more.iter().map(|field| format!(", {field}")).collect();
        format!(
            "{{ model: {{ source: '{source}' }}, replicas: {replicas}, workers: {workers}, devicesPerNode: {devices}, \
             backend: {backend}, placement: {{ policy: {policy} }}, updateStrategy: {{ drainTimeout: {drain}s }}{more} }}"
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_objects_of_every_cluster_are_consistent(spec in specs()) {
        let cluster = validated(&spec, "agent:1").unwrap();
        let objects = all_objects(&cluster);
        prop_assert_eq!(&objects, &all_objects(&cluster), "the same cluster gives the same objects");
        let mut seen = BTreeSet::new();
        for object in &objects {
            check_object(object)?;
            prop_assert!(seen.insert((object.resource.kind.clone(), object.object.metadata.name.clone())));
        }
        for index in 0..cluster.spec.replicas {
            let group = group_objects(&cluster, index);
            check_set(&group.head, 1)?;
            prop_assert_eq!(group.workers.is_some(), cluster.spec.workers > 0);
            if let Some(workers) = &group.workers {
                check_set(workers, cluster.spec.workers)?;
            }
        }
    }
}

/// Checks the owner, labels, name and kind of an object.
fn check_object(object: &Object) -> Result<(), TestCaseError> {
    let (metadata, types) = (&object.object.metadata, object.object.types.as_ref().unwrap());
    prop_assert_eq!((&types.kind, &types.api_version), (&object.resource.kind, &object.resource.api_version));
    let owners = metadata.owner_references.as_ref().unwrap();
    prop_assert_eq!((owners.len(), owners[0].controller, owners[0].uid.as_str()), (1, Some(true), "6d1e"));
    prop_assert_eq!(metadata.namespace.as_deref(), Some("ml"));
    let labels = metadata.labels.as_ref().unwrap();
    prop_assert_eq!((&*labels[label::MANAGED_BY], &*labels[label::CLUSTER]), (LOCKSTEP, "llama"));
    prop_assert!(labels.values().all(|value| value.len() <= 63));
    prop_assert!(is_legal(metadata.name.as_deref().unwrap()));
    Ok(())
}

/// Returns true if a name is a DNS label, as Services need it.
fn is_legal(name: &str) -> bool {
    let inner = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    inner && name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-')
}

/// Checks that the selector finds the pods, and that the pods meet the `restricted` standard and are consistent.
fn check_set(set: &StatefulSet, pods: u32) -> Result<(), TestCaseError> {
    let spec = set.spec.as_ref().unwrap();
    prop_assert_eq!(spec.replicas, Some(pods as i32));
    let template = spec.template.metadata.as_ref().unwrap();
    let labels = template.labels.as_ref().unwrap();
    let selector = spec.selector.match_labels.as_ref().unwrap();
    prop_assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), "{selector:?} {labels:?}");
    prop_assert_eq!(&*labels["kueue.x-k8s.io/queue-name"], "gpus");
    prop_assert!(!labels.contains_key("team"));
    let pod = spec.template.spec.as_ref().unwrap();
    prop_assert_eq!(violations(pod), Vec::<String>::new());
    check_pod(pod)
}

fn check_pod(pod: &PodSpec) -> Result<(), TestCaseError> {
    let volumes: Vec<_> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    prop_assert_eq!(volumes.iter().collect::<BTreeSet<_>>().len(), volumes.len());
    let mut ports = BTreeMap::new();
    for container in &pod.containers {
        prop_assert!(is_legal(&container.name));
        let mounts = container.volume_mounts.iter().flatten();
        prop_assert!(mounts.clone().all(|mount| volumes.contains(&mount.name.as_str()) && mount.sub_path.is_none()));
        let vars: Vec<_> = container.env.iter().flatten().map(|var| &var.name).collect();
        prop_assert_eq!(vars.iter().collect::<BTreeSet<_>>().len(), vars.len());
        prop_assert!(container.env.iter().flatten().all(|var| var.value.is_some() != var.value_from.is_some()));
        for port in container.ports.iter().flatten() {
            let name = port.name.as_deref().unwrap();
            prop_assert!(name.len() <= 15);
            prop_assert!(
                ports.insert(port.container_port, name).is_none(),
                "two containers listen on {}",
                port.container_port
            );
        }
    }
    let probed: Vec<_> = pod.containers.iter().filter(|container| container.readiness_probe.is_some()).collect();
    prop_assert_eq!(probed.len(), 1, "one container decides the readiness of the pod");
    prop_assert!(pod.containers.iter().any(|container| container.name == "rank"));
    Ok(())
}

/// Checks the longest names. Kubernetes adds a hash of ten digits to the name of a StatefulSet in a label of its pods.
#[test]
fn the_longest_names_are_legal() {
    const SUFFIX: usize = 11;
    let mut cluster = validated("{ model: { source: 'builtin://tiny' }, workers: 1 }", "agent:1").unwrap();
    cluster.identity.name = "a".repeat(40);
    let group = group_objects(&cluster, 255);
    for object in group.objects() {
        let name = object.object.metadata.name.unwrap();
        assert!(is_legal(&name) && name.len() + SUFFIX <= 63, "{name}");
    }
    for object in cluster_objects(&cluster, true).objects() {
        assert!(is_legal(&object.object.metadata.name.unwrap()));
    }
}
