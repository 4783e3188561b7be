//! Laying a user's pod template over ours, typed, as Kubernetes merges lists: containers, variables and volumes by name.
//! Where that merge would leave two sources of one thing, or drop what users did not mean to drop, it is set right here.

use k8s_openapi::DeepMerge as _;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, Toleration};

use crate::objects::PodRole;
use crate::plan::HEAD;

/// Lays `overlay` over `template`, a pod of `role`.
pub(super) fn lay(template: &mut PodTemplateSpec, overlay: &PodTemplateSpec, role: PodRole) {
    let mut overlay = overlay.clone();
    if let (Some(ours), Some(theirs)) = (&mut template.spec, &mut overlay.spec) {
        if role == PodRole::Worker {
            // What the common overlay says of heads; worker pods have none.
            theirs.containers.retain(|container| container.name != HEAD);
        }
        for container in &theirs.containers {
            take_variables(&mut ours.containers, container);
        }
        take_volumes(ours, theirs);
        theirs.tolerations = added(ours.tolerations.take(), theirs.tolerations.take());
    }
    template.merge_from(overlay);
}

/// A variable of theirs replaces ours whole: merged, one with a value and one with a source would have both.
fn take_variables(ours: &mut [Container], theirs: &Container) {
    let Some(ours) = ours.iter_mut().find(|ours| ours.name == theirs.name) else { return };
    for var in ours.env.iter_mut().flatten() {
        if let Some(given) = theirs.env.iter().flatten().find(|given| given.name == var.name) {
            *var = given.clone();
        }
    }
}

/// A volume of theirs replaces ours whole: merged, it would be of two types.
fn take_volumes(ours: &mut PodSpec, theirs: &PodSpec) {
    for volume in ours.volumes.iter_mut().flatten() {
        if let Some(given) = theirs.volumes.iter().flatten().find(|given| given.name == volume.name) {
            *volume = given.clone();
        }
    }
}

/// Both lists of tolerations; of two for one taint the user's stays. The merge itself would drop ours.
fn added(ours: Option<Vec<Toleration>>, theirs: Option<Vec<Toleration>>) -> Option<Vec<Toleration>> {
    let theirs = theirs.unwrap_or_default();
    let mut all = ours.unwrap_or_default();
    all.retain(|ours| !theirs.iter().any(|given| given.key == ours.key && given.effect == ours.effect));
    all.extend(theirs);
    (!all.is_empty()).then_some(all)
}
