//! The rule for fields of HTTP requests: what is obeyed, taken, refused, and left out of account.

use serde_json::{Value, json};

use crate::common::*;
use crate::http::{CHAT, COMPLETIONS, Client};

/// Status, body and ignored fields of an answer.
struct Told {
    status: u16,
    body: Value,
    ignored: String,
}

async fn post(client: &Client, path: &str, body: &Value) -> Told {
    let response = client.client.post(format!("{}{path}", client.base)).json(body).send().await.unwrap();
    let ignored = response.headers().get("x-lockstep-ignored").map(|value| value.to_str().unwrap().to_owned());
    Told {
        status: response.status().as_u16(),
        body: response.json().await.unwrap(),
        ignored: ignored.unwrap_or_default(),
    }
}

/// Returns a body with more fields.
fn with(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn chat(more: Value) -> Value {
    with(json!({"messages": [{"role": "user", "content": "hi"}]}), &more)
}

fn completion(more: Value) -> Value {
    with(json!({"prompt": "hi"}), &more)
}

/// Bodies as routers and benchmarks send them, with fields that ask for nothing.
#[tokio::test]
async fn what_asks_for_nothing_changes_nothing() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let router = json!({"stream": false, "max_tokens": 4, "no_stop_trim": false, "ignore_eos": false,
        "continue_final_message": false, "skip_special_tokens": true, "separate_reasoning": true,
        "stream_reasoning": true, "return_hidden_states": false, "include_reasoning": true});
    let neutral = json!({"add_generation_prompt": true, "include_stop_str_in_output": false,
        "spaces_between_special_tokens": true, "use_beam_search": false, "length_penalty": 1.0, "priority": 0,
        "return_token_ids": false, "return_tokens_as_token_ids": false, "typical_p": 1, "dry_multiplier": 0,
        "mirostat": 0, "top_a": 0, "tfs_z": 1, "truncate_sequence": false, "documents": [], "mm_processor_kwargs": {},
        "vllm_xargs": {}, "kv_transfer_params": {}, "web_search_options": {}, "best_of": 1, "echo": false,
        "suffix": null, "n_probs": 0.0});
    for (path, body) in [(CHAT, chat(json!({"logprobs": false}))), (COMPLETIONS, completion(json!({"logprobs": null})))]
    {
        for more in [&router, &neutral] {
            let told = post(&client, path, &with(body.clone(), more)).await;
            assert_eq!((told.status, told.ignored.as_str()), (200, ""), "{path} {}", told.body);
        }
    }
}

#[tokio::test]
async fn numbers_are_those_of_json() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let body = r#"{"prompt": "abcdef", "max_tokens": 2.0, "n": 1e0, "logprobs": 0.0, "seed": 5.0, "top_k": -1.0}"#;
    let response = client.client.post(format!("{}{COMPLETIONS}", client.base)).body(body).send().await.unwrap();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["choices"][0]["text"], "ab", "{answer}");
    let submission = endpoint.seen.lock().unwrap()[0].clone();
    assert_eq!((submission.sampling.seed, submission.sampling.logprobs), (5, Some(0)));
}

#[tokio::test]
async fn what_nobody_knows_is_left_out_of_account_and_named() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let schema = json!({"type": "object", "x-note": 1});
    let wrapped = json!({"name": "n", "schema": schema, "why": 1});
    let cases = [
        (COMPLETIONS, completion(json!({"temprature": 1, "x": null})), "temprature"),
        (COMPLETIONS, completion(json!({"b,c": 1, "a": 2})), "b%2Cc, a"),
        (CHAT, json!({"messages": [{"role": "user", "content": "x", "extra_field": "0"}]}), "messages[].extra_field"),
        (CHAT, json!({"messages": [{"role": "user", "content": "x", "id": "m", "cache_control": {}}]}), ""),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "style": 1}]}]}),
            "messages[].content[].style",
        ),
        (
            CHAT,
            chat(json!({"tools": [{"type": "function", "nick": 1, "function": {"name": "f", "strct": true}}]})),
            "tools[].function.strct, tools[].nick",
        ),
        (
            CHAT,
            chat(json!({"response_format": {"type": "json_schema", "json_schema": wrapped, "mode": 1}})),
            "response_format.json_schema.why, response_format.mode",
        ),
        (CHAT, chat(json!({"structured_outputs": {"yaml": 1, "json_object": true}})), "structured_outputs.yaml"),
    ];
    for (path, body, ignored) in &cases {
        let told = post(&client, path, body).await;
        assert_eq!((told.status, told.ignored.as_str()), (200, *ignored), "{body}: {}", told.body);
    }
    let (_, page) = client.get("/metrics").await;
    assert!(page.contains("lockstep_ignored_fields_total 10\n"), "{page}");

    let strict = start_with(|api| api.with_strict_fields(true)).await;
    let client = Client::new(&strict);
    for (path, body, ignored) in &cases {
        let told = post(&client, path, body).await;
        let named = ignored.split(", ").map(|name| name.split('.').next_back().unwrap().replace("%2C", ","));
        let message = told.body["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(told.status, if ignored.is_empty() { 200 } else { 400 }, "{body}");
        for name in named.filter(|name| !name.is_empty()) {
            assert!(message.contains(&format!("{name}: no such field")), "{name}: {message}");
        }
        assert_eq!(told.ignored, "");
    }
}

#[tokio::test]
async fn one_answer_names_all_faults() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let cases = [
        (
            CHAT,
            chat(
                json!({"stream": true, "stream_options": {"include_usage": "true"}, "temperature": "hot", "audio": 1}),
            ),
            "stream_options.include_usage, temperature, audio",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": 1}, {"role": 2}, {"role": "user", "content": "x", "name": 3}]}),
            "messages[0].content, messages[1].role, messages[2].name",
        ),
        (COMPLETIONS, json!({"suffix": "x", "prompt": 5, "n": "two"}), "suffix, prompt, n"),
        (
            CHAT,
            chat(json!({"response_format": {"type": "text", "json_schema": {"schema": {}}}})),
            "response_format.json_schema",
        ),
        (CHAT, chat(json!({"stream": true, "stream_options": {"include_usage": 1}})), "stream_options.include_usage"),
    ];
    for (path, body, expected) in cases {
        let told = post(&client, path, &body).await;
        let message = told.body["error"]["message"].as_str().unwrap();
        let named: Vec<&str> = message.split("; ").map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!((told.status, named.join(", ").as_str()), (400, expected), "{message}");
        assert_eq!(told.body["error"]["param"], named[0]);
    }
}
