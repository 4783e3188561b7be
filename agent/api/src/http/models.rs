//! `/v1/models`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::session::Api;

pub(crate) async fn list_models(State(api): State<Api>) -> Json<Value> {
    Json(json!({"object": "list", "data": [describe_model(&api)]}))
}

pub(crate) async fn get_model(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    api.check_model(&id)?;
    Ok(Json(describe_model(&api)))
}

fn describe_model(api: &Api) -> Value {
    let info = api.model();
    json!({
        "id": info.name, "object": "model", "created": api.created(), "owned_by": "lockstep",
        "root": info.source, "max_model_len": info.context_length,
    })
}
