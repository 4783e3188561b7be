//! From an `InferenceCluster` to the objects that it means, in five steps: dereference, validate, build, apply, status.

pub mod build;
pub mod validate;
