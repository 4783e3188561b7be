//! Identity of the objects that the operator makes: the cluster that owns them, labels, annotations, kinds, and hashes
//! of their content. Pure, and below every module that makes, watches or shows such objects.

pub mod hash;
pub mod kinds;
pub mod labels;
mod owner;

pub use labels::{FIELD_MANAGER, LOCKSTEP, PodRole, annotation, label};
pub use owner::{ClusterIdentity, is_owned_by};
