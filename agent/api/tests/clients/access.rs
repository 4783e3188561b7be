//! Who may use the ports: keys, origins of pages, host names, media types and TLS.

use std::sync::Arc;

use crate::common::*;
use lockstep_api::{AllowedOrigins, ApiKeys, ClientAccess};
use lockstep_proto::v1::ListModelsRequest;
use lockstep_proto::v1::inference_client::InferenceClient;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

fn client() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::new()
}

const BODY: &str = r#"{"prompt": "x"}"#;

#[tokio::test]
async fn media_types_and_host_names_are_checked() {
    let endpoint = start().await;
    let client = client();
    type Pairs = &'static [(&'static str, &'static str)];
    let cases: [(Pairs, u16, &str); 12] = [
        (&[], 200, ""),
        (&[("content-type", "application/json")], 200, ""),
        (&[("content-type", "Application/JSON; charset=utf-8")], 200, ""),
        (&[("content-type", "application/vnd.api+json")], 200, ""),
        (&[("content-type", "text/plain")], 415, "send `content-type: application/json`"),
        (&[("content-type", "application/x-www-form-urlencoded")], 415, "with curl: -H"),
        (&[("content-encoding", "gzip")], 415, "content-encoding \"gzip\" is not supported"),
        (&[("content-encoding", "identity")], 200, ""),
        (&[("host", "localhost:1234")], 200, ""),
        (&[("host", "[::1]:1234")], 200, ""),
        (&[("host", "evil.example:1234")], 403, "does not answer to the name \"evil.example:1234\""),
        (&[("origin", "https://evil.example")], 200, ""),
    ];
    for (headers, status, message) in cases {
        let mut request = client.post(format!("http://{}/v1/completions", endpoint.http)).body(BODY);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{headers:?}");
        assert!(!response.headers().contains_key("access-control-allow-origin"), "{headers:?}");
        let body: Value = response.json().await.unwrap();
        let told = body["error"]["message"].as_str().unwrap_or_default();
        assert!(told.contains(message), "{headers:?}: {body}");
    }
}

#[tokio::test]
async fn pages_of_allowed_origins_may_ask() {
    let listed = AllowedOrigins::parse("https://chat.example").unwrap();
    let local = AllowedOrigins::default();
    let cases = [
        (&local, "http://localhost:3000", true),
        (&local, "https://chat.example", false),
        (&listed, "https://chat.example", true),
        (&listed, "http://localhost:3000", false),
    ];
    for (origins, origin, allowed) in cases {
        let keys = ApiKeys::open(vec!["secret".into()], None).unwrap();
        let access = ClientAccess { origins: origins.clone(), keys: Some(Arc::new(keys)), tls: None };
        let endpoint = start_with(|api| api.with_access(access)).await;
        let url = format!("http://{}/v1/chat/completions", endpoint.http);
        let preflight = client().request(reqwest::Method::OPTIONS, &url).header("origin", origin);
        let preflight = preflight
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,x-stainless-os");
        let response = preflight.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{origin}");
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("access-control-allow-origin"), allowed.then(|| origin.to_owned()), "{origin}");
        let asked = "authorization,content-type,x-stainless-os";
        assert_eq!(header("access-control-allow-headers").as_deref(), Some(asked));

        let refused = client().post(&url).header("origin", origin).body(BODY).send().await.unwrap();
        assert_eq!(refused.status().as_u16(), 401);
        assert_eq!(refused.headers().contains_key("access-control-allow-origin"), allowed, "{origin}");
        let exposed = refused.headers()["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("x-request-id") && exposed.contains("x-lockstep-ignored"), "{exposed}");
    }
}

#[tokio::test]
async fn requests_need_a_key() {
    let keys = ApiKeys::open(vec!["one".into(), "two".into()], None).unwrap();
    let endpoint =
        start_with(|api| api.with_access(ClientAccess { keys: Some(Arc::new(keys)), ..ClientAccess::default() })).await;
    let client = client();
    let url = |path: &str| format!("http://{}{path}", endpoint.http);
    let cases = [
        (None, 401, "this server asks for an API key"),
        (Some("Bearer three"), 401, "the API key is none of this server's"),
        (Some("Bearer on"), 401, "the API key is none of this server's"),
        (Some("Bearer one"), 200, ""),
        (Some("bearer two"), 200, ""),
    ];
    for (key, status, message) in cases {
        let mut request = client.post(url("/v1/completions")).body(BODY);
        let mut call = Request::new(ListModelsRequest {});
        if let Some(key) = key {
            request = request.header("authorization", key);
            call.metadata_mut().insert("authorization", key.parse().unwrap());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{key:?}");
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
        let body: Value = response.json().await.unwrap();
        assert!(body["error"]["message"].as_str().unwrap_or_default().starts_with(message), "{body}");
        assert_eq!(body["error"]["code"].as_str(), (status == 401).then_some("invalid_api_key"));

        let mut models = InferenceClient::connect(format!("http://{}", endpoint.grpc)).await.unwrap();
        let answer = models.list_models(call).await;
        assert_eq!(answer.err().map(|status| status.code()), (status == 401).then_some(Code::Unauthenticated));
    }
    for (path, status) in
        [("/health", 200), ("/ready", 200), ("/accepting", 200), ("/metrics", 200), ("/v1/models", 401)]
    {
        assert_eq!(client.get(url(path)).send().await.unwrap().status().as_u16(), status, "{path}");
    }
    let channel = Channel::from_shared(format!("http://{}", endpoint.grpc)).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    assert_eq!(health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status, 1);
}

#[tokio::test]
async fn both_ports_speak_tls() {
    let client = client();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let endpoint = start_with(|api| {
        api.with_access(ClientAccess { tls: Some(Arc::new(move || config.clone())), ..ClientAccess::default() })
    })
    .await;

    let certificate = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let trusting = reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap();
    let url = |scheme: &str| format!("{scheme}://localhost:{}/health", endpoint.http.port());
    assert_eq!(trusting.get(url("https")).send().await.unwrap().status().as_u16(), 200);
    assert!(client.get(url("http")).send().await.is_err(), "plain text is not served");

    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(made.cert.pem()));
    let channel = Channel::from_shared(format!("https://localhost:{}", endpoint.grpc.port())).unwrap();
    let channel = channel.tls_config(tls).unwrap().connect().await.unwrap();
    let models = InferenceClient::new(channel).list_models(ListModelsRequest {}).await.unwrap().into_inner().models;
    assert_eq!(models.len(), 1);
}

/// Idle and slow connections of one address push out each other, and nobody else.
#[tokio::test]
async fn a_crowd_of_idle_connections_keeps_nobody_out() {
    lockstep_api::raise_file_limit();
    let endpoint = start().await;
    let client = client();
    let post = || client.post(format!("http://{}/v1/completions", endpoint.http)).body(r#"{"prompt": "slow"}"#).send();
    let streamed = tokio::spawn(post());
    let mut crowd = Vec::new();
    for number in 0..lockstep_api::PlaceLimits::of_clients().of_address + 50 {
        let mut stream = TcpStream::connect(endpoint.http).await.expect("a connection");
        if number % 2 == 0 {
            stream.write_all(b"GET /health HT").await.ok();
        }
        crowd.push(stream);
    }
    for _ in 0..3 {
        let answer = client.get(format!("http://{}/health", endpoint.http)).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    let mut byte = [0];
    let ended = crowd[0].read(&mut byte).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "the oldest one has gone: {ended:?}");
    assert_eq!(streamed.await.expect("a task").expect("an answer").status(), 200, "a busy one stays");
}

/// Bodies that stay unfinished take no room from small ones, and what needs too much memory is refused.
#[tokio::test]
async fn bodies_have_a_budget_of_memory() {
    let endpoint = start().await;
    let client = client();
    let url = format!("http://{}/v1/completions", endpoint.http);
    let post = |body: Vec<u8>| client.post(&url).body(body).send();
    let values = post(format!(r#"{{"prompt": [{}0]}}"#, "0,".repeat(3 << 20)).into_bytes()).await.expect("an answer");
    assert_eq!(values.status(), 413);
    assert!(values.text().await.expect("a text").contains("the body has too many values"));

    let mut unfinished = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(endpoint.http).await.expect("a connection");
        let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("a request");
        stream.write_all(&vec![b' '; 15_900_000]).await.ok();
        unfinished.push(stream);
    }
    let mut answer = vec![0; 12];
    unfinished[4].read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 503");
    for (length, expected) in [(16_000_000, "HTTP/1.1 503"), (17_000_000, "HTTP/1.1 413")] {
        let mut stream = TcpStream::connect(endpoint.http).await.expect("a connection");
        let head = format!("POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("a request");
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(answer, expected.as_bytes(), "before the body has come");
    }
    assert_eq!(post(BODY.into()).await.expect("an answer").status(), 200, "a small body has room");
    drop(unfinished);
    let large = format!(r#"{{"prompt": "x", "user": "{}"}}"#, "x".repeat(1 << 20));
    for _ in 0..100 {
        if post(large.clone().into_bytes()).await.expect("an answer").status() == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the memory is not given back");
}
