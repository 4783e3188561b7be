//! The rule for fields of HTTP requests: what is obeyed, taken, refused, and left out of account.

use serde_json::{Value, json};

use crate::common::*;
use crate::http::{CHAT, COMPLETIONS, Client};

/// Status, body and ignored fields of an answer.
pub(crate) struct Told {
    status: u16,
    pub body: Value,
    ignored: String,
}

pub(crate) async fn post(client: &Client, path: &str, body: &Value) -> Told {
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
                json!({"stream": true, "stream_options": {"include_usage": "perhaps"}, "temperature": "hot", "audio": 1}),
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

/// Ends of answers, and what the client sees of them.
#[tokio::test]
async fn the_stop_is_told() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let cases = [
        (json!({"prompt": "hello STOP me", "stop": "STOP"}), "hello ", json!("STOP")),
        (
            json!({"prompt": "hello STOP me", "stop": "STOP", "include_stop_str_in_output": true}),
            "hello STOP",
            json!("STOP"),
        ),
        (json!({"prompt": "hello STOP me", "stop": "STOP", "no_stop_trim": true}), "hello STOP", json!("STOP")),
        (json!({"prompt": "xby", "stop_token_ids": [98]}), "x", json!(98)),
        (json!({"prompt": "xby", "stop_token_ids": [98], "include_stop_str_in_output": true}), "xb", json!(98)),
        (json!({"prompt": "xy<|end|>"}), "xy", json!(null)),
        (json!({"prompt": "xy<|end|>", "skip_special_tokens": false}), "xy<|end|>", json!(null)),
        (json!({"prompt": "xy<|user|>z", "stop": "<|user|>"}), "xy", json!("<|user|>")),
        (json!({"prompt": "xy<|user|>z", "skip_special_tokens": false}), "xy<|user|>z", json!(null)),
        (json!({"prompt": "xyz", "max_tokens": 2}), "xy", json!(null)),
    ];
    for (body, text, reason) in cases {
        let told = post(&client, COMPLETIONS, &body).await;
        let choice = &told.body["choices"][0];
        assert_eq!((&choice["text"], &choice["stop_reason"]), (&json!(text), &reason), "{body}: {}", told.body);
        assert!(told.body["system_fingerprint"].as_str().unwrap().starts_with("lockstep-"));
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        let chunks = chunks(&client, COMPLETIONS, &streamed).await;
        let joined: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
        let last = &chunks.last().unwrap()["choices"][0];
        assert_eq!((joined.as_str(), &last["stop_reason"]), (text, &reason), "{streamed}");
    }
}

pub(crate) async fn chunks(client: &Client, path: &str, body: &Value) -> Vec<Value> {
    let events = client.stream(path, body).await;
    events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect()
}

#[tokio::test]
async fn tokens_are_shown_as_asked() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let body = json!({"prompt": "a日<|end|>", "logprobs": 0, "return_token_ids": true});
    let choice = post(&client, COMPLETIONS, &body).await.body["choices"][0].clone();
    let ids = json!([97, 0xE6, 0x97, 0xA5, END]);
    assert_eq!((&choice["token_ids"], &choice["prompt_token_ids"]), (&ids, &ids));
    assert_eq!(choice["logprobs"]["tokens"], json!(["a", "bytes:\\xe6", "bytes:\\x97", "bytes:\\xa5"]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 1, 1]));
    assert_eq!(choice["logprobs"]["top_logprobs"][1], json!({"bytes:\\xe6": -0.5}));

    let by_id = json!({"prompt": "ab", "logprobs": 1, "return_tokens_as_token_ids": true});
    let choice = post(&client, COMPLETIONS, &by_id).await.body["choices"][0].clone();
    assert_eq!(choice["logprobs"]["tokens"], json!(["token_id:97", "token_id:98"]));
    assert_eq!(choice["logprobs"]["top_logprobs"][1], json!({"token_id:98": -0.5}));

    let asked = json!({"return_token_ids": true, "return_tokens_as_token_ids": true, "logprobs": true});
    let answer = post(&client, CHAT, &chat(asked.clone())).await.body;
    assert_eq!(answer["choices"][0]["token_ids"], answer["prompt_token_ids"]);
    assert_eq!(answer["choices"][0]["logprobs"]["content"][1]["token"], "token_id:104");
    let chunks = chunks(&client, CHAT, &with(chat(asked), &json!({"stream": true}))).await;
    assert_eq!(chunks[0]["prompt_token_ids"], answer["prompt_token_ids"]);
    let ids = chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).flatten().cloned();
    assert_eq!(ids.collect::<Value>(), answer["prompt_token_ids"]);
}

#[tokio::test]
async fn usage_comes_with_each_chunk_if_asked() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    for (path, body) in [(COMPLETIONS, completion(json!({}))), (CHAT, chat(json!({})))] {
        for (options, each, last) in [
            (json!({"include_usage": true, "continuous_usage_stats": true}), true, true),
            (json!({"include_usage": true}), false, true),
            (json!({"continuous_usage_stats": true}), false, false),
        ] {
            let chunks =
                chunks(&client, path, &with(body.clone(), &json!({"stream": true, "stream_options": options}))).await;
            let (told, rest): (Vec<&Value>, Vec<&Value>) = chunks.iter().partition(|chunk| chunk["usage"].is_object());
            assert_eq!(told.len(), if each { chunks.len() } else { usize::from(last) }, "{path} {options} {rest:?}");
            let counts: Vec<u64> = told.iter().map(|c| c["usage"]["completion_tokens"].as_u64().unwrap()).collect();
            assert!(counts.is_sorted() && chunks.last().unwrap()["choices"].as_array().unwrap().is_empty() == last);
        }
    }
}

#[tokio::test]
async fn the_most_likely_answers_come_back() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let body = json!({"prompt": ["a", "bb"], "n": 2, "best_of": 3, "logprobs": 0});
    let answer = post(&client, COMPLETIONS, &body).await.body;
    let choices = answer["choices"].as_array().unwrap();
    let told: Vec<(&Value, &Value)> =
        choices.iter().map(|choice| (&choice["text"], &choice["logprobs"]["token_logprobs"][0])).collect();
    let (a, b, high, low) = (json!("a"), json!("bb"), json!(-0.25), json!(-0.5));
    assert_eq!(told, [(&a, &high), (&a, &low), (&b, &high), (&b, &low)]);
    assert_eq!(answer["usage"]["completion_tokens"], 3 + 6);
    assert!(choices[0]["index"] == 0 && choices[3]["index"] == 3);
    for (more, fault) in [
        (json!({"best_of": 1, "n": 2}), "best_of: 1 is less than n, which is 2"),
        (json!({"best_of": 65}), "best_of: 65 is out of range: 1 to 64"),
        (json!({"best_of": 2, "stream": true}), "best_of: not together with stream"),
    ] {
        let told = post(&client, COMPLETIONS, &completion(more)).await;
        assert!(told.body["error"]["message"].as_str().unwrap().starts_with(fault), "{}", told.body);
    }
    let plain = post(&client, COMPLETIONS, &completion(json!({"best_of": 2}))).await.body;
    assert!(plain["choices"][0]["logprobs"].is_null(), "{plain}");
}

#[tokio::test]
async fn prompts_and_tokens_are_bounded_as_asked() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let ids = json!([97, 98, 99, 100, 101, 102, 103, 104]);
    for (more, expected) in [
        (json!({"truncate_prompt_tokens": 3}), vec![102, 103, 104]),
        (json!({"truncate_prompt_tokens": 3, "truncation_side": "right"}), vec![97, 98, 99]),
        (json!({"truncate": 1}), vec![104]),
        (json!({"truncate_prompt_tokens": -1}), (97..105).collect()),
        (json!({"truncate_sequence": true}), (97..105).collect()),
    ] {
        let told = post(&client, COMPLETIONS, &with(json!({"prompt": ids}), &more)).await;
        assert_eq!(told.status, 200, "{}", told.body);
        assert_eq!(endpoint.seen.lock().unwrap().pop().unwrap().prompt, expected, "{more}");
    }
    let long = json!({"prompt": vec![97; 900], "truncate_prompt_tokens": -1, "max_tokens": 12});
    assert_eq!(post(&client, COMPLETIONS, &long).await.status, 200);
    assert_eq!(endpoint.seen.lock().unwrap().pop().unwrap().prompt.len(), CONTEXT as usize - 12);

    for (more, first) in [
        (json!({"allowed_token_ids": [97, 100]}), "ad"),
        (json!({"bad_words": ["b", "hi"]}), "acdefghijklmnopqrstuvwxyz"),
        (json!({"bad_words": ["b"], "guided_choice": ["bx", "cx"]}), "c"),
    ] {
        let told = post(&client, COMPLETIONS, &completion(more.clone())).await;
        assert_eq!(told.status, 200, "{}", told.body);
        let mut submission = endpoint.seen.lock().unwrap().pop().unwrap();
        let allowed = submission.guide.as_mut().unwrap().allowed().unwrap().unwrap();
        let text: String = ('a'..='z').filter(|char| allowed.contains(u32::from(*char))).collect();
        assert_eq!(text, first, "{more}");
    }
    for (more, fault) in [
        (json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens: 0 is out of range"),
        (json!({"truncation_side": "middle"}), "truncation_side: expected"),
        (json!({"allowed_token_ids": [END]}), "allowed_token_ids: each of these tokens ends the answer"),
        (json!({"allowed_token_ids": [9999]}), "allowed_token_ids: token 9999 at index 0 is not"),
        (json!({"allowed_token_ids": [97], "guided_regex": "a"}), "allowed_token_ids: not together with a form"),
        (json!({"bad_words": [""]}), "bad_words: word 0 has 0 bytes"),
        (json!({"logprobs": -2}), "logprobs: -2 is out of range: 0 to 20, or -1 (all)"),
        (json!({"request_id": "a b"}), "request_id: expected 1 to 128 visible"),
    ] {
        let told = post(&client, COMPLETIONS, &completion(more)).await;
        assert!(told.body["error"]["message"].as_str().unwrap().starts_with(fault), "{}", told.body);
    }
}

#[tokio::test]
async fn a_request_has_the_id_of_its_header_or_its_body() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    for (header, body, expected) in [
        (None, json!({"request_id": "b-1"}), "b-1"),
        (None, json!({"rid": "b-2"}), "b-2"),
        (Some("h"), json!({"rid": "b"}), "h"),
    ] {
        for (path, body, kind) in
            [(COMPLETIONS, completion(body.clone()), "cmpl"), (CHAT, chat(body.clone()), "chatcmpl")]
        {
            let mut request = client.client.post(format!("{}{path}", client.base)).json(&body);
            if let Some(header) = header {
                request = request.header("x-request-id", header);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["x-request-id"], expected);
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["id"], format!("{kind}-{expected}"));
        }
    }
}

#[tokio::test]
async fn reasoning_is_shown_as_asked() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let body =
        |more: Value| with(json!({"messages": [{"role": "user", "content": "<think>one two</think>three"}]}), &more);
    for (more, reasoning, content) in [
        (json!({}), json!("one two"), "three"),
        (json!({"include_reasoning": false}), json!(null), "three"),
        (json!({"separate_reasoning": false}), json!(null), "<think>one two</think>three"),
        (json!({"reasoning_format": "none"}), json!(null), "<think>one two</think>three"),
    ] {
        let message = post(&client, CHAT, &body(more.clone())).await.body["choices"][0]["message"].clone();
        assert_eq!((&message["reasoning_content"], &message["content"]), (&reasoning, &json!(content)), "{more}");
    }
    let streamed = chunks(&client, CHAT, &body(json!({"stream": true, "stream_reasoning": false}))).await;
    let deltas = streamed.iter().map(|chunk| &chunk["choices"][0]["delta"]);
    let reasoning: Vec<&Value> =
        deltas.clone().map(|delta| &delta["reasoning_content"]).filter(|r| !r.is_null()).collect();
    assert_eq!(reasoning, [&json!("one two")]);
    let content: String = deltas.filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(content, "three");
    for (more, fault) in [
        (json!({"reasoning_effort": "huge"}), "reasoning_effort: expected none, minimal"),
        (json!({"thinking": {"type": "deep"}}), "thinking.type: expected"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 9}}), "thinking.budget_tokens: not supported"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message: not together",
        ),
        (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages: the server sets"),
        (
            json!({"chat_template_kwargs": {"add_generation_prompt": 1}}),
            "chat_template_kwargs.add_generation_prompt: exp",
        ),
    ] {
        let told = post(&client, CHAT, &body(more)).await;
        assert!(told.body["error"]["message"].as_str().unwrap_or_default().starts_with(fault), "{}", told.body);
    }
    let open = json!([{"role": "user", "content": "tell "}, {"role": "assistant", "content": "The "}]);
    let open = json!({"messages": open, "continue_final_message": true, "echo": true});
    let message = post(&client, CHAT, &open).await.body["choices"][0]["message"].clone();
    assert_eq!(message["content"], "The tell The ");
    let deltas = chunks(&client, CHAT, &with(open, &json!({"stream": true}))).await;
    let content: String = deltas.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(content, "The tell The ");
    let taken = json!({"reasoning_effort": "none", "thinking": {"type": "disabled"}, "documents": [{"text": "x"}],
        "continue_final_message": true, "add_special_tokens": true,
        "chat_template_kwargs": {"any": 1, "add_generation_prompt": false}});
    let told = post(&client, CHAT, &body(taken)).await;
    assert_eq!((told.status, told.ignored.as_str()), (200, ""), "{}", told.body);
}

#[tokio::test]
async fn forms_have_many_spellings() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let number = json!({"type": "integer", "minimum": 7, "maximum": 7});
    let tag = json!({"type": "structural_tag", "triggers": ["<f>"],
        "structures": [{"begin": "<f>", "schema": number, "end": "</f>"}]});
    let cases = [
        (json!({"response_format": {"type": "json_object", "schema": number}}), "7", ""),
        (json!({"response_format": {"type": "json_schema", "schema": number}}), "7", ""),
        (json!({"response_format": {"type": "json", "value": number}}), "7", ""),
        (json!({"response_format": {"type": "regex", "value": "x"}}), "x", ""),
        (json!({"json_schema": number.to_string()}), "7", ""),
        (json!({"regex": "q"}), "q", ""),
        (json!({"ebnf": "root ::= \"w\" | [x-z]"}), "wxyz", ""),
        (json!({"grammar": "root ::= \"w\""}), "w", ""),
        (json!({"grammar": "start: \"v\""}), "v", ""),
        (json!({"grammar": {"type": "regex", "value": "p"}}), "p", ""),
        (json!({"grammar": {"type": "lark", "value": "start: \"p\""}}), "p", ""),
        (json!({"grammar": {"type": "json_schema", "value": number}}), "7", ""),
        (
            json!({"grammar": {"type": "llguidance", "value": {"grammars": [{"lark_grammar": "start: \"p\""}]}}}),
            "p",
            "",
        ),
        (
            json!({"guided_json": {"type": "array", "items": number, "uniqueItems": true}}),
            "[",
            "guided_json.uniqueItems",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema":
                {"type": "object", "properties": {"p": {"type": "string", "format": "path"}}}}}}),
            "{",
            "response_format.json_schema.schema.properties.p.format",
        ),
    ];
    for (form, first, ignored) in cases {
        let told = post(&client, CHAT, &chat(form.clone())).await;
        assert_eq!((told.status, told.ignored.as_str()), (200, ignored), "{form}: {}", told.body);
        let mut submission = endpoint.seen.lock().unwrap().pop().unwrap();
        let allowed = submission.guide.as_mut().unwrap().allowed().unwrap().unwrap();
        let text: String = ('!'..='~').filter(|char| allowed.contains(u32::from(*char))).collect();
        assert_eq!(text, first, "{form}");
    }
    for form in [json!({"response_format": tag}), json!({"structured_outputs": {"structural_tag": tag.to_string()}})] {
        let told = post(&client, CHAT, &chat(form.clone())).await;
        assert_eq!(told.status, 200, "{form}: {}", told.body);
    }
    for (form, fault) in [
        (json!({"grammar": {"type": "bnf", "value": ""}}), "grammar.type: expected \"regex\""),
        (json!({"ebnf": "root ::= other"}), "ebnf: no rule is called \"other\""),
        (json!({"guided_json": {"$ref": "#"}}), "guided_json: "),
        (json!({"structural_tag": {"triggers": []}}), "structural_tag: structures: expected a list"),
    ] {
        let told = post(&client, CHAT, &chat(form)).await;
        assert!(told.body["error"]["message"].as_str().unwrap_or_default().starts_with(fault), "{}", told.body);
    }
}

#[tokio::test]
async fn some_tools_are_allowed() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let tool = |name: &str| {
        let parameters = json!({"type": "object", "properties": {"s": {"type": "array", "uniqueItems": true}}});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    let allowed = |mode: &str, names: &[&str]| {
        let tools: Vec<Value> = names.iter().map(|n| json!({"type": "function", "function": {"name": n}})).collect();
        json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
    };
    for (choice, forced) in [
        (allowed("required", &["beta"]), true),
        (allowed("auto", &["alpha"]), false),
        (json!({"type": "function", "name": "beta"}), true),
        (json!("any"), true),
        (json!({"type": "auto"}), false),
    ] {
        let body = chat(json!({"tools": [tool("alpha"), tool("beta")], "tool_choice": choice}));
        let told = post(&client, CHAT, &body).await;
        let ignored = if forced { "tools[].function.parameters.properties.s.uniqueItems" } else { "" };
        assert_eq!((told.status, told.ignored.as_str()), (200, ignored), "{choice}: {}", told.body);
        assert_eq!(endpoint.seen.lock().unwrap().pop().unwrap().guide.is_some(), forced, "{choice}");
        // The script answers with the prompt, which stands here for a call that was cut off.
        let content = told.body["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        assert_eq!(content.is_empty(), forced, "{choice}: {content}");
    }
    for (choice, fault) in [
        (allowed("required", &["gamma"]), "tool_choice: no tool is called \"gamma\""),
        (allowed("sometimes", &["beta"]), "tool_choice: expected \"none\""),
        (allowed("auto", &[]), "tool_choice.allowed_tools.tools: expected a list"),
        (json!({"type": "allowed_tools"}), "tool_choice.allowed_tools: expected an object"),
        (json!({}), "tool_choice: expected \"none\""),
    ] {
        let body = chat(json!({"tools": [tool("alpha"), tool("beta")], "tool_choice": choice}));
        let told = post(&client, CHAT, &body).await;
        assert!(told.body["error"]["message"].as_str().unwrap_or_default().starts_with(fault), "{}", told.body);
    }
}
