//! `/v1/responses` over a socket. The head answers a prompt with the prompt itself.

use serde_json::{Value, json};

use crate::common::*;
use crate::http::Client;

const RESPONSES: &str = "/v1/responses";

/// An answer with reasoning, content and a call.
const SAID: &str = "<think>hm</think>ok <tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";

/// A tool.
fn add() -> Value {
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    json!({"type": "function", "name": "add", "description": "adds", "parameters": parameters, "strict": true})
}

/// Names of the events of a stream, and the events.
async fn events(client: &Client, body: &Value) -> (Vec<String>, Vec<Value>) {
    let events = client.stream(RESPONSES, body).await;
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], at);
    }
    let name = |event: &Value| event["type"].as_str().unwrap().trim_start_matches("response.").to_owned();
    (events.iter().map(name).collect(), events)
}

#[tokio::test]
async fn a_response_has_items() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let body = json!({"input": SAID, "tools": [add()], "temperature": 0.7, "metadata": {"k": "v"}, "store": true});
    let (status, answer) = client.post(RESPONSES, &body).await;
    assert_eq!(status, 200, "{answer}");
    let told = ["object", "status", "store", "temperature", "metadata", "tools", "tool_choice", "error", "model"];
    let expected = json!(["response", "completed", false, 0.7, {"k": "v"}, [add()], "auto", null, "tiny"]);
    assert_eq!(told.iter().map(|name| answer[*name].clone()).collect::<Value>(), expected);
    let output = answer["output"].as_array().unwrap();
    assert_eq!(output[0]["content"], json!([{"type": "reasoning_text", "text": "hm"}]));
    assert_eq!(output[1]["content"], json!([{"type": "output_text", "text": "ok", "annotations": [], "logprobs": []}]));
    let call = &output[2];
    let expected = json!(["function_call", "completed", "add", "{\"a\": 1}"]);
    assert_eq!(json!([call["type"], call["status"], call["name"], call["arguments"]]), expected);
    assert_eq!((output.len(), call["call_id"].as_str().unwrap().len()), (3, 9));
    let usage = &answer["usage"];
    assert!(usage["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 2, "{usage}");
    assert_eq!(usage["input_tokens_details"]["cached_tokens"], 2);

    let cut = json!({"input": "hello", "max_output_tokens": 1});
    let (_, answer) = client.post(RESPONSES, &cut).await;
    assert_eq!(
        (&answer["status"], &answer["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );

    let logprobs = json!({"input": "hello!", "top_logprobs": 1, "include": ["message.output_text.logprobs"]});
    let (_, answer) = client.post(RESPONSES, &logprobs).await;
    let told = answer["output"][0]["content"][0]["logprobs"].as_array().unwrap();
    assert_eq!(
        (told.len(), &told[1]["token"], &told[1]["top_logprobs"][0]["logprob"]),
        (3, &json!("hello"), &json!(-0.5))
    );
}

#[tokio::test]
async fn a_streamed_response_equals_the_whole_one() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let stable = |response: &Value| {
        let mut response = response.clone();
        for name in ["id", "created_at", "completed_at"] {
            response[name] = Value::Null;
        }
        for item in response["output"].as_array_mut().unwrap() {
            (item["id"], item["call_id"]) = (Value::Null, Value::Null);
        }
        response
    };
    for summary in [json!(null), json!("auto")] {
        let mut body = json!({"input": SAID, "tools": [add()], "top_logprobs": 1, "reasoning": {"summary": summary}});
        let (_, whole) = client.post(RESPONSES, &body).await;
        body["stream"] = json!(true);
        let (mut names, events) = events(&client, &body).await;
        let last = events.last().unwrap();
        assert_eq!(stable(&last["response"]), stable(&whole));
        names.dedup();
        let reasoning = if summary.is_null() {
            ("content_part", "reasoning_text")
        } else {
            ("reasoning_summary_part", "reasoning_summary_text")
        };
        let expected = format!(
            "created in_progress output_item.added {0}.added {1}.delta {1}.done {0}.done output_item.done \
             output_item.added content_part.added output_text.delta output_text.done content_part.done output_item.done \
             output_item.added function_call_arguments.delta function_call_arguments.done output_item.done completed",
            reasoning.0, reasoning.1
        );
        assert_eq!(names.join(" "), expected);
        for (name, joined) in [("output_text", "ok"), (reasoning.1, "hm"), ("function_call_arguments", "{\"a\": 1}")] {
            let deltas = events.iter().filter(|event| event["type"] == format!("response.{name}.delta"));
            assert_eq!(deltas.map(|event| event["delta"].as_str().unwrap()).collect::<String>(), joined);
        }
        let items = events.iter().filter(|event| event["type"] == "response.output_item.done");
        assert_eq!(items.map(|event| event["item"].clone()).collect::<Value>(), last["response"]["output"]);
    }
    let (names, events) = events(&client, &json!({"input": "hello!", "max_output_tokens": 2, "stream": true})).await;
    assert_eq!(names.last().unwrap(), "incomplete");
    assert_eq!(events.last().unwrap()["response"]["output"][0]["status"], "incomplete");
}

#[tokio::test]
async fn a_broken_response_fails() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    for (prompt, message) in [(BREAK, "rank 1 is lost: try again in 7 s"), (DRAIN, "shutting down")] {
        let (names, events) = events(&client, &json!({"input": prompt, "stream": true})).await;
        let (first, last) = (&names[0], events.last().unwrap());
        assert_eq!((first.as_str(), &last["response"]["status"]), ("created", &json!("failed")));
        assert!(last["response"]["error"]["message"].as_str().unwrap().contains(message), "{last}");
        let (status, body) = client.post(RESPONSES, &json!({"input": prompt})).await;
        assert_eq!((status, &body["error"]["code"]), (503, &json!("unavailable")));
    }
    for stream in [false, true] {
        let (status, _) = client.post(RESPONSES, &json!({"input": FULL, "stream": stream})).await;
        assert_eq!(status, 429);
    }
}

#[tokio::test]
async fn requests_reach_the_head() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let input =
        json!([{"role": "user", "content": "a"}, {"type": "function_call_output", "call_id": "c", "output": "b"}]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let form = |format: Value| json!({"input": "x", "text": {"format": format, "verbosity": "medium"}});
    let two = json!([add(), {"type": "function", "name": "sub"}]);
    let allowed = json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "sub"}]});
    // The request, the prompt without its marks, and the characters with which the answer may begin.
    let cases = [
        (json!({"input": input, "instructions": "be brief"}), "be briefab", ""),
        (
            json!({"input": "x", "reasoning": {"effort": "low"}, "stream_options": {"include_obfuscation": false}, "stream": true}),
            "x",
            "",
        ),
        (form(json!({"type": "json_schema", "name": "n", "schema": schema, "strict": true})), "x", "{"),
        (form(json!({"type": "json_object"})), "x", "{"),
        (form(json!({"type": "text"})), "x", ""),
        (json!({"input": "x", "tools": [add()], "tool_choice": "required"}), "x", "<"),
        (json!({"input": "x", "tools": [add()], "tool_choice": {"type": "function", "name": "add"}}), "x", "<"),
        (json!({"input": "x", "tools": two, "tool_choice": allowed, "parallel_tool_calls": false}), "x", "<"),
    ];
    for (body, prompt, first) in cases {
        let response = client.client.post(format!("{}{RESPONSES}", client.base)).json(&body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{body}: {}", response.text().await.unwrap());
        let mut submission = endpoint.seen.lock().unwrap().pop().unwrap();
        let bytes = submission.prompt.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
        assert!(String::from_utf8(bytes).unwrap().ends_with(prompt.trim_start_matches("be ")), "{body}");
        let allowed = submission.guide.as_mut().and_then(|guide| guide.allowed().unwrap());
        let ids = (0..128).filter(|id| allowed.as_ref().is_some_and(|allowed| allowed.contains(*id)));
        assert_eq!(ids.filter_map(char::from_u32).collect::<String>(), first, "{body}");
    }
    let (status, counted) = client.post("/v1/responses/input_tokens", &json!({"input": "hello!"})).await;
    assert_eq!((status, counted), (200, json!({"object": "response.input_tokens", "input_tokens": 3})));
}

#[tokio::test]
async fn refusals_name_field_and_remedy() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let with = |name: &str, value: Value| {
        let mut body = json!({"input": "x"});
        body[name] = value;
        body
    };
    let stored = "nothing is stored here: send the items of the conversation in input";
    let cases = [
        (json!({}), 400, "input: missing".to_owned()),
        (json!({"input": []}), 400, "input: the conversation is empty".into()),
        (json!({"input": "x ".repeat(400)}), 400, "input: this model's maximum context length is".into()),
        (
            json!({"input": [{"type": "computer_call"}]}),
            400,
            "input[0].type: \"computer_call\" is not supported".into(),
        ),
        (with("previous_response_id", json!("resp_1")), 400, format!("previous_response_id: not supported: {stored}")),
        (with("conversation", json!({"id": "c"})), 400, format!("conversation: not supported: {stored}")),
        (with("background", json!(true)), 400, "background: not supported: wait for the answer".into()),
        (with("truncation", json!("auto")), 400, "truncation: not supported".into()),
        (with("max_output_tokens", json!(0)), 400, "max_output_tokens: 0 is out of range".into()),
        (with("top_logprobs", json!(21)), 400, "top_logprobs: 21 is out of range: 0 to 20, or -1 (all)".into()),
        (with("include", json!(["x"])), 400, "include: \"x\" is not known".into()),
        (with("reasoning", json!({"effort": "huge"})), 400, "reasoning.effort: \"huge\" is no effort".into()),
        (with("reasoning", json!({"summary": "long"})), 400, "reasoning.summary: expected \"auto\"".into()),
        (with("text", json!({"verbosity": "low"})), 400, "text.verbosity: not supported: ask for it".into()),
        (with("text", json!({"format": {"type": "xml"}})), 400, "text.format.type: expected \"text\"".into()),
        (with("text", json!({"format": {"type": "json_schema"}})), 400, "text.format.schema: missing".into()),
        (with("text", json!({"format": {"type": "json_schema", "schema": {"type": "robot"}}})), 400, "text: ".into()),
        (with("tools", json!([{"type": "web_search"}])), 400, "tools[0].type: \"web_search\" is not run".into()),
        (with("tools", json!([{"type": "function"}])), 400, "tools[0].name: missing".into()),
        (with("tool_choice", json!("add")), 400, "tool_choice: expected \"none\"".into()),
        (
            with("tool_choice", json!({"type": "function", "name": "f"})),
            400,
            "tool_choice: no tool is called \"f\"".into(),
        ),
        (with("n", json!(2)), 400, "n: no such field".into()),
        (with("model", json!("gpt")), 404, "no model is called \"gpt\"".into()),
    ];
    for (body, expected, message) in cases {
        let (status, answer) = client.post(RESPONSES, &body).await;
        let told = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == expected && told.starts_with(&message), "{body}: {status} {answer}");
        let param = message.split(':').next().filter(|param| !param.contains(' '));
        assert!(param.is_none_or(|param| answer["error"]["param"] == param), "{answer}");
    }
    for neutral in
        [("background", json!(false)), ("truncation", json!("disabled")), ("previous_response_id", json!(null))]
    {
        assert_eq!(client.post(RESPONSES, &with(neutral.0, neutral.1)).await.0, 200, "{}", neutral.0);
    }
    let (status, body) = client.get("/v1/responses/resp_1").await;
    assert!(status == 404 && body.contains("this server stores no responses"), "{body}");
}
