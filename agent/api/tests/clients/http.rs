//! The HTTP endpoint over a socket: what clients get, and what they are told when they err.

use std::time::Duration;

use crate::common::*;
use futures::StreamExt;
use lockstep_proto::v1::ClusterStatus;
use serde_json::{Value, json};

pub(crate) struct Client {
    pub(crate) base: String,
    pub(crate) client: reqwest::Client,
}

impl Client {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        // The client wants one, for connections that it never makes here. Another test may have been first.
        rustls::crypto::ring::default_provider().install_default().ok();
        Self { base: format!("http://{}", endpoint.http), client: reqwest::Client::new() }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.client.post(format!("{}{path}", self.base)).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// The data of a stream's events.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> Vec<String> {
        let response = self.client.post(format!("{}{path}", self.base)).json(body).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await.unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

/// A tool.
pub(crate) fn add() -> Value {
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    json!({"type": "function", "function": {"name": "add", "description": "adds", "parameters": parameters}})
}

pub(crate) const COMPLETIONS: &str = "/v1/completions";
pub(crate) const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn completions_come_whole() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let hello: Vec<u32> = b"abc".iter().map(|byte| u32::from(*byte)).collect();
    let cases = [
        (json!({"prompt": "hello é"}), json!(["hello é"]), "stop"),
        (json!({"model": "tiny", "prompt": "hello STOP me", "stop": "STOP"}), json!(["hello "]), "stop"),
        (json!({"model": "default", "prompt": "abcdef", "max_tokens": 2}), json!(["ab"]), "length"),
        (json!({"prompt": hello, "seed": -1, "user": "u", "n": 1, "suffix": null}), json!(["abc"]), "stop"),
        (json!({"prompt": ["one", "two"]}), json!(["one", "two"]), "stop"),
        (json!({"prompt": [[97], [98, 99]]}), json!(["a", "bc"]), "stop"),
        (json!({"prompt": ["one", "two"], "n": 2}), json!(["one", "one", "two", "two"]), "stop"),
        (json!({"prompt": "xaxb", "stop": "x", "min_tokens": 1}), json!(["xa"]), "stop"),
    ];
    for (body, texts, finish) in cases {
        let (status, answer) = client.post(COMPLETIONS, &body).await;
        assert_eq!(status, 200, "{body}: {answer}");
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.iter().map(|choice| choice["text"].clone()).collect::<Value>(), texts, "{body}");
        assert_eq!(choices[0]["finish_reason"], finish);
        assert_eq!(answer["model"], "tiny");
    }
    assert_eq!(endpoint.seen.lock().unwrap()[0].max_tokens, 16, "OpenAI's default");
}

#[tokio::test]
async fn usage_and_logprobs_are_told() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let (_, answer) = client.post(COMPLETIONS, &json!({"prompt": "hello!", "logprobs": 2})).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    assert_eq!(answer["usage"]["total_tokens"], 4);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["hello", "!"]));
    assert_eq!(logprobs["text_offset"], json!([0, 5]));
    assert_eq!(logprobs["token_logprobs"], json!([-0.5, -0.5]));
    assert_eq!(logprobs["top_logprobs"][0], json!({"hello": -0.5, "x": -1.5}));

    let body = json!({"messages": [{"role": "user", "content": "é"}], "logprobs": true, "top_logprobs": 1});
    let (_, answer) = client.post(CHAT, &body).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let bytes: Vec<Value> = content.iter().skip(1).map(|token| token["bytes"][0].clone()).collect();
    assert_eq!(bytes, [json!(0xC3), json!(0xA9)]);
    assert_eq!(content[1]["top_logprobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_may_begin_with_its_prompt() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let body = json!({"prompt": "hello!", "echo": true, "logprobs": 1, "max_tokens": 1});
    let (_, answer) = client.post(COMPLETIONS, &body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "hello!hello");
    let lists = json!({
        "tokens": ["hello", "!", "hello"],
        "token_logprobs": [null, -0.25, -0.5],
        "top_logprobs": [null, {"!": -0.25, "x": -0.125}, {"hello": -0.5}],
        "text_offset": [0, 5, 6],
    });
    assert_eq!(choice["logprobs"], lists);
    assert_eq!(choice.get("prompt_logprobs"), None);
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let chunks = client.stream(COMPLETIONS, &streamed).await;
    let chunks: Vec<Value> = chunks.iter().filter_map(|chunk| serde_json::from_str(chunk).ok()).collect();
    assert_eq!((&chunks[0]["choices"][0]["text"], &chunks[0]["choices"][0]["logprobs"]), (&choice["text"], &lists));

    let hello: Vec<u32> = b"abc".iter().map(|byte| u32::from(*byte)).collect();
    let cases = [
        (json!({"prompt": "hello!", "max_tokens": 0}), json!(["hello!"]), 0),
        (json!({"prompt": hello, "max_tokens": 0, "logprobs": 0}), json!(["abc"]), 0),
        (json!({"prompt": ["one", hello], "max_tokens": 2}), json!(["oneon", "abcab"]), 4),
        (json!({"prompt": "ab", "n": 2, "max_tokens": 1}), json!(["aba", "aba"]), 2),
    ];
    for (mut body, texts, completion_tokens) in cases {
        body["echo"] = json!(true);
        let (_, answer) = client.post(COMPLETIONS, &body).await;
        let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{body}: {answer}"));
        assert_eq!(choices.iter().map(|choice| choice["text"].clone()).collect::<Value>(), texts, "{body}");
        assert_eq!(choices[0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], completion_tokens, "{body}");
    }
}

#[tokio::test]
async fn log_probabilities_of_prompts_are_objects_by_token() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let entry =
        |logprob: f32, rank: u32, token: &str| json!({"logprob": logprob, "rank": rank, "decoded_token": token});
    let body = json!({"prompt": "ab", "prompt_logprobs": 1, "max_tokens": 0});
    let (_, answer) = client.post(COMPLETIONS, &body).await;
    let expected = json!([null, {"98": entry(-0.25, 2, "b"), "120": entry(-0.125, 1, "x")}]);
    assert_eq!(answer["choices"][0]["prompt_logprobs"], expected);
    assert_eq!((&answer["choices"][0]["text"], &answer["choices"][0]["logprobs"]), (&json!(""), &Value::Null));
    let body = json!({"prompt": "ab", "prompt_logprobs": 1, "echo": true, "logprobs": 0, "max_tokens": 0});
    let (_, answer) = client.post(COMPLETIONS, &body).await;
    assert_eq!(answer["choices"][0]["prompt_logprobs"], expected);
    assert_eq!(answer["choices"][0]["logprobs"]["top_logprobs"], json!([null, {"b": -0.25}]));

    let body = json!({"messages": [{"role": "user", "content": "é"}], "prompt_logprobs": 0, "max_tokens": 0});
    let (_, answer) = client.post(CHAT, &body).await;
    let list = answer["prompt_logprobs"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!((list.len() as u64, &list[0]), (answer["usage"]["prompt_tokens"].as_u64().unwrap(), &Value::Null));
    assert_eq!(list.last().unwrap()["169"]["rank"], 2);
}

#[tokio::test]
async fn forms_reach_the_head() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let wrapped = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
    let forms = [
        (json!({"response_format": wrapped}), "{"),
        (json!({"response_format": {"type": "json_object"}}), "{"),
        (json!({"response_format": {"type": "text"}}), ""),
        (json!({"guided_json": schema.to_string()}), "{"),
        (json!({"guided_regex": "xy?"}), "x"),
        (json!({"guided_choice": ["yes", "yet"]}), "y"),
        (json!({"structured_outputs": {"grammar": "start: \"z\"", "json": null}}), "z"),
        (json!({"structured_outputs": {"json_object": true, "disable_fallback": false}}), "{"),
    ];
    for (form, first) in forms {
        let mut body = form.clone();
        body["messages"] = json!([{"role": "user", "content": "x"}]);
        let (status, answer) = client.post(CHAT, &body).await;
        assert_eq!(status, 200, "{form}: {answer}");
        let mut submission = endpoint.seen.lock().unwrap().pop().unwrap();
        let allowed = submission.guide.as_mut().and_then(|guide| guide.allowed().unwrap());
        let ids = (0..128).filter(|id| allowed.as_ref().is_some_and(|allowed| allowed.contains(*id)));
        let text: String = ids.filter_map(char::from_u32).collect();
        assert_eq!(text, first, "{form}");
    }
}

#[tokio::test]
async fn calls_and_reasoning_are_fields_of_their_own() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let text = "<think>hm</think>ok <tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
    let mut body = json!({"messages": [{"role": "user", "content": text}], "tools": [add()]});
    let (status, answer) = client.post(CHAT, &body).await;
    assert_eq!(status, 200, "{answer}");
    let (choice, message) = (&answer["choices"][0], &answer["choices"][0]["message"]);
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("ok"), &json!("hm")));
    assert_eq!(message["tool_calls"][0]["function"], json!({"name": "add", "arguments": "{\"a\": 1}"}));
    assert_eq!(
        (&message["tool_calls"][0]["type"], &choice["finish_reason"]),
        (&json!("function"), &json!("tool_calls"))
    );

    body["stream"] = json!(true);
    let events = client.stream(CHAT, &body).await;
    let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let deltas: Vec<Value> = chunks.map(|chunk| chunk["choices"][0]["delta"].clone()).collect();
    let joined = |path: &str| deltas.iter().filter_map(|delta| delta.pointer(path)?.as_str()).collect::<String>();
    assert_eq!((joined("/content"), joined("/reasoning_content")), ("ok".into(), "hm".into()));
    assert_eq!(joined("/tool_calls/0/function/name"), "add");
    assert_eq!(joined("/tool_calls/0/function/arguments"), "{\"a\": 1}");
    assert_eq!(joined("/tool_calls/0/id").len(), 9);

    for plain in [json!({"tool_choice": "none", "tools": [add()]}), json!({})] {
        let mut body = plain;
        body["messages"] = json!([{"role": "user", "content": "<tool_call>{}"}]);
        let (_, answer) = client.post(CHAT, &body).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "<tool_call>{}");
    }
}

#[tokio::test]
async fn a_required_call_is_forced_and_calls_are_rendered() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let call = json!({"id": "c", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}});
    let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls": [call]},
                          {"role": "tool", "tool_call_id": "c", "content": "2"}]);
    let named = json!({"type": "function", "function": {"name": "add"}});
    for choice in [json!("required"), named] {
        let body = json!({"messages": messages, "tools": [add()], "tool_choice": choice});
        let (status, answer) = client.post(CHAT, &body).await;
        assert_eq!(status, 200, "{answer}");
        let mut submission = endpoint.seen.lock().unwrap().pop().unwrap();
        let allowed = submission.guide.as_mut().unwrap().allowed().unwrap().unwrap();
        let first: Vec<u32> = (0..BYTE_LEVEL_VOCAB).filter(|id| allowed.contains(*id)).collect();
        assert_eq!(first, [u32::from(b'<')]);
    }
}

#[tokio::test]
async fn chats_are_rendered() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]);
    let body = json!({"messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}],
                      "max_completion_tokens": 30, "temperature": 0.5, "tools": []});
    let (status, answer) = client.post(CHAT, &body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(answer["choices"][0]["message"]["content"], "be briefone\ntwo");
    let submission = endpoint.seen.lock().unwrap()[0].clone();
    assert_eq!((submission.max_tokens, submission.sampling.temperature), (30, 0.5));
}

#[tokio::test]
async fn several_conversations_are_answered_in_their_order() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let ask = |text: &str| json!([{"role": "user", "content": text}]);
    let contents = |answer: &Value| -> Vec<Value> {
        let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
        choices.iter().map(|choice| choice["message"]["content"].clone()).collect()
    };
    let mut alone = Vec::new();
    for text in ["one", "three"] {
        alone.extend(contents(&client.post(CHAT, &json!({"messages": ask(text), "n": 2})).await.1));
    }
    let batch = format!("{CHAT}/batch");
    let (status, answer) = client.post(&batch, &json!({"messages": [ask("one"), ask("three")], "n": 2})).await;
    assert_eq!((status, contents(&answer)), (200, alone), "{answer}");
    for (messages, more, param) in [
        (json!([]), json!({}), "messages"),
        (ask("one"), json!({}), "messages"),
        (json!([ask("one"), [{"role": 1}]]), json!({}), "messages[1][0].role"),
        (json!([ask("one"), []]), json!({}), "messages"),
        (json!([ask("one"), ask("two")]), json!({"seed": 1u64 << 63}), "seed"),
        (json!([ask("one"), ask("two")]), json!({"n": 33}), "n"),
    ] {
        let mut body = json!({"messages": messages});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = client.post(&batch, &body).await;
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{body}: {answer}");
    }
}

#[tokio::test]
async fn streams_end_with_done() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let body = json!({"prompt": ["hello wörld", "two"], "stream": true, "stream_options": {"include_usage": true}});
    let mut events = client.stream(COMPLETIONS, &body).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(7 + 3)));
    for (index, text) in ["hello wörld", "two"].iter().enumerate() {
        let choices = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index);
        let told: String = choices.clone().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(&told, text);
        assert_eq!(choices.filter(|choice| choice["finish_reason"] == "stop").count(), 1);
    }
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null()));

    let body = json!({"messages": [{"role": "user", "content": "hi"}], "stream": true});
    let events = client.stream(CHAT, &body).await;
    let first: Value = serde_json::from_str(&events[0]).unwrap();
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(first["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let chunks = events[1..events.len() - 1].iter().map(|event| serde_json::from_str::<Value>(event).unwrap());
    let told: String = chunks.filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
    assert_eq!((told.as_str(), events.last().unwrap().as_str()), ("hi", "[DONE]"));
}

#[tokio::test]
async fn a_broken_stream_ends_with_its_error() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let cases = [
        (BREAK, "rank 1 is lost: try again in 7 s", 503, "unavailable"),
        (DRAIN, "shutting down", 503, "unavailable"),
        (UNREAD, "read too slowly: 4096 tokens waited", 408, "slow_reader"),
    ];
    for (prompt, message, status, code) in cases {
        let events = client.stream(COMPLETIONS, &json!({"prompt": prompt, "stream": true})).await;
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert!(last["error"]["message"].as_str().unwrap().contains(message), "{last}");
        let answer = client.post(COMPLETIONS, &json!({"prompt": prompt})).await;
        assert_eq!((answer.0, &answer.1["error"]["code"]), (status, &json!(code)));
    }
    let page = client.get("/metrics").await.1;
    assert!(page.contains("lockstep_requests_total{outcome=\"slow_reader\"} 2"), "{page}");
}

#[tokio::test]
async fn small_endpoints_answer() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let user = json!([{"role": "user", "content": "hello!"}]);
    let told = |tokens: Value, pieces: Value| {
        let count = tokens.as_array().unwrap().len();
        json!({"count": count, "max_model_len": CONTEXT, "tokens": tokens, "token_strs": pieces})
    };
    let cases = [
        ("/tokenize", json!({"prompt": "hello wo"}), 200, told(json!([259, 261]), json!(null))),
        (
            "/tokenize/",
            json!({"model": "tiny", "prompt": "hello wo", "return_token_strs": true, "add_special_tokens": false}),
            200,
            told(json!([259, 261]), json!(["hello", "Ġwo"])),
        ),
        (
            "/tokenize",
            json!({"messages": user, "return_token_strs": true, "add_generation_prompt": true}),
            200,
            told(json!([264, 259, 33]), json!(["<|user|>", "hello", "!"])),
        ),
        ("/tokenize", json!({}), 400, json!("prompt: missing")),
        ("/tokenize", json!({"prompt": 5}), 400, json!("prompt: expected a string")),
        ("/tokenize", json!({"prompt": "x", "model": "gpt"}), 404, json!("no model is called")),
        ("/tokenize", json!({"prompt": "x", "n": 2}), 400, json!("n: no such field")),
        (
            "/tokenize",
            json!({"messages": user, "add_generation_prompt": true, "continue_final_message": true}),
            400,
            json!("continue_final_message: not together"),
        ),
        ("/detokenize", json!({"tokens": [264, 259, 33]}), 200, json!({"prompt": "<|user|>hello!"})),
        ("/detokenize", json!({"tokens": []}), 200, json!({"prompt": ""})),
        ("/detokenize", json!({"tokens": [9999]}), 400, json!("tokens: token 9999 at index 0")),
        ("/detokenize", json!({}), 400, json!("tokens: missing")),
        ("/invocations", json!({}), 400, json!("messages: missing: send messages, or prompt")),
    ];
    for (path, body, expected, answer) in cases {
        let (status, got) = client.post(path, &body).await;
        assert_eq!(status, expected, "{path} {body}: {got}");
        match answer.as_str() {
            Some(message) => assert!(got["error"]["message"].as_str().unwrap().starts_with(message), "{got}"),
            None => assert_eq!(got, answer, "{path} {body}"),
        }
    }
    for (body, object) in [(json!({"messages": user}), "chat.completion"), (json!({"prompt": "x"}), "text_completion")]
    {
        assert_eq!(client.post("/invocations", &body).await.1["object"], object);
    }
    endpoint.status.send_replace(ClusterStatus { running: 2, waiting: 3, ..serving() });
    let get = async |path: &str| serde_json::from_str::<Value>(&client.get(path).await.1).unwrap();
    assert_eq!(get("/load").await["server_load"], 5);
    assert_eq!(get("/version").await["version"], env!("CARGO_PKG_VERSION"));
    let info = get("/server_info").await;
    assert_eq!((&info["model"]["name"], &info["max_model_len"]), (&json!("tiny"), &json!(CONTEXT)));
    assert_eq!(client.get("/ping").await, (200, String::new()));
    assert_eq!(client.client.post(format!("{}/ping", client.base)).send().await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_stream_begins_with_its_first_token() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let chat = |prompt: &str| json!({"messages": [{"role": "user", "content": prompt}], "stream": true, "n": 2});
    for (path, body) in [(COMPLETIONS, json!({"prompt": EARLY, "stream": true})), (CHAT, chat(EARLY))] {
        let (status, answer) = client.post(path, &body).await;
        assert_eq!((status, &answer["error"]["code"]), (503, &json!("unavailable")), "{answer}");
    }
    let late = async {
        let response = client.client.post(format!("{}{CHAT}", client.base)).json(&chat(LATE)).send().await.unwrap();
        response.text().await.unwrap()
    };
    let hi = chat("hi");
    let (late, events) = tokio::join!(late, client.stream(CHAT, &hi));
    assert!(late.starts_with(": waiting\n"), "a long wait is a stream with comments: {late}");
    assert!(late.ends_with("data: [DONE]\n\n"));
    let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    for index in 0..2 {
        let own = chunks.clone().map(|chunk| chunk["choices"][0].clone()).filter(|choice| choice["index"] == index);
        let deltas: Vec<Value> = own.map(|choice| choice["delta"].clone()).collect();
        assert_eq!(deltas[0], json!({"role": "assistant", "content": ""}));
        assert!(deltas.iter().skip(1).all(|delta| delta["role"].is_null() && delta["content"].is_string()));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels() {
    let mut endpoint = start().await;
    let client = Client::new(&endpoint);
    for stream in [true, false] {
        let body = json!({"prompt": SLOW, "stream": stream, "max_tokens": 100_000});
        let request = client.client.post(format!("{}{COMPLETIONS}", client.base)).header("x-request-id", "gone");
        let request = request.json(&body).send();
        if stream {
            let mut bytes = request.await.unwrap().bytes_stream();
            assert!(bytes.next().await.unwrap().is_ok());
        } else {
            let taken = async {
                while endpoint.seen.lock().unwrap().len() < 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                answer = request => panic!("{answer:?}, which takes longer than to take the request"),
                () = taken => {}
            }
        }
        assert_eq!(endpoint.cancelled.recv().await.as_deref(), Some("gone"));
    }
    let (_, page) = client.get("/metrics").await;
    assert!(page.contains("lockstep_requests_total{outcome=\"cancelled\"} 2"), "{page}");
}

#[tokio::test]
async fn a_stop_string_cancels_the_rest() {
    let mut endpoint = start().await;
    let client = Client::new(&endpoint);
    let body = json!({"prompt": SLOW, "stop": ["ow"], "max_tokens": 100_000});
    let (_, answer) = client.post(COMPLETIONS, &body).await;
    assert_eq!(answer["choices"][0]["text"], "sl");
    assert!(endpoint.cancelled.recv().await.is_some());
}
