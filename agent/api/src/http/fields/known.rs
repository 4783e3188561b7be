//! Fields that clients of OpenAI, vLLM, SGLang, TGI, llama.cpp, mistral.rs and LiteLLM send, and the rule for each.
//!
//! An endpoint takes the fields that it obeys. The rules here are for the fields that it did not take. `API.md` has the
//! same table, and a test compares the two.

use serde_json::Value;

/// Object that has a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Request,
    StreamOptions,
    ResponseFormat,
    JsonSchema,
    StructuredOutputs,
    Message,
    ContentPart,
    ToolCall,
    CalledFunction,
    Tool,
    Function,
    ToolChoice,
}

impl Scope {
    /// Returns the place of the object in a request.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Request => "",
            Self::StreamOptions => "stream_options.",
            Self::ResponseFormat => "response_format.",
            Self::JsonSchema => "response_format.json_schema.",
            Self::StructuredOutputs => "structured_outputs.",
            Self::Message => "messages[].",
            Self::ContentPart => "messages[].content[].",
            Self::ToolCall => "messages[].tool_calls[].",
            Self::CalledFunction => "messages[].tool_calls[].function.",
            Self::Tool => "tools[].",
            Self::Function => "tools[].function.",
            Self::ToolChoice => "tool_choice.",
        }
    }
}

/// Endpoints that obey a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Both,
    Chat,
    Completions,
}

/// Field that is obeyed: its name, the endpoints that obey it, the values that the other endpoint takes beside those
/// that ask for nothing, and the effect.
pub(crate) const OBEYED: &[(&str, At, &[&str], &str)] = &[
    ("model", At::Both, &[], "name of the served model, or `default`"),
    ("messages", At::Chat, &[], "the conversation"),
    ("prompt", At::Completions, &[], "the prompts"),
    ("stream", At::Both, &[], "events instead of one answer"),
    ("stream_options", At::Both, &[], "see below"),
    ("n", At::Both, &["1"], "number of answers"),
    ("temperature", At::Both, &[], "[how a token is chosen](#how-a-token-is-chosen)"),
    ("top_p", At::Both, &[], "as `temperature`"),
    ("top_k", At::Both, &[], "as `temperature`"),
    ("min_p", At::Both, &[], "as `temperature`"),
    ("repetition_penalty", At::Both, &[], "as `temperature`"),
    ("presence_penalty", At::Both, &[], "as `temperature`"),
    ("frequency_penalty", At::Both, &[], "as `temperature`"),
    ("logit_bias", At::Both, &[], "as `temperature`"),
    ("seed", At::Both, &[], "as `temperature`"),
    ("max_tokens", At::Both, &[], "[when an answer ends](#when-an-answer-ends)"),
    ("max_completion_tokens", At::Both, &[], "as `max_tokens`, and wins over it"),
    ("min_tokens", At::Both, &[], "as `max_tokens`"),
    ("stop", At::Both, &[], "as `max_tokens`"),
    ("stop_token_ids", At::Both, &[], "as `max_tokens`"),
    ("ignore_eos", At::Both, &[], "as `max_tokens`"),
    ("priority", At::Both, &[], "place in the queue: a lower number comes first, as with vLLM"),
    ("cache_salt", At::Both, &[], "only requests with the same salt share blocks of the prefix cache"),
    ("logprobs", At::Both, &[], "log-probabilities of the answer's tokens"),
    ("top_logprobs", At::Chat, &["0"], "number of most likely tokens to report"),
    ("response_format", At::Both, &[], "[the form of an answer](#the-form-of-an-answer)"),
    ("structured_outputs", At::Both, &[], "as `response_format`"),
    ("guided_json", At::Both, &[], "as `response_format`"),
    ("guided_regex", At::Both, &[], "as `response_format`"),
    ("guided_choice", At::Both, &[], "as `response_format`"),
    ("guided_grammar", At::Both, &[], "as `response_format`"),
    ("guided_json_object", At::Both, &[], "as `response_format`"),
    ("tools", At::Chat, &[], "[tools that the answer may call](#tool-calls-and-reasoning)"),
    ("tool_choice", At::Chat, &["\"none\"", "\"auto\""], "as `tools`"),
    ("parallel_tool_calls", At::Chat, &["true"], "as `tools`"),
    ("chat_template_kwargs", At::Chat, &[], "variables of the chat template"),
];

/// Field that does not change an answer: its name, and the reason.
pub(crate) const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("user", "names the client's user"),
    ("metadata", "notes of the client"),
    ("store", "nothing is stored"),
    ("service_tier", "there is one tier"),
    ("safety_identifier", "names the client's user"),
    ("prompt_cache_key", "the cache finds prompts by their tokens"),
    ("prompt_cache_retention", "the cache keeps what it has room for"),
    ("prompt_cache_options", "the cache keeps what it has room for"),
    ("cache_prompt", "prompts are always cached"),
    ("n_cache_reuse", "prompts are always cached"),
    ("id_slot", "the head chooses the seat"),
    ("n_keep", "a context is never shifted"),
    ("n_discard", "a context is never shifted"),
    ("data_parallel_rank", "the router chooses the group"),
    ("routed_dp_rank", "the router chooses the group"),
    ("disagg_prefill_dp_rank", "the router chooses the group"),
    ("spaces_between_special_tokens", "special tokens have no spaces between them"),
    ("guided_decoding_backend", "there is one way to enforce a form"),
    ("dry_base", "only with `dry_multiplier`"),
    ("dry_allowed_length", "only with `dry_multiplier`"),
    ("dry_penalty_last_n", "only with `dry_multiplier`"),
    ("dry_sequence_breakers", "only with `dry_multiplier`"),
    ("xtc_threshold", "only with `xtc_probability`"),
    ("mirostat_tau", "only with `mirostat`"),
    ("mirostat_eta", "only with `mirostat`"),
    ("dynatemp_exponent", "only with `dynatemp_range`"),
    ("litellm_call_id", "a note of LiteLLM"),
    ("litellm_metadata", "a note of LiteLLM"),
    ("litellm_session_id", "a note of LiteLLM"),
    ("litellm_trace_id", "a note of LiteLLM"),
    ("drop_params", "a setting of LiteLLM's own"),
    ("additional_drop_params", "a setting of LiteLLM's own"),
    ("allowed_openai_params", "a setting of LiteLLM's own"),
    ("custom_llm_provider", "a setting of LiteLLM's own"),
    ("num_retries", "a setting of LiteLLM's own"),
    ("caching", "a setting of LiteLLM's own"),
];

/// Field that would change the answer and cannot be obeyed: its name, the values that ask for nothing beside `false`,
/// `""`, `[]` and `{}`, and the remedy.
pub(crate) const REFUSED: &[(&str, &[&str], &str)] = &[
    // OpenAI.
    ("audio", &[], "this model writes text"),
    ("best_of", &["1"], "ask for n answers and choose among them"),
    ("echo", &[], "put the prompt before the answer yourself"),
    ("function_call", &["\"none\"", "\"auto\""], "send tool_choice"),
    ("functions", &[], "send tools"),
    ("modalities", &[r#"["text"]"#], "this model writes text"),
    ("prediction", &[], "leave it out"),
    ("reasoning_effort", &[], "leave it out"),
    ("suffix", &[], "put the text after the place to fill into the prompt, as the model's makers spell it"),
    ("verbosity", &["\"medium\""], "ask for it in a message"),
    ("web_search_options", &[], "put what was found in a message"),
    // vLLM.
    ("add_generation_prompt", &["true"], "leave it out"),
    ("add_special_tokens", &[], "leave it out"),
    ("allowed_token_ids", &[], "use a form of the answer"),
    ("bad_words", &[], "use logit_bias"),
    ("chat_template", &[], "serve the model with this template"),
    ("continue_final_message", &[], "send a prompt to /v1/completions"),
    ("detokenize", &["true"], "answers are text"),
    ("documents", &[], "put them in a message"),
    ("early_stopping", &[], "there is no beam search: ask for n answers"),
    ("ec_transfer_params", &[], "the ranks share no cache with another server"),
    ("guided_whitespace_pattern", &[], "set x-guidance in the schema"),
    ("include_reasoning", &["true"], "leave the reasoning out yourself"),
    ("include_stop_str_in_output", &[], "put the stop string behind the answer yourself"),
    ("kv_transfer_params", &[], "the ranks share no cache with another server"),
    ("length_penalty", &["1"], "there is no beam search: ask for n answers"),
    ("logits_processors", &[], "use logit_bias or a form of the answer"),
    ("media_io_kwargs", &[], "this model reads text"),
    ("mm_processor_kwargs", &[], "this model reads text"),
    ("prompt_embeds", &[], "send a prompt"),
    ("prompt_logprobs", &[], "leave it out"),
    ("repetition_detection", &[], "use repetition_penalty"),
    ("request_id", &[], "send the header x-request-id"),
    ("return_token_ids", &[], "leave it out"),
    ("return_tokens_as_token_ids", &[], "leave it out"),
    ("skip_special_tokens", &["true"], "leave it out"),
    ("structural_tag", &[], "use another form of the answer"),
    ("thinking_token_budget", &[], "use max_tokens"),
    ("truncate_prompt_tokens", &[], "shorten the prompt yourself"),
    ("truncation_side", &["\"left\""], "only with truncate_prompt_tokens"),
    ("use_beam_search", &[], "ask for n answers and choose among them"),
    ("vllm_xargs", &[], "the ranks have no extensions"),
    // SGLang.
    ("bootstrap_host", &[], "the ranks share no cache with another server"),
    ("bootstrap_port", &[], "the ranks share no cache with another server"),
    ("bootstrap_room", &[], "the ranks share no cache with another server"),
    ("custom_logit_processor", &[], "use logit_bias or a form of the answer"),
    ("custom_params", &[], "use logit_bias or a form of the answer"),
    ("ebnf", &[], "send structured_outputs"),
    ("extra_key", &[], "leave it out"),
    ("image_max_dynamic_patch", &[], "this model reads text"),
    ("input_ids", &[], "send prompt"),
    ("lora_path", &[], "name a model that is served"),
    ("max_dynamic_patch", &[], "this model reads text"),
    ("min_dynamic_patch", &[], "this model reads text"),
    ("no_stop_trim", &[], "put the stop string behind the answer yourself"),
    ("regex", &[], "send structured_outputs"),
    ("return_cached_tokens_details", &[], "usage has the number of cached tokens"),
    ("return_hidden_states", &[], "the ranks give tokens and log-probabilities"),
    ("return_meta_info", &[], "usage and finish_reason have it"),
    ("return_prompt_token_ids", &[], "leave it out"),
    ("return_routed_experts", &[], "the ranks give tokens and log-probabilities"),
    ("rid", &[], "send the header x-request-id"),
    ("separate_reasoning", &["true"], "put the reasoning before the answer yourself"),
    ("session_params", &[], "send the whole conversation"),
    ("stop_regex", &[], "use stop, or a form of the answer"),
    ("stream_reasoning", &["true"], "gather the reasoning yourself"),
    ("use_audio_in_video", &[], "this model reads text"),
    ("video_max_dynamic_patch", &[], "this model reads text"),
    // TGI.
    ("adapter_id", &[], "name a model that is served"),
    ("decoder_input_details", &[], "leave it out"),
    ("details", &[], "use logprobs"),
    ("do_sample", &["true"], "for the likeliest tokens send temperature 0"),
    ("guideline", &[], "put it in a message"),
    ("max_new_tokens", &[], "send max_tokens"),
    ("return_full_text", &[], "put the prompt before the answer yourself"),
    ("tool_prompt", &[], "put it in a message"),
    ("top_n_tokens", &["0"], "use logprobs"),
    ("truncate", &[], "shorten the prompt yourself"),
    ("typical_p", &["1"], "use top_p or min_p"),
    ("watermark", &[], "leave it out"),
    // llama.cpp.
    ("dry_multiplier", &["0"], "use repetition_penalty"),
    ("dynatemp_range", &["0"], "use temperature"),
    ("epsilon_cutoff", &["0"], "use min_p"),
    ("eta_cutoff", &["0"], "use min_p"),
    ("grammar", &[], "send structured_outputs"),
    ("image_data", &[], "this model reads text"),
    ("json_schema", &[], "send response_format"),
    ("lora", &[], "name a model that is served"),
    ("min_keep", &["0", "1"], "use top_k"),
    ("mirostat", &["0"], "use top_p or min_p"),
    ("n_indent", &["0"], "use a form of the answer"),
    ("n_predict", &["-1"], "send max_tokens"),
    ("n_probs", &["0"], "use logprobs"),
    ("parse_tool_calls", &["true"], "leave tools out"),
    ("post_sampling_probs", &[], "use logprobs"),
    ("reasoning_budget", &["-1"], "use max_tokens"),
    ("reasoning_format", &["\"auto\"", "\"deepseek\""], "leave it out"),
    ("repeat_last_n", &["-1"], "the penalty looks at the whole context"),
    ("repeat_penalty", &["1"], "send repetition_penalty"),
    ("response_fields", &[], "pick the fields yourself"),
    ("return_progress", &[], "a stream has a comment while it waits"),
    ("return_tokens", &[], "leave it out"),
    ("samplers", &[], "the order of the steps is fixed"),
    ("t_max_predict_ms", &["0"], "use max_tokens"),
    ("tfs_z", &["1"], "use top_p or min_p"),
    ("timings_per_token", &[], "measure them, or read /metrics"),
    ("top_a", &["0"], "use min_p"),
    ("top_n_sigma", &["0", "-1"], "use min_p"),
    ("xtc_probability", &["0"], "use temperature"),
    // mistral.rs.
    ("adapters", &[], "name a model that is served"),
    ("enable_thinking", &[], "send chat_template_kwargs"),
    ("max_tool_rounds", &[], "call the tools yourself"),
    ("session_id", &[], "send the whole conversation"),
    ("tool_dispatch_url", &[], "call the tools yourself"),
    ("truncate_sequence", &[], "shorten the prompt yourself"),
    // LiteLLM.
    ("extra_body", &[], "put its fields into the request itself"),
    ("extra_headers", &[], "send them as headers"),
    ("fallbacks", &[], "choose another server yourself"),
    ("guardrails", &[], "check the answer yourself"),
    ("mock_response", &[], "leave it out"),
    ("thinking", &[], "send chat_template_kwargs"),
    ("timeout", &["0"], "close the connection when you want no more"),
];

/// Rule for a field of an object in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Obeyed,
    /// The field does not change the answer, for this reason.
    Idle(&'static str),
    /// The field would change the answer, and this is the remedy.
    Refused(&'static str),
}

/// Field of an object in a request: the object, the name and the rule.
pub(crate) const NESTED: &[(Scope, &str, Rule)] = &[
    (Scope::StreamOptions, "include_usage", Rule::Obeyed),
    (Scope::StreamOptions, "include_obfuscation", Rule::Idle("chunks are never padded")),
    (Scope::ResponseFormat, "type", Rule::Obeyed),
    (Scope::ResponseFormat, "json_schema", Rule::Obeyed),
    (Scope::JsonSchema, "schema", Rule::Obeyed),
    (Scope::JsonSchema, "name", Rule::Idle("a name for the schema")),
    (Scope::JsonSchema, "description", Rule::Idle("the prompt does not show it")),
    (Scope::JsonSchema, "strict", Rule::Idle("a schema is always enforced")),
    (Scope::StructuredOutputs, "json", Rule::Obeyed),
    (Scope::StructuredOutputs, "regex", Rule::Obeyed),
    (Scope::StructuredOutputs, "choice", Rule::Obeyed),
    (Scope::StructuredOutputs, "grammar", Rule::Obeyed),
    (Scope::StructuredOutputs, "json_object", Rule::Obeyed),
    (Scope::StructuredOutputs, "structural_tag", Rule::Refused("use another form")),
    (Scope::StructuredOutputs, "whitespace_pattern", Rule::Refused("set x-guidance in the schema")),
    (Scope::StructuredOutputs, "disable_any_whitespace", Rule::Refused("set x-guidance in the schema")),
    (
        Scope::StructuredOutputs,
        "disable_additional_properties",
        Rule::Refused("set additionalProperties in the schema"),
    ),
    (Scope::StructuredOutputs, "disable_fallback", Rule::Idle("there is one way to enforce a form")),
    (Scope::Message, "role", Rule::Obeyed),
    (Scope::Message, "content", Rule::Obeyed),
    (Scope::Message, "name", Rule::Obeyed),
    (Scope::Message, "tool_calls", Rule::Obeyed),
    (Scope::Message, "tool_call_id", Rule::Obeyed),
    (Scope::Message, "reasoning_content", Rule::Obeyed),
    (Scope::Message, "reasoning", Rule::Obeyed),
    (Scope::Message, "refusal", Rule::Idle("part of an answer that clients send back")),
    (Scope::Message, "annotations", Rule::Idle("part of an answer that clients send back")),
    (Scope::Message, "audio", Rule::Idle("part of an answer that clients send back")),
    (Scope::Message, "function_call", Rule::Idle("part of an answer that clients send back")),
    (Scope::Message, "id", Rule::Idle("part of an answer that clients send back")),
    (Scope::Message, "provider_specific_fields", Rule::Idle("part of an answer that clients send back")),
    (Scope::Message, "cache_control", Rule::Idle("prompts are always cached")),
    (Scope::ContentPart, "type", Rule::Obeyed),
    (Scope::ContentPart, "text", Rule::Obeyed),
    (Scope::ContentPart, "cache_control", Rule::Idle("prompts are always cached")),
    (Scope::ContentPart, "annotations", Rule::Idle("part of an answer that clients send back")),
    (Scope::ContentPart, "logprobs", Rule::Idle("part of an answer that clients send back")),
    (Scope::ToolCall, "id", Rule::Obeyed),
    (Scope::ToolCall, "function", Rule::Obeyed),
    (Scope::ToolCall, "type", Rule::Idle("every call is a function's")),
    (Scope::ToolCall, "index", Rule::Idle("part of an answer that clients send back")),
    (Scope::CalledFunction, "name", Rule::Obeyed),
    (Scope::CalledFunction, "arguments", Rule::Obeyed),
    (Scope::Tool, "type", Rule::Obeyed),
    (Scope::Tool, "function", Rule::Obeyed),
    (Scope::Tool, "cache_control", Rule::Idle("prompts are always cached")),
    (Scope::Function, "name", Rule::Obeyed),
    (Scope::Function, "description", Rule::Obeyed),
    (Scope::Function, "parameters", Rule::Obeyed),
    (Scope::Function, "strict", Rule::Idle("the schema of a required call is always enforced")),
    (Scope::ToolChoice, "type", Rule::Obeyed),
    (Scope::ToolChoice, "function", Rule::Obeyed),
];

/// Verdict about a field that an endpoint did not take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The field asks for nothing, or has no effect.
    Taken,
    /// The reason to refuse the field.
    Refused(String),
    Unknown,
}

/// Judges a field that an endpoint did not take.
pub(crate) fn judge(scope: Scope, name: &str, value: &Value) -> Verdict {
    let refuse = |neutral: &[&str], reason: String| {
        if asks_for_nothing(value, neutral) { Verdict::Taken } else { Verdict::Refused(reason) }
    };
    if scope != Scope::Request {
        let rule = NESTED.iter().find(|(of, known, _)| *of == scope && *known == name);
        return match rule.map(|(.., rule)| rule) {
            Some(Rule::Obeyed) => refuse(&[], "not together with the other fields of this object".into()),
            Some(Rule::Idle(_)) => Verdict::Taken,
            Some(Rule::Refused(remedy)) => refuse(&[], format!("not supported: {remedy}")),
            None => Verdict::Unknown,
        };
    }
    if WITHOUT_EFFECT.iter().any(|(known, _)| *known == name) {
        return Verdict::Taken;
    }
    if let Some((_, neutral, remedy)) = REFUSED.iter().find(|(known, ..)| *known == name) {
        return refuse(neutral, format!("not supported: {remedy}"));
    }
    match OBEYED.iter().find(|(known, ..)| *known == name) {
        Some((_, at, neutral, _)) => {
            let path = if *at == At::Completions { "/v1/completions" } else { "/v1/chat/completions" };
            refuse(neutral, format!("no such field at this endpoint: it belongs to {path}"))
        }
        None => Verdict::Unknown,
    }
}

/// Returns true for `false`, an empty text, list or object, and each of the `neutral` values.
fn asks_for_nothing(value: &Value, neutral: &[&str]) -> bool {
    let is_empty = match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    let equals = |neutral: &str| match (value.as_f64(), neutral.parse::<f64>()) {
        (Some(number), Ok(neutral)) => number == neutral,
        _ => serde_json::from_str::<Value>(neutral).is_ok_and(|neutral| neutral == *value),
    };
    is_empty || neutral.iter().any(|neutral| equals(neutral))
}
