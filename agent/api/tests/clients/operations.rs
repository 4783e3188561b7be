//! What those who run the endpoint see: probes, metrics, the log, a drain, the end of the process.

use std::time::Duration;

use crate::common::*;
use crate::http::{COMPLETIONS, Client};
use lockstep_proto::v1::ClusterStatus;
use serde_json::{Value, json};

#[tokio::test]
async fn a_draining_head_lets_its_clients_go() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let endpoint = start().await;
    let mut idle = tokio::net::TcpStream::connect(endpoint.http).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    idle.write_all(request).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = idle.read(&mut answer).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer[..length]).contains("connection: close"));
    endpoint.status.send_replace(ClusterStatus { draining: true, ready: false, accepting: false, ..serving() });
    assert_eq!(idle.read(&mut answer).await.unwrap(), 0, "the idle connection ends");
    let mut new = tokio::net::TcpStream::connect(endpoint.http).await.unwrap();
    new.write_all(request).await.unwrap();
    let mut answer = String::new();
    new.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn probes_tell_the_truth() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let states = [(true, true, 200, 200), (false, true, 503, 200), (false, false, 503, 503)];
    for (ready, accepting, ready_code, accepting_code) in states {
        let pending = if ready { vec![] } else { vec!["rank 1: loading 40%".to_owned()] };
        endpoint.status.send_replace(ClusterStatus { ready, accepting, pending: pending.clone(), ..serving() });
        assert_eq!(client.get("/health").await.0, 200);
        let (code, body) = client.get("/ready").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, &body["pending"]), (ready_code, &json!(pending)));
        assert_eq!(body["ranks"][1], json!({"rank": 1, "node": 1, "phase": "serving"}));
        assert_eq!(client.get("/accepting").await.0, accepting_code);
        let gauge = format!("lockstep_ready {}\n", u8::from(ready));
        assert!(client.get("/metrics").await.1.contains(&gauge));
    }
    let accepts = [
        ("", "text/plain; version=0.0.4; charset=utf-8", "# TYPE lockstep_prompt_tokens_total counter\n"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8", "# TYPE vllm:num_requests_running gauge\n"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "# TYPE lockstep_prompt_tokens counter\n",
        ),
    ];
    for (accept, content_type, line) in accepts {
        let request = client.client.get(format!("{}/metrics", client.base)).header("accept", accept);
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], content_type);
        let page = response.text().await.unwrap();
        assert!(page.contains(line) && page.ends_with("# EOF\n") == content_type.contains("openmetrics"), "{page}");
    }
    let (_, models) = client.get("/v1/models").await;
    assert!(models.contains("\"id\":\"tiny\""), "{models}");
    assert_eq!(client.get("/v1/models/default").await.0, 200);
}

/// Log lines of this process, as JSON.
#[derive(Clone, Default)]
struct LogBuffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_request_is_logged_once() {
    let log = LogBuffer::default();
    let writer = log.clone();
    let filter = tracing_subscriber::EnvFilter::new("off,access=info");
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter);
    lines.with_writer(move || writer.clone()).try_init().unwrap();
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let requests = [
        (COMPLETIONS, json!({"prompt": "hello!"}), 200, json!([2, 2]), Value::Null),
        (COMPLETIONS, json!({"prompt": ["a", "bc"], "stream": true}), 200, json!([3, 3]), Value::Null),
        (
            COMPLETIONS,
            json!({"prompt": BREAK, "stream": true}),
            200,
            json!([5, 5]),
            json!("rank 1 is lost: try again in 7 s"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": 5}),
            400,
            json!([null, null]),
            json!("prompt: expected a string or a list of token ids, got a number"),
        ),
        ("/nowhere\u{e9}", json!({}), 404, json!([null, null]), json!("nothing is at /nowhere%C3%A9: try /v1/models")),
    ];
    for (at, (path, body, ..)) in requests.iter().enumerate() {
        let request = client
            .client
            .post(format!("{}{path}?key=secret", client.base))
            .header("x-request-id", format!("logged-{at}"));
        request.json(body).send().await.unwrap().bytes().await.unwrap();
    }
    client.get("/health").await;
    let own_lines = || {
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("\"path\":\"/health\"") && !text.contains("secret"), "{text}");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["request_id"].as_str().unwrap().starts_with("logged-")).collect::<Vec<_>>()
    };
    while own_lines().len() < requests.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for ((line, (path, _, status, tokens, error)), at) in own_lines().iter().zip(&requests).zip(0..) {
        assert_eq!(
            (&line["method"], &line["status"], &line["request_id"]),
            (&json!("POST"), &json!(status), &json!(format!("logged-{at}")))
        );
        assert_eq!(line["path"].as_str().unwrap().is_empty(), path.is_empty());
        assert_eq!(json!([line["prompt_tokens"], line["completion_tokens"]]), *tokens, "{line}");
        assert!(line["seconds"].is_number() && line["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        let told = line["error"].as_str().unwrap_or_default();
        assert!(told.starts_with(error.as_str().unwrap_or_default()), "{line}");
    }
}

#[tokio::test]
async fn shutdown_finishes_what_has_begun() {
    let mut endpoint = start().await;
    let client = Client::new(&endpoint);
    let request = client.client.post(format!("{}{COMPLETIONS}", client.base));
    let response = request.json(&json!({"prompt": SLOW, "stream": true, "max_tokens": 30})).send().await.unwrap();
    endpoint.shutdown.cancel();
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    for served in endpoint.served.drain(..) {
        served.await.unwrap();
    }
    assert!(client.client.get(format!("{}/health", client.base)).send().await.is_err());
}
