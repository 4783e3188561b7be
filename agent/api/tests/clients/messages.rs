//! `/v1/messages` over a socket. The head answers a prompt with the prompt itself.

use serde_json::{Value, json};

use crate::common::*;
use crate::http::Client;

const MESSAGES: &str = "/v1/messages";
const COUNT_TOKENS: &str = "/v1/messages/count_tokens";

/// An answer with reasoning, content and a call.
const SAID: &str = "<think>hm</think>ok <tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";

/// A tool.
fn add() -> Value {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    json!({"name": "add", "description": "adds", "input_schema": schema, "cache_control": {"type": "ephemeral"}})
}

fn user(text: &str) -> Value {
    json!({"max_tokens": 200, "messages": [{"role": "user", "content": text}]})
}

fn with(name: &str, value: Value) -> Value {
    let mut body = user("x");
    body[name] = value;
    body
}

#[tokio::test]
async fn a_message_has_blocks() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let mut body = user(SAID);
    body["tools"] = json!([add()]);
    let (status, answer) = client.post(MESSAGES, &body).await;
    assert_eq!(status, 200, "{answer}");
    let told = ["type", "role", "model", "stop_reason", "stop_sequence"].map(|name| answer[name].clone());
    assert_eq!(json!(told), json!(["message", "assistant", "tiny", "tool_use", null]));
    let content = answer["content"].as_array().unwrap();
    assert_eq!((&content[0]["type"], &content[0]["thinking"]), (&json!("thinking"), &json!("hm")));
    assert_eq!((&content[1]["type"], &content[1]["text"]), (&json!("text"), &json!("ok")));
    assert_eq!(
        (&content[2]["type"], &content[2]["name"], &content[2]["input"]),
        (&json!("tool_use"), &json!("add"), &json!({"a": 1}))
    );
    let usage = &answer["usage"];
    assert_eq!(usage["cache_read_input_tokens"], 2);
    let counted = client.post(COUNT_TOKENS, &body).await.1["input_tokens"].as_u64().unwrap();
    assert_eq!(usage["input_tokens"].as_u64().unwrap() + 2, counted, "cached tokens are counted apart");

    let mut stopped = user("hello STOP me");
    stopped["stop_sequences"] = json!(["x", "STOP"]);
    let (_, answer) = client.post(MESSAGES, &stopped).await;
    assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!("stop_sequence"), &json!("STOP")));
    assert_eq!(answer["content"][0]["text"], "hello ");
    let mut cut = user("hello");
    cut["max_tokens"] = json!(1);
    assert_eq!(client.post(MESSAGES, &cut).await.1["stop_reason"], "max_tokens");
    assert_eq!(client.post(MESSAGES, &user("hello")).await.1["stop_reason"], "end_turn");

    // The text of a call that was cut off.
    let mut cut = user("<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 17777777777777777777777777777");
    cut["tools"] = json!([add()]);
    let (_, answer) = client.post(MESSAGES, &cut).await;
    assert!(answer["content"][0]["input"]["INVALID_JSON"].is_string(), "{answer}");
}

#[tokio::test]
async fn a_streamed_message_equals_the_whole_one() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let mut body = user(SAID);
    body["tools"] = json!([add()]);
    let (_, whole) = client.post(MESSAGES, &body).await;
    body["stream"] = json!(true);
    let events = client.stream(MESSAGES, &body).await;
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let mut names: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    names.dedup();
    let block = "content_block_start content_block_delta content_block_stop";
    assert_eq!(names.join(" "), format!("message_start ping {block} {block} {block} message_delta message_stop"));
    let joined = |name: &str| events.iter().filter_map(|event| event["delta"][name].as_str()).collect::<String>();
    assert_eq!(
        (joined("thinking"), joined("text"), joined("partial_json")),
        ("hm".into(), "ok".into(), "{\"a\": 1}".into())
    );
    let starts = events.iter().filter(|event| event["type"] == "content_block_start");
    let starts: Vec<&Value> = starts.map(|event| &event["content_block"]).collect();
    assert_eq!((&starts[2]["name"], &starts[2]["input"], starts.len()), (&json!("add"), &json!({}), 3));
    let delta = &events[events.len() - 2];
    assert_eq!((&delta["delta"]["stop_reason"], &delta["usage"]), (&whole["stop_reason"], &whole["usage"]));
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], whole["usage"]["input_tokens"]);
}

#[tokio::test]
async fn requests_reach_the_head() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let format = json!({"format": {"type": "json_schema", "schema": schema}, "effort": "low"});
    let tools = |choice: Value| {
        let mut body = with("tools", json!([add()]));
        body["tool_choice"] = choice;
        body
    };
    // The request, and the characters with which the answer may begin.
    let cases = [
        (with("system", json!([{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}])), ""),
        (with("thinking", json!({"type": "enabled", "budget_tokens": 1024})), ""),
        (with("thinking", json!({"type": "disabled"})), ""),
        (with("metadata", json!({"user_id": "u"})), ""),
        (with("top_k", json!(5)), ""),
        (with("output_config", format), "{"),
        (tools(json!({"type": "auto"})), ""),
        (tools(json!({"type": "none"})), ""),
        (tools(json!({"type": "any", "disable_parallel_tool_use": true})), "<"),
        (tools(json!({"type": "tool", "name": "add"})), "<"),
    ];
    for (body, first) in cases {
        let (status, answer) = client.post(MESSAGES, &body).await;
        assert_eq!(status, 200, "{body}: {answer}");
        let mut submission = endpoint.seen.lock().unwrap().pop().unwrap();
        let allowed = submission.guide.as_mut().and_then(|guide| guide.allowed().unwrap());
        let ids = (0..128).filter(|id| allowed.as_ref().is_some_and(|allowed| allowed.contains(*id)));
        assert_eq!(ids.filter_map(char::from_u32).collect::<String>(), first, "{body}");
        assert_eq!(submission.max_tokens, 200);
    }
}

#[tokio::test]
async fn errors_have_anthropics_shape() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let image = json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]);
    let invalid = "invalid_request_error";
    let cases = [
        (json!({}), 400, invalid, "messages: missing"),
        (with("messages", image), 400, invalid, "messages[0].content[0].type: \"image\" is not supported"),
        (with("max_tokens", json!(0)), 400, invalid, "max_tokens: 0 is out of range"),
        (with("stop_sequences", json!(vec!["x"; 17])), 400, invalid, "stop_sequences: 17 strings"),
        (
            with("tools", json!([{"type": "bash_20250124", "name": "bash"}])),
            400,
            invalid,
            "tools[0].type: \"bash_20250124\" is not run",
        ),
        (with("tools", json!([{"name": "f"}])), 400, invalid, "tools[0].input_schema: missing"),
        (with("tool_choice", json!({"type": "all"})), 400, invalid, "tool_choice.type: expected"),
        (
            with("thinking", json!({"type": "between_tools"})),
            400,
            invalid,
            "thinking.type: \"between_tools\" is not supported",
        ),
        (with("container", json!("c")), 400, invalid, "container: not supported"),
        (with("speed", json!("fast")), 400, invalid, "speed: not supported"),
        (with("n", json!(2)), 400, invalid, "n: no such field"),
        (with("model", json!("claude")), 404, "not_found_error", "no model is called \"claude\""),
        (user(FULL), 429, "rate_limit_error", "the queue is full"),
        (user(LOST), 503, "overloaded_error", "rank 1 is lost"),
        (user(BREAK), 503, "overloaded_error", "rank 1 is lost"),
    ];
    for (body, expected, kind, message) in cases {
        let (status, answer) = client.post(MESSAGES, &body).await;
        let told = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == expected && told.starts_with(message), "{body}: {status} {answer}");
        assert_eq!((&answer["type"], &answer["error"]["type"]), (&json!("error"), &json!(kind)), "{answer}");
    }
    let url = |path: &str| format!("{}{path}", client.base);
    let requests = [
        (client.client.post(url(MESSAGES)).body("{"), 400, "the body is not JSON"),
        (client.client.get(url(COUNT_TOKENS)), 405, "/v1/messages/count_tokens does not take GET"),
        (client.client.post(url("/v1/messages/batches")), 404, "nothing is at /v1/messages/batches"),
        (client.client.post(url(MESSAGES)).json(&user(FULL)), 429, "the queue is full"),
    ];
    for (request, expected, message) in requests {
        let response = request.header("x-request-id", "mine").send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["request-id"]),
            (expected, &"mine".parse().unwrap())
        );
        assert_eq!(response.headers().contains_key("retry-after"), expected == 429);
        let body: Value = response.json().await.unwrap();
        assert!(body["error"]["message"].as_str().unwrap().starts_with(message), "{body}");
        assert_eq!((&body["type"], &body["request_id"]), (&json!("error"), &json!("mine")));
    }
    let mut streamed = user(BREAK);
    streamed["stream"] = json!(true);
    let events = client.stream(MESSAGES, &streamed).await;
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("overloaded_error")));
}
