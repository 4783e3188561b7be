//! The pages for people, and the description of the endpoint, over a socket.

use crate::common::*;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

fn client() -> Client {
    // The client wants one, for connections that it never makes here. Another test may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::new()
}

/// Returns the description that the endpoint serves.
async fn description(client: &Client, base: &str) -> Value {
    client.get(format!("{base}/openapi.json")).send().await.unwrap().json().await.unwrap()
}

async fn send(client: &Client, base: &str, method: &str, path: &str, body: Option<&Value>) -> Response {
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    let request = client.request(method, format!("{base}{path}"));
    let request = if let Some(body) = body { request.json(body) } else { request };
    request.send().await.unwrap()
}

#[tokio::test]
async fn pages_are_served_whole_and_stay_in_caches() {
    let endpoint = start().await;
    let (client, base) = (client(), format!("http://{}", endpoint.http));
    for (path, title) in [("/", "<title>Lockstep</title>"), ("/docs", "<title>The HTTP endpoint")] {
        let url = format!("{base}{path}");
        let page = client.get(&url).send().await.unwrap();
        assert_eq!(page.status(), 200);
        let headers = page.headers().clone();
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let policy = headers["content-security-policy"].to_str().unwrap();
        for part in ["default-src 'none'", "script-src 'sha256-", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        let html = page.text().await.unwrap();
        assert!(html.contains(title), "{path}");

        let head = client.head(&url).send().await.unwrap();
        assert_eq!((head.status(), &head.headers()[ETAG]), (StatusCode::OK, &headers[ETAG]));
        assert_eq!(head.headers()["content-length"], html.len().to_string().as_str());
        let known = client.get(&url).header(IF_NONE_MATCH, &headers[ETAG]).send().await.unwrap();
        assert_eq!(known.status(), 304);
        assert!(known.text().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn every_described_operation_answers_as_described() {
    let endpoint = start().await;
    let (client, base) = (client(), format!("http://{}", endpoint.http));
    let document = description(&client, &base).await;
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let example = &operation["requestBody"]["content"]["application/json"]["example"];
            let body = (!example.is_null()).then_some(example);
            let response = send(&client, &base, method, &path.replace("{id}", "tiny"), body).await;
            assert_eq!(response.status(), 200, "{method} {path}");
            let Some(described) = operation["responses"]["200"]["content"].as_object() else {
                assert!(response.text().await.unwrap().is_empty(), "{method} {path}");
                continue;
            };
            let media = response.headers()["content-type"].to_str().unwrap().to_owned();
            assert!(described.keys().any(|one| media.starts_with(one.as_str())), "{method} {path}: {media}");
            if media == "application/json" {
                let schema = &described["application/json"]["schema"];
                check_object(&document, schema, &response.json().await.unwrap(), path);
            }
        }
    }
}

/// Checks that an answer has the fields that its schema requires, and no field that the schema does not name.
fn check_object(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => document.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for one in values {
            check_object(document, items, one, &format!("{place}[]"));
        }
    }
    let (Some(fields), Some(object)) = (schema["properties"].as_object(), value.as_object()) else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(object.contains_key(name.as_str().unwrap()), "{place} lacks {name}: {value}");
    }
    for (name, value) in object {
        let field = fields.get(name).unwrap_or_else(|| panic!("{place}.{name} is not described"));
        check_object(document, field, value, &format!("{place}.{name}"));
    }
}

#[tokio::test]
async fn every_described_field_is_taken() {
    let endpoint = start().await;
    let (client, base) = (client(), format!("http://{}", endpoint.http));
    let document = description(&client, &base).await;
    let mut taken = 0;
    for (path, schema) in [("/v1/chat/completions", "ChatRequest"), ("/v1/completions", "CompletionRequest")] {
        let content = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"];
        let fields = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        for (name, field) in fields.iter().filter(|(_, field)| field.get("example").is_some()) {
            let mut body = content["example"].clone();
            body[name] = field["example"].clone();
            let response = send(&client, &base, "post", path, Some(&body)).await;
            assert_eq!(response.status(), 200, "{path} {name}: {}", response.text().await.unwrap());
            assert!(response.headers().get("x-lockstep-ignored").is_none(), "{path} {name}");
            taken += 1;
        }
    }
    assert!(taken > 30, "{taken} fields were tried");
    // A bound of the description is one of the endpoint.
    let highest = &document["components"]["schemas"]["ChatRequest"]["properties"]["temperature"]["maximum"];
    for (over, status) in [(0.0, 200), (1.0, 400)] {
        let temperature = highest.as_f64().unwrap() + over;
        let body = json!({"messages": [{"role": "user", "content": "x"}], "temperature": temperature});
        assert_eq!(send(&client, &base, "post", "/v1/chat/completions", Some(&body)).await.status(), status);
    }
}
