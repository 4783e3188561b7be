//! Requests that are refused: each answer names the field and the remedy.

use crate::common::*;
use crate::http::{CHAT, COMPLETIONS, Client, add};
use serde_json::{Value, json};

#[tokio::test]
async fn refusals_name_field_and_remedy() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let user = json!([{"role": "user", "content": "x"}]);
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    let cases = [
        (COMPLETIONS, json!({}), 400, "prompt: missing"),
        (COMPLETIONS, json!([]), 400, "the body must be a JSON object"),
        (COMPLETIONS, json!({"prompt": ""}), 400, "prompt: the prompt is empty"),
        (COMPLETIONS, json!({"prompt": []}), 400, "prompt: the list is empty"),
        (COMPLETIONS, json!({"prompt": 5}), 400, "prompt: expected a string or a list of token ids"),
        (COMPLETIONS, json!({"prompt": [1, "x"]}), 400, "prompt: a list of token ids has something else in it"),
        (COMPLETIONS, json!({"prompt": ["x", 1]}), 400, "prompt: prompt 1 is neither"),
        (COMPLETIONS, json!({"prompt": vec!["x"; 65]}), 400, "prompt: 1 answers to 65 prompts, more than 64"),
        (COMPLETIONS, json!({"prompt": [100_000]}), 400, "prompt: token 100000 at index 0 is not in the vocabulary"),
        (
            COMPLETIONS,
            json!({"prompt": "x ".repeat(400)}),
            400,
            "prompt: this model's maximum context length is 512 tokens, and the prompt has 800: shorten it to 511",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "x", "model": "gpt"}),
            404,
            "no model is called \"gpt\" here: this endpoint serves \"tiny\"",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "x", "temperature": "hot"}),
            400,
            "temperature: expected a number, got a string",
        ),
        (COMPLETIONS, json!({"prompt": "x", "temperature": -1}), 400, "temperature: -1 is out of range"),
        (
            COMPLETIONS,
            json!({"prompt": "x", "messages": ["y"]}),
            400,
            "messages: no such field at this endpoint: it belongs to /v1/chat/completions",
        ),
        (COMPLETIONS, json!([1]), 400, "the body must be a JSON object, not a list"),
        (COMPLETIONS, json!({"prompt": "x", "max_tokens": 0}), 400, "max_tokens: 0 is out of range"),
        (COMPLETIONS, json!({"prompt": "x", "n": 65}), 400, "n: 65 is out of range: 1 to 64"),
        (COMPLETIONS, json!({"prompt": ["x", "y"], "n": 33}), 400, "n: 33 answers to 2 prompts, more than 64"),
        (
            COMPLETIONS,
            json!({"prompt": "x", "logit_bias": {"x": 1}}),
            400,
            "logit_bias: \"x\" is no token id: expected an",
        ),
        (COMPLETIONS, json!({"prompt": "x", "logit_bias": {"7": "y"}}), 400, "logit_bias: the bias of token 7 is no"),
        (COMPLETIONS, json!({"prompt": "x", "logit_bias": {"9": 101}}), 400, "logit_bias: 101 for token 9 is out"),
        (COMPLETIONS, json!({"prompt": "x", "min_tokens": 17}), 400, "min_tokens: 17 is more than the 16 tokens"),
        (COMPLETIONS, json!({"prompt": "x", "length_penalty": 2}), 400, "length_penalty: only together with use_beam"),
        (
            COMPLETIONS,
            json!({"prompt": "x", "early_stopping": true}),
            400,
            "early_stopping: only together with use_bea",
        ),
        (COMPLETIONS, json!({"prompt": "x", "early_stopping": "soon"}), 400, "early_stopping: expected true, false or"),
        (
            COMPLETIONS,
            json!({"prompt": "x", "use_beam_search": true, "bad_words": ["y"]}),
            400,
            "use_beam_search: not together with a form of the answer, a required call, bad_words",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "x", "use_beam_search": true, "presence_penalty": 1}),
            400,
            "use_beam_search: not together with presence_penalty",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "x", "use_beam_search": true, "n": 2, "best_of": 3}),
            400,
            "best_of: not together with use_beam_search",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "x", "use_beam_search": true, "logprobs": -1}),
            400,
            "use_beam_search: not together with log-probabilities of all tokens",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "x", "echo": true, "logprobs": -1}),
            400,
            "logprobs: -1 (all) not together with",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": -1}),
            400,
            "logprobs: -1 (all) reports 265 log-probabilities with each token, and the request has no limit of tokens",
        ),
        (COMPLETIONS, json!({"prompt": "x", "prompt_logprobs": 21}), 400, "prompt_logprobs: 21 is out of range"),
        (COMPLETIONS, json!({"prompt": "x", "prompt_logprobs": -1}), 400, "prompt_logprobs: expected a whole number"),
        (
            COMPLETIONS,
            json!({"prompt": "x", "prompt_logprobs": 0, "stream": true}),
            400,
            "prompt_logprobs: not together with stream",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": "x"}], "echo": true}),
            400,
            "echo: only together with continue",
        ),
        (
            COMPLETIONS,
            json!({"prompt": "x", "logprobs": 21}),
            400,
            "logprobs: 21 is out of range: 0 to 20, or -1 (all)",
        ),
        (COMPLETIONS, json!({"prompt": "x", "top_k": -2}), 400, "top_k: out of range"),
        (COMPLETIONS, json!({"prompt": "x", "stream_options": {}}), 400, "stream_options: only together with stream"),
        (
            COMPLETIONS,
            json!({"prompt": [FULL, "x", "y", "z"]}),
            400,
            "prompt: the request asks for 4 answers, and the queue holds 3: send 3 at a time",
        ),
        (COMPLETIONS, json!({"prompt": FULL, "n": 4}), 400, "n: the request asks for 4 answers, and the queue holds 3"),
        (COMPLETIONS, json!({"prompt": FULL}), 429, "the queue is full (3 requests wait): try again in 2 s"),
        (COMPLETIONS, json!({"prompt": LOST}), 503, "rank 1 is lost: try again in 7 s"),
        (CHAT, json!({}), 400, "messages: missing"),
        (CHAT, json!({"messages": []}), 400, "messages: the conversation is empty"),
        (CHAT, json!({"messages": ["x"]}), 400, "messages[0]: expected an object"),
        (CHAT, json!({"messages": [{"content": "x"}]}), 400, "messages[0].role: expected a string"),
        (CHAT, json!({"messages": [{"role": "user"}]}), 400, "messages[0].content: expected a string or a list"),
        (
            CHAT,
            json!({"messages": [{"role": "robot", "content": "x"}]}),
            400,
            "refuses the conversation: unknown role robot",
        ),
        (
            CHAT,
            json!({"messages": image}),
            400,
            "messages[0].content[0].type: \"image_url\" is not supported: send \"text\"",
        ),
        (CHAT, json!({"messages": user, "tools": {}}), 400, "tools: expected a list, got an object"),
        (CHAT, json!({"messages": user, "tools": [{}]}), 400, "tools[0].type: expected \"function\""),
        (CHAT, json!({"messages": user, "tools": [{"type": "function"}]}), 400, "tools[0].function.name: expected"),
        (CHAT, json!({"messages": user, "tools": [add(), add()]}), 400, "tools: two tools are called \"add\""),
        (CHAT, json!({"messages": user, "tool_choice": "required"}), 400, "tool_choice: a call is required, and"),
        (CHAT, json!({"messages": user, "tool_choice": "always"}), 400, "tool_choice: expected \"none\""),
        (
            CHAT,
            json!({"messages": user, "tools": [add()],
                   "tool_choice": {"type": "function", "function": {"name": "sub"}}}),
            400,
            "tool_choice: no tool is called \"sub\"",
        ),
        (
            CHAT,
            json!({"messages": user, "tools": [add()], "tool_choice": "required", "guided_regex": "a"}),
            400,
            "tool_choice: a required call and guided_regex exclude each other",
        ),
        (
            CHAT,
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]}),
            400,
            "messages[0].tool_calls[0].function.arguments: expected an object",
        ),
        (CHAT, json!({"messages": user, "response_format": {"type": "xml"}}), 400, "response_format.type: expected"),
        (
            CHAT,
            json!({"messages": user, "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            400,
            "response_format.json_schema.schema: missing",
        ),
        (CHAT, json!({"messages": user, "guided_json": {"type": "robot"}}), 400, "guided_json: "),
        (CHAT, json!({"messages": user, "guided_json": "{"}), 400, "guided_json: the schema is not JSON"),
        (CHAT, json!({"messages": user, "guided_regex": 5}), 400, "guided_regex: expected a regular expression"),
        (
            CHAT,
            json!({"messages": user, "guided_regex": "a", "guided_choice": ["b"]}),
            400,
            "guided_choice: an answer has one form",
        ),
        (
            CHAT,
            json!({"messages": user, "structured_outputs": {"whitespace_pattern": " "}}),
            400,
            "structured_outputs.whitespace_pattern: not supported: set x-guidance",
        ),
        (COMPLETIONS, json!({"prompt": "x", "guided_regex": "a", "ignore_eos": true}), 400, "ignore_eos: not together"),
        (COMPLETIONS, json!({"prompt": "x", "guided_regex": "a", "min_tokens": 2}), 400, "min_tokens: not together"),
        (CHAT, json!({"messages": user, "top_logprobs": 3}), 400, "top_logprobs: only together with logprobs"),
        (
            CHAT,
            json!({"messages": user, "logprobs": true, "top_logprobs": 21}),
            400,
            "top_logprobs: 21 is out of range",
        ),
    ];
    for (path, body, expected, message) in &cases {
        let (status, answer) = client.post(path, body).await;
        let told = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == *expected && told.contains(message), "{body}: {status} {answer}");
        let param = message.split(':').next().filter(|param| told.starts_with(*param) && !param.contains(' '));
        assert!(param.is_none_or(|param| answer["error"]["param"] == param), "{answer}");
        let code =
            if message.contains("maximum context length") { json!("context_length_exceeded") } else { json!(null) };
        assert!(status != 400 || answer["error"]["code"] == code, "{answer}");
    }
    let invalid = cases.iter().filter(|(_, _, status, _)| matches!(status, 400 | 404)).count();
    let page = client.get("/metrics").await.1;
    assert!(page.contains(&format!("lockstep_requests_total{{outcome=\"invalid\"}} {invalid}\n")), "{invalid}: {page}");
}

#[tokio::test]
async fn malformed_requests_get_json_errors() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let url = |path: &str| format!("{}{path}", client.base);
    let http = &client.client;
    let cases = [
        (http.post(url(COMPLETIONS)).body("{\"prompt\": "), 400, "the body is not JSON: EOF"),
        (http.post(url(COMPLETIONS)).body("[".repeat(100_000)), 400, "the body is not JSON: recursion limit"),
        (http.post(url(COMPLETIONS)).body(vec![b' '; (16 << 20) + 1]), 413, "the body is longer than 16777216 bytes"),
        (http.get(url("/v1/models/")), 200, ""),
        (http.get(url(COMPLETIONS)), 405, "/v1/completions does not take GET"),
        (http.get(url("/nowhere")), 404, "nothing is at /nowhere: try /v1/models"),
        (http.get(url("/v1/models/org/other")), 404, "no model is called \"org/other\""),
    ];
    for (request, status, message) in cases {
        let response = request.header("x-request-id", "mine-1").send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{message}");
        assert_eq!(response.headers()["x-request-id"], "mine-1");
        let body: Value = response.json().await.unwrap();
        assert!(body["error"]["message"].as_str().unwrap_or_default().starts_with(message), "{body}");
    }
    let response = http.post(url(COMPLETIONS)).json(&json!({"prompt": FULL})).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "2");
}
