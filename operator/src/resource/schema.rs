//! Schemas that `derive(JsonSchema)` cannot express.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Returns the schema of an overlay: any object, kept as the user gave it.
pub(super) fn overlay(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
