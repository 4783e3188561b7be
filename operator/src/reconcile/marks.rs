//! Marks the pods of silent heads, so that the client Service leaves them out.
//!
//! A head is ready by its own word and its kubelet's. If its machine dies or is cut off, both are silent, and Kubernetes
//! goes on sending clients there until it gives the machine up. The mark is a label, not a readiness gate: a pod with a
//! gate would not become ready while no operator runs.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::build::is_marked;
use super::observation::{GroupSeen, Observation};
use super::validate::Validated;
use super::{Context, ReconcileError};
use crate::objects::label;
use crate::pods;

/// Returns true if the pods of all heads have the mark, those that exist and those that Kubernetes will make. Otherwise
/// the client Service must not ask for it.
#[must_use]
pub(super) fn are_all_marked(seen: &Observation) -> bool {
    let is_marked = |group: &GroupSeen| {
        group.head_set.as_deref().is_none_or(is_marked)
            && group.head().is_none_or(|pod| pod.labels().contains_key(label::HEARD))
    };
    seen.groups.values().all(is_marked)
}

/// Writes the mark of each head whose state has changed.
///
/// # Errors
/// Fails if the API server refuses a request.
pub(super) async fn mark_heads(
    context: &Context,
    cluster: &Validated,
    seen: &Observation,
) -> Result<(), ReconcileError> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &cluster.identity.namespace);
    for group in seen.groups.values() {
        let (Some(pod), Some(heard)) = (group.head(), find_new_mark(group)) else { continue };
        let (name, uid) = (pod.name_any(), pod.uid());
        tracing::warn!(cluster = cluster.identity.name, pod = name, heard, "changing the mark of a head");
        // With its uid, a later pod of the same name is left alone.
        let patch = json!({ "metadata": { "uid": uid, "labels": { label::HEARD: heard.to_string() } } });
        context.metrics.count_request("patch");
        match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
            Err(source) => return Err(ReconcileError::Apply { kind: "Pod".into(), name, source }),
        }
    }
    Ok(())
}

/// Returns the mark that the head's pod should have, if it has another one. A pod without a mark gets none: Kubernetes
/// would make the next one without it again.
fn find_new_mark(group: &GroupSeen) -> Option<bool> {
    let head = group.head()?;
    let mark = head.labels().get(label::HEARD)?;
    // A head that starts is not heard yet either. It is not ready, so Kubernetes sends it no clients.
    let is_silent = group.contacts.head_silent && group.unreachable.is_some();
    let heard = !is_silent || (!pods::is_ready(head) && *mark == "true");
    (*mark != heard.to_string()).then_some(heard)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reconcile::build::group_objects;
    use crate::reconcile::contacts::Contacts;
    use crate::reconcile::validate::{Defaults, validate};
    use crate::resource::testing;

    fn pod(ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        serde_json::from_value(json!({ "status": { "conditions": [{ "type": "Ready", "status": ready }] } })).unwrap()
    }

    /// Returns a group whose head's pod is ready and has this mark.
    fn group(mark: Option<&str>) -> GroupSeen {
        let object = testing::cluster("{ model: { source: 'builtin://tiny' } }");
        let valid = validate(&object, &Defaults { agent_image: "agent:1".into(), operator_pods: None }).unwrap();
        let mut pod = pod(true);
        pod.metadata.labels = mark.map(|mark| [(label::HEARD.to_owned(), mark.to_owned())].into());
        GroupSeen {
            head_set: Some(Arc::new(group_objects(&valid, 0).head)),
            pods: [(0, Arc::new(pod))].into(),
            ..GroupSeen::default()
        }
    }

    #[test]
    fn a_silent_head_loses_its_mark_and_gets_it_back() {
        let silent = |mark| GroupSeen {
            unreachable: Some("deadline".into()),
            contacts: Contacts { head_silent: true, ..Contacts::default() },
            ..group(mark)
        };
        assert_eq!(find_new_mark(&silent(Some("true"))), Some(false));
        assert_eq!(find_new_mark(&silent(Some("false"))), None);
        assert_eq!(find_new_mark(&silent(None)), None, "an older operator made it");
        assert_eq!(find_new_mark(&group(Some("false"))), Some(true));
        assert_eq!(find_new_mark(&group(Some("true"))), None);
        let no_address = GroupSeen { unreachable: None, ..silent(Some("true")) };
        assert_eq!(find_new_mark(&no_address), None);
        let mut starts = silent(Some("true"));
        let labels = starts.pods[&0].metadata.labels.clone();
        let mut head = pod(false);
        head.metadata.labels = labels;
        starts.pods.insert(0, Arc::new(head));
        assert_eq!(find_new_mark(&starts), None, "it is not ready, so it gets no clients");
    }

    #[test]
    fn the_service_asks_for_the_mark_once_every_head_has_it() {
        let all = |groups: Vec<GroupSeen>| {
            are_all_marked(&Observation { groups: (0..).zip(groups).collect(), ..Observation::default() })
        };
        assert!(all(vec![]));
        assert!(all(vec![group(Some("true")), group(Some("false"))]));
        assert!(!all(vec![group(Some("true")), group(None)]));
        // The next pod of an old set will lack the mark.
        let mut old = group(Some("true"));
        let set = Arc::make_mut(old.head_set.as_mut().unwrap());
        let template = set.metadata.annotations.as_mut().unwrap().get_mut("lockstep.dev/template").unwrap();
        *template = template.replace(label::HEARD, "other");
        assert!(!all(vec![old]));
    }
}
