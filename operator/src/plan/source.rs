//! Where a model's files are for the agent: in Kubernetes some sources are volumes, mounted at one place.

use super::{Addresses, MODELS_DIR};
use crate::resource::InferenceClusterSpec;

/// The volume that holds a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelVolume {
    /// A claim in the cluster's namespace.
    Claim(String),
    /// The files of an image.
    Image(String),
}

/// The volume that the source names, where it names one.
#[must_use]
pub fn model_volume(source: &str) -> Option<ModelVolume> {
    match source.split_once("://")? {
        ("pvc", rest) => Some(ModelVolume::Claim(rest.split('/').next().unwrap_or(rest).to_owned())),
        ("oci", rest) => Some(ModelVolume::Image(rest.to_owned())),
        _ => None,
    }
}

/// The source as the agent is told it.
pub(super) fn seen_by_agent(spec: &InferenceClusterSpec, addresses: &Addresses) -> String {
    let source = &spec.model.source;
    match (addresses, source.split_once("://")) {
        (Addresses::Kubernetes { .. }, Some(("pvc", rest))) => match rest.split_once('/') {
            Some((_, folder)) => format!("file://{MODELS_DIR}/{folder}"),
            None => format!("file://{MODELS_DIR}"),
        },
        (Addresses::Kubernetes { .. }, Some(("oci", _))) => format!("file://{MODELS_DIR}"),
        _ => source.clone(),
    }
}
