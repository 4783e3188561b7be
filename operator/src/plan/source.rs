//! Location of a model's files as the agent sees it. In Kubernetes, some sources are volumes that are mounted into the
//! containers.

use super::{Addresses, MODELS_DIR};
use crate::resource::InferenceClusterSpec;

/// Volume that holds a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelVolume {
    /// A PersistentVolumeClaim in the cluster's namespace, by name.
    Claim(String),
    /// The files of an image, by its reference.
    Image(String),
}

/// Returns the volume that a source names. A source that is not a volume has none.
#[must_use]
pub fn model_volume(source: &str) -> Option<ModelVolume> {
    match source.split_once("://")? {
        ("pvc", rest) => Some(ModelVolume::Claim(rest.split('/').next().unwrap_or(rest).to_owned())),
        ("oci", rest) => Some(ModelVolume::Image(rest.to_owned())),
        _ => None,
    }
}

/// Returns the source that the agent's command line names. A volume becomes the folder where it is mounted, or the GGUF
/// file in it.
pub(super) fn agent_source(spec: &InferenceClusterSpec, addresses: &Addresses) -> String {
    let source = &spec.model.source;
    match (addresses, source.split_once("://")) {
        (Addresses::Kubernetes, Some(("pvc", rest))) => match rest.split_once('/') {
            Some((_, path)) => format!("file://{MODELS_DIR}/{path}"),
            None => format!("file://{MODELS_DIR}"),
        },
        (Addresses::Kubernetes, Some(("oci", _))) => format!("file://{MODELS_DIR}"),
        _ => source.clone(),
    }
}
