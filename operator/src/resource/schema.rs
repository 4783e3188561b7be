//! Schemas that the derive cannot write.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A pod template as the user gives it: any object, kept whole.
pub(super) fn overlay(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
