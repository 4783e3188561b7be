//! `/openapi.json`: the description of the HTTP endpoint, in OpenAPI 3.1. The page `/docs` shows it.
//!
//! `operations.rs` has an entry for each route of the router, and a test compares the two. `schemas.rs` has the objects of
//! requests and answers, with the bounds that the code enforces.

mod operations;
mod schemas;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use self::operations::{Answer, BODY_ERRORS, COMMON_ERRORS, Content, ERRORS, OPERATIONS, Operation, TAGS};
use super::OPEN_PATHS;
use crate::session::Api;

/// Shapes of errors.
const ERROR: [Content; 1] = [Content::Json("Error")];
const ANTHROPIC_ERROR: [Content; 1] = [Content::Json("MessageError")];

/// Returns the description. Its examples name the served model.
pub(crate) async fn describe(State(api): State<Api>) -> Json<Value> {
    Json(document(&api.model().name))
}

fn document(model: &str) -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        methods[operation.method] = operation.describe(model);
    }
    let tags: Vec<Value> = TAGS.iter().map(|(name, about)| json!({"name": name, "description": about})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "The HTTP endpoint of Lockstep",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The head of a group answers as OpenAI's API does. Every answer carries the header \
                            `x-request-id`, and every error has the same JSON object, except under \
                            `/v1/messages`.",
        },
        "servers": [{"url": "./"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Only if the server asks for a key."}},
        },
        "security": [{}, {"key": []}],
    })
}

impl Operation {
    fn may_fail_with(&self, status: u16) -> bool {
        let needs_key = status == 401 && !OPEN_PATHS.contains(&self.path);
        let has_wrong_body = self.request.is_some() && BODY_ERRORS.contains(&status);
        needs_key || has_wrong_body || COMMON_ERRORS.contains(&status) || self.errors.contains(&status)
    }

    fn describe(&self, model: &str) -> Value {
        let errors = ERRORS.iter().filter(|(status, _)| self.may_fail_with(*status));
        let errors = errors.map(|(status, meaning)| {
            let content = if self.path.starts_with("/v1/messages") { &ANTHROPIC_ERROR } else { &ERROR };
            Answer { status: *status, meaning, content }.describe()
        });
        let responses: Map<String, Value> = self.answers.iter().map(Answer::describe).chain(errors).collect();
        let mut operation = json!({
            "operationId": self.id, "tags": [self.tag], "summary": self.summary, "responses": responses,
        });
        if !self.description.is_empty() {
            operation["description"] = json!(self.description);
        }
        if OPEN_PATHS.contains(&self.path) {
            operation["security"] = json!([]);
        }
        if let Some(schema) = self.request {
            let content = json!({"schema": reference(schema), "example": schemas::example(schema, model)});
            operation["requestBody"] = json!({"required": true, "content": {"application/json": content}});
        }
        if self.path.contains("{id}") {
            operation["parameters"] = json!([{
                "name": "id", "in": "path", "required": true, "description": "The model's name, or `default`.",
                "schema": {"type": "string", "minLength": 1}, "example": model,
            }]);
        }
        operation
    }
}

impl Answer {
    /// Returns the status and the description.
    fn describe(&self) -> (String, Value) {
        let mut answer = json!({"description": self.meaning});
        let content: Map<String, Value> = self.content.iter().map(Content::describe).collect();
        if !content.is_empty() {
            answer["content"] = Value::Object(content);
        }
        (self.status.to_string(), answer)
    }
}

impl Content {
    /// Returns the media type and its description.
    fn describe(&self) -> (String, Value) {
        match self {
            Self::Json(schema) => ("application/json".into(), json!({"schema": reference(schema)})),
            // OpenAPI 3.1 has no word for the schema of each event.
            Self::Events(schema) => ("text/event-stream".into(), json!({"x-events": reference(schema)})),
            Self::Text(media) => ((*media).into(), json!({"schema": {"type": "string"}})),
        }
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns the routes of the router, with their methods, as its source has them.
    fn routes() -> BTreeSet<(String, String)> {
        let source = include_str!("../mod.rs");
        let mut routes = BTreeSet::new();
        for route in source.split(".route(").skip(1) {
            let route = route.split(".route(").next().unwrap_or_default();
            let path = route.split('"').nth(1).unwrap().replace("{*id}", "{id}");
            // `.route("/path", get(a).post(b))` ends with two closing parentheses.
            let end = route.find("))").unwrap_or(route.len());
            for method in ["get", "post"].iter().filter(|method| route[..end].contains(&format!("{method}("))) {
                routes.insert((path.clone(), (*method).to_owned()));
            }
        }
        routes
    }

    #[test]
    fn every_route_is_described_and_every_description_has_a_route() {
        let described: BTreeSet<(String, String)> =
            OPERATIONS.iter().map(|one| (one.path.to_owned(), one.method.to_owned())).collect();
        assert_eq!(described.len(), OPERATIONS.len(), "a path and method are described once");
        let routes = routes();
        assert!(routes.len() > 8, "the source of the router is read: {routes:?}");
        let missing: Vec<_> = routes.difference(&described).collect();
        assert!(missing.is_empty(), "add to OPERATIONS in http/openapi/operations.rs: {missing:?}");
        let gone: Vec<_> = described.difference(&routes).collect();
        assert!(gone.is_empty(), "no route serves: {gone:?}");
    }

    #[test]
    fn every_reference_and_every_status_exists() {
        let document = document("tiny");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        let used: BTreeSet<&str> =
            text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        for name in &used {
            assert!(schemas.contains_key(*name), "there is no schema {name}");
        }
        for operation in OPERATIONS {
            assert!(TAGS.iter().any(|(tag, _)| *tag == operation.tag), "{}", operation.tag);
            for status in operation.errors {
                assert!(ERRORS.iter().any(|(known, _)| known == status), "{status} has no meaning");
            }
        }
    }
}
