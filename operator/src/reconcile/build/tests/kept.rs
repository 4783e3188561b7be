//! Tests of the pods that a group keeps until its turn to change comes, and after an upgrade of the operator.

use k8s_openapi::api::apps::v1::StatefulSet;

use super::{cluster, validated};
use crate::objects::{annotation, label};
use crate::reconcile::build::{GroupObjects, ends_as_built, group_objects};

const SPEC: &str = "{ model: { source: 'builtin://tiny' }, workers: 2 }";

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().unwrap().replicas.unwrap()
}

fn kept(desired: GroupObjects, live: &GroupObjects) -> GroupObjects {
    desired.keep_pods(Some(&live.head), live.workers.as_ref())
}

#[test]
fn a_newer_operator_changes_nothing() {
    let live = group_objects(&cluster(SPEC), 0);
    let newer = group_objects(&validated(SPEC, "registry.example/agent:2").unwrap(), 0);
    assert_ne!(newer, live);
    assert_eq!(kept(newer, &live), live);
}

/// The watches drop the template and keep the annotation.
#[test]
fn the_annotation_is_enough_to_keep_the_template() {
    let mut live = group_objects(&cluster(SPEC), 0);
    let whole = live.clone();
    for set in [&mut live.head, live.workers.as_mut().unwrap()] {
        set.spec.as_mut().unwrap().template = Default::default();
    }
    assert_eq!(kept(whole.clone(), &live), whole);
}

#[test]
fn a_group_that_waits_keeps_its_size() {
    let live = group_objects(&cluster(SPEC), 0);
    let wider = group_objects(&cluster("{ model: { source: 'builtin://tiny' }, workers: 5 }"), 0);
    assert_eq!(replicas(wider.workers.as_ref().unwrap()), 5);
    assert_eq!(kept(wider, &live), live);
}

#[test]
fn a_number_of_pods_set_by_hand_is_corrected() {
    let live = group_objects(&cluster(SPEC), 0);
    let mut scaled = live.clone();
    scaled.workers.as_mut().unwrap().spec.as_mut().unwrap().replicas = Some(7);
    assert_eq!(kept(live.clone(), &scaled), live);
    // Also in a group whose turn to change has not come.
    let mut ended = live.clone();
    for set in [&mut ended.head, ended.workers.as_mut().unwrap()] {
        set.spec.as_mut().unwrap().replicas = Some(0);
    }
    let wider = group_objects(&cluster("{ model: { source: 'builtin://tiny' }, workers: 5 }"), 0);
    assert_eq!(kept(wider, &ended), live);
}

#[test]
fn workers_are_added_and_removed_when_the_group_is_changed() {
    let alone = "{ model: { source: 'builtin://tiny' } }";
    let (with, without) = (group_objects(&cluster(SPEC), 0), group_objects(&cluster(alone), 0));
    assert_eq!(kept(with.clone(), &without), without);
    let waits = kept(without.clone(), &with);
    assert_eq!((&waits.head, &waits.workers), (&with.head, &None));
    // If somebody deletes the workers and the spec is unchanged, they are made again.
    assert_eq!(with.clone().keep_pods(Some(&with.head), None), with);
}

#[test]
fn a_set_with_damaged_annotations_is_built_anew() {
    let desired = group_objects(&cluster(SPEC), 0);
    let mut live = desired.clone();
    live.head.metadata.annotations.as_mut().unwrap().insert(annotation::TEMPLATE.into(), "{".into());
    live.workers.as_mut().unwrap().metadata.annotations = None;
    assert_eq!(kept(desired.clone(), &live), desired);
}

/// Pods, StatefulSets and annotations have the same revision.
#[test]
fn the_revision_is_the_same_everywhere() {
    let head = group_objects(&cluster(SPEC), 0).head;
    let pod = head.spec.unwrap().template.metadata.unwrap().labels.unwrap();
    let own = &head.metadata.labels.unwrap()[label::REVISION];
    assert_eq!((own, own), (&pod[label::REVISION], &head.metadata.annotations.unwrap()[annotation::REVISION]));
}

/// The operator shortens the end of pods only where it knows every container and every hook.
#[test]
fn pods_with_a_hook_or_a_container_of_the_user_do_not_end_as_built() {
    let ends = |head: &str| {
        let head = format!("{{ model: {{ source: 'builtin://tiny' }}, head: {{ spec: {{ {head} }} }} }}");
        ends_as_built(&group_objects(&cluster(&head), 0).head)
    };
    assert!(ends(""));
    assert!(ends("nodeSelector: { a: b }"));
    assert!(!ends("containers: [{ name: shipper, image: a }]"));
    assert!(!ends("initContainers: [{ name: proxy, image: a, restartPolicy: Always }]"));
    assert!(!ends("containers: [{ name: head, lifecycle: { preStop: { sleep: { seconds: 30 } } } }]"));
}
