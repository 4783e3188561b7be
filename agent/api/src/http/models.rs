//! `/v1/models`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::session::Api;

pub(crate) async fn list_models(State(api): State<Api>) -> Json<Value> {
    Json(json!({"object": "list", "data": api.names().map(|name| describe_model(&api, name)).collect::<Vec<_>>()}))
}

pub(crate) async fn get_model(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    api.check_model(&id)?;
    let name = api.names().find(|name| *name == id).unwrap_or(&api.model().name);
    Ok(Json(describe_model(&api, name)))
}

fn describe_model(api: &Api, name: &str) -> Value {
    let info = api.model();
    json!({
        "id": name, "object": "model", "created": api.created(), "owned_by": "lockstep",
        "root": info.source, "max_model_len": info.context_length,
    })
}
