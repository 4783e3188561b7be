//! Merges a user's pod template into the operator's template as Kubernetes merges lists: containers, variables and
//! volumes by name. Two cases differ. A variable or volume of the user replaces the operator's as a whole, because a
//! merge would give it two sources. The result has the tolerations of both sides, because a merge would drop the
//! operator's.

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, Toleration};

use crate::objects::PodRole;
use crate::plan::HEAD;

/// Merges `overlay` into `template`, the template of the pods of `role`.
pub(super) fn merge_overlay(template: &mut PodTemplateSpec, overlay: &PodTemplateSpec, role: PodRole) {
    let mut overlay = overlay.clone();
    if let (Some(ours), Some(theirs)) = (&mut template.spec, &mut overlay.spec) {
        if role == PodRole::Worker {
            // The overlay of all pods may have a `head` container, which worker pods lack.
            theirs.containers.retain(|container| container.name != HEAD);
        }
        for container in &theirs.containers {
            replace_variables(&mut ours.containers, container);
        }
        replace_volumes(ours, theirs);
        theirs.tolerations = join_tolerations(ours.tolerations.take(), theirs.tolerations.take());
    }
    template.merge_from(overlay);
}

/// Replaces each variable of the operator that the user sets too. A merge of a value and a source would leave both.
fn replace_variables(ours: &mut [Container], theirs: &Container) {
    let Some(ours) = ours.iter_mut().find(|ours| ours.name == theirs.name) else { return };
    for var in ours.env.iter_mut().flatten() {
        if let Some(given) = theirs.env.iter().flatten().find(|given| given.name == var.name) {
            *var = given.clone();
        }
    }
}

/// Replaces each volume of the operator that the user sets too. A merge would leave a volume of two types.
fn replace_volumes(ours: &mut PodSpec, theirs: &PodSpec) {
    for volume in ours.volumes.iter_mut().flatten() {
        if let Some(given) = theirs.volumes.iter().flatten().find(|given| given.name == volume.name) {
            *volume = given.clone();
        }
    }
}

/// Joins both lists of tolerations. Of two tolerations for one taint, the user's stays.
fn join_tolerations(ours: Option<Vec<Toleration>>, theirs: Option<Vec<Toleration>>) -> Option<Vec<Toleration>> {
    let theirs = theirs.unwrap_or_default();
    let mut all = ours.unwrap_or_default();
    all.retain(|ours| !theirs.iter().any(|given| given.key == ours.key && given.effect == ours.effect));
    all.extend(theirs);
    (!all.is_empty()).then_some(all)
}
