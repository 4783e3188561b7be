//! Fields that clients of OpenAI, vLLM, SGLang, TGI, llama.cpp, mistral.rs and LiteLLM send, and the rule for each.
//!
//! An endpoint takes the fields that it obeys. The rules here are for the fields that it did not take. `API.md` has the
//! same table, and a test compares the two.

use std::collections::HashMap;
use std::sync::LazyLock;

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
    AllowedTools,
    TemplateVariables,
    Thinking,
    Grammar,
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
            Self::AllowedTools => "tool_choice.allowed_tools.",
            Self::TemplateVariables => "chat_template_kwargs.",
            Self::Thinking => "thinking.",
            Self::Grammar => "grammar.",
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
    ("repeat_penalty", At::Both, &[], "as `repetition_penalty`"),
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
    (
        "echo",
        At::Both,
        &[],
        "[the prompt before the answer](#how-likely-a-prompt-is); in a chat the message that the answer goes on with",
    ),
    ("prompt_logprobs", At::Both, &[], "[log-probabilities of the prompt](#how-likely-a-prompt-is)"),
    ("priority", At::Both, &[], "place in the queue: a lower number comes first, as with vLLM"),
    ("cache_salt", At::Both, &[], "only requests with the same salt share blocks of the prefix cache"),
    ("max_new_tokens", At::Both, &[], "as `max_tokens`"),
    ("n_predict", At::Both, &[], "as `max_tokens`; -1 sets no limit"),
    ("include_stop_str_in_output", At::Both, &[], "the text includes the stop that ended the answer"),
    ("no_stop_trim", At::Both, &[], "as `include_stop_str_in_output`"),
    ("skip_special_tokens", At::Both, &[], "`false` shows special tokens in the text, with the model's own end token"),
    ("bad_words", At::Both, &[], "up to 128 texts that the answer does not contain, as far as their usual tokens go"),
    ("allowed_token_ids", At::Both, &[], "the only tokens that the answer may have"),
    ("truncate_prompt_tokens", At::Both, &[], "the prompt is cut to its last tokens; -1 cuts it to what has room"),
    ("truncate", At::Both, &[], "as `truncate_prompt_tokens`"),
    ("truncate_sequence", At::Both, &[], "as `truncate_prompt_tokens` with -1"),
    ("truncation_side", At::Both, &[], "`right` keeps the prompt's first tokens instead"),
    (
        "add_special_tokens",
        At::Both,
        &[],
        "the tokenizer adds its special tokens to the prompt (completions: `true`, chats: `false`)",
    ),
    ("return_token_ids", At::Both, &[], "`token_ids` of each choice, with its stop token, and `prompt_token_ids`"),
    ("return_tokens_as_token_ids", At::Both, &[], "log-probabilities name tokens as `token_id:N`"),
    ("request_id", At::Both, &[], "id of the request, unless the header `x-request-id` has one"),
    ("rid", At::Both, &[], "as `request_id`"),
    ("logprobs", At::Both, &[], "log-probabilities of the answer's tokens"),
    ("top_logprobs", At::Chat, &["0"], "number of most likely tokens to report; -1 reports all"),
    ("use_beam_search", At::Both, &[], "[the `n` answers are those of a beam search](#beam-search)"),
    ("length_penalty", At::Both, &[], "as `use_beam_search`"),
    ("early_stopping", At::Both, &[], "as `use_beam_search`"),
    ("best_of", At::Completions, &["1"], "number of answers of which the `n` most likely come back"),
    ("response_format", At::Both, &[], "[the form of an answer](#the-form-of-an-answer)"),
    ("structured_outputs", At::Both, &[], "as `response_format`"),
    ("guided_json", At::Both, &[], "as `response_format`"),
    ("guided_regex", At::Both, &[], "as `response_format`"),
    ("guided_choice", At::Both, &[], "as `response_format`"),
    ("guided_grammar", At::Both, &[], "as `response_format`"),
    ("guided_json_object", At::Both, &[], "as `response_format`"),
    ("structural_tag", At::Both, &[], "as `response_format`"),
    ("json_schema", At::Both, &[], "as `response_format`"),
    ("regex", At::Both, &[], "as `response_format`"),
    ("ebnf", At::Both, &[], "as `response_format`"),
    ("grammar", At::Both, &[], "as `response_format`"),
    ("tools", At::Chat, &[], "[tools that the answer may call](#tool-calls-and-reasoning)"),
    ("tool_choice", At::Chat, &["\"none\"", "\"auto\""], "as `tools`"),
    ("parallel_tool_calls", At::Chat, &["true"], "as `tools`"),
    ("chat_template_kwargs", At::Chat, &[], "variables of the chat template"),
    ("documents", At::Chat, &[], "documents that the chat template shows"),
    ("add_generation_prompt", At::Chat, &["true"], "`false` ends the prompt behind the last message"),
    ("continue_final_message", At::Chat, &[], "the answer goes on with the last message"),
    (
        "reasoning_effort",
        At::Chat,
        &[],
        "variable of the chat template; `none` also sets `enable_thinking` and `thinking` to false",
    ),
    ("enable_thinking", At::Chat, &["true"], "variables `enable_thinking` and `thinking` of the chat template"),
    ("thinking", At::Chat, &[], "as `enable_thinking`"),
    ("include_reasoning", At::Chat, &["true"], "`false` leaves the reasoning out of the answer"),
    ("separate_reasoning", At::Chat, &["true"], "`false` leaves the reasoning in the content"),
    (
        "reasoning_format",
        At::Chat,
        &["\"auto\"", "\"deepseek\"", "\"none\""],
        "`none` leaves the reasoning in the content",
    ),
    ("stream_reasoning", At::Chat, &["true"], "`false` sends the reasoning in one piece"),
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
    ("function_call", &["\"none\"", "\"auto\""], "send tool_choice"),
    ("functions", &[], "send tools"),
    ("modalities", &[r#"["text"]"#], "this model writes text"),
    ("prediction", &[], "leave it out"),
    ("suffix", &[], "put the text after the place to fill into the prompt, as the model's makers spell it"),
    ("verbosity", &["\"medium\""], "ask for it in a message"),
    ("web_search_options", &[], "put what was found in a message"),
    // vLLM.
    ("chat_template", &[], "serve the model with this template"),
    ("detokenize", &["true"], "answers are text"),
    ("ec_transfer_params", &[], "the ranks share no cache with another server"),
    ("guided_whitespace_pattern", &[], "set x-guidance in the schema"),
    ("kv_transfer_params", &[], "the ranks share no cache with another server"),
    ("logits_processors", &[], "use logit_bias or a form of the answer"),
    ("media_io_kwargs", &[], "this model reads text"),
    ("mm_processor_kwargs", &[], "this model reads text"),
    ("prompt_embeds", &[], "send a prompt"),
    ("repetition_detection", &[], "use repetition_penalty"),
    ("thinking_token_budget", &[], "use max_tokens"),
    ("vllm_xargs", &[], "the ranks have no extensions"),
    // SGLang.
    ("bootstrap_host", &[], "the ranks share no cache with another server"),
    ("bootstrap_port", &[], "the ranks share no cache with another server"),
    ("bootstrap_room", &[], "the ranks share no cache with another server"),
    ("custom_logit_processor", &[], "use logit_bias or a form of the answer"),
    ("custom_params", &[], "use logit_bias or a form of the answer"),
    ("extra_key", &[], "leave it out"),
    ("image_max_dynamic_patch", &[], "this model reads text"),
    ("input_ids", &[], "send prompt"),
    ("lora_path", &[], "name a model that is served"),
    ("max_dynamic_patch", &[], "this model reads text"),
    ("min_dynamic_patch", &[], "this model reads text"),
    ("return_cached_tokens_details", &[], "usage has the number of cached tokens"),
    ("return_hidden_states", &[], "the ranks give tokens and log-probabilities"),
    ("return_meta_info", &[], "usage and finish_reason have it"),
    ("return_prompt_token_ids", &[], "leave it out"),
    ("return_routed_experts", &[], "the ranks give tokens and log-probabilities"),
    ("session_params", &[], "send the whole conversation"),
    ("stop_regex", &[], "use stop, or a form of the answer"),
    ("use_audio_in_video", &[], "this model reads text"),
    ("video_max_dynamic_patch", &[], "this model reads text"),
    // TGI.
    ("adapter_id", &[], "name a model that is served"),
    ("decoder_input_details", &[], "leave it out"),
    ("details", &[], "use logprobs"),
    ("do_sample", &["true"], "for the likeliest tokens send temperature 0"),
    ("guideline", &[], "put it in a message"),
    ("return_full_text", &[], "put the prompt before the answer yourself"),
    ("tool_prompt", &[], "put it in a message"),
    ("top_n_tokens", &["0"], "use logprobs"),
    ("typical_p", &["1"], "use top_p or min_p"),
    ("watermark", &[], "leave it out"),
    // llama.cpp.
    ("dry_multiplier", &["0"], "use repetition_penalty"),
    ("dynatemp_range", &["0"], "use temperature"),
    ("epsilon_cutoff", &["0"], "use min_p"),
    ("eta_cutoff", &["0"], "use min_p"),
    ("image_data", &[], "this model reads text"),
    ("lora", &[], "name a model that is served"),
    ("min_keep", &["0", "1"], "use top_k"),
    ("mirostat", &["0"], "use top_p or min_p"),
    ("n_indent", &["0"], "use a form of the answer"),
    ("n_probs", &["0"], "use logprobs"),
    ("parse_tool_calls", &["true"], "leave tools out"),
    ("post_sampling_probs", &[], "use logprobs"),
    ("reasoning_budget", &["-1"], "use max_tokens"),
    ("repeat_last_n", &["-1"], "the penalty looks at the whole context"),
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
    ("max_tool_rounds", &[], "call the tools yourself"),
    ("session_id", &[], "send the whole conversation"),
    ("tool_dispatch_url", &[], "call the tools yourself"),
    // LiteLLM.
    ("extra_body", &[], "put its fields into the request itself"),
    ("extra_headers", &[], "send them as headers"),
    ("fallbacks", &[], "choose another server yourself"),
    ("guardrails", &[], "check the answer yourself"),
    ("mock_response", &[], "leave it out"),
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
    (Scope::StreamOptions, "continuous_usage_stats", Rule::Obeyed),
    (Scope::StreamOptions, "include_obfuscation", Rule::Idle("chunks are never padded")),
    (Scope::ResponseFormat, "type", Rule::Obeyed),
    (Scope::ResponseFormat, "json_schema", Rule::Obeyed),
    (Scope::ResponseFormat, "schema", Rule::Obeyed),
    (Scope::ResponseFormat, "value", Rule::Obeyed),
    (Scope::ResponseFormat, "structures", Rule::Obeyed),
    (Scope::ResponseFormat, "triggers", Rule::Obeyed),
    (Scope::ResponseFormat, "format", Rule::Obeyed),
    (Scope::JsonSchema, "schema", Rule::Obeyed),
    (Scope::JsonSchema, "name", Rule::Idle("a name for the schema")),
    (Scope::JsonSchema, "description", Rule::Idle("the prompt does not show it")),
    (Scope::JsonSchema, "strict", Rule::Idle("a schema is always enforced")),
    (Scope::StructuredOutputs, "json", Rule::Obeyed),
    (Scope::StructuredOutputs, "regex", Rule::Obeyed),
    (Scope::StructuredOutputs, "choice", Rule::Obeyed),
    (Scope::StructuredOutputs, "grammar", Rule::Obeyed),
    (Scope::StructuredOutputs, "json_object", Rule::Obeyed),
    (Scope::StructuredOutputs, "structural_tag", Rule::Obeyed),
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
    (Scope::ToolChoice, "name", Rule::Obeyed),
    (Scope::ToolChoice, "allowed_tools", Rule::Obeyed),
    (Scope::AllowedTools, "mode", Rule::Obeyed),
    (Scope::AllowedTools, "tools", Rule::Obeyed),
    (Scope::Grammar, "type", Rule::Obeyed),
    (Scope::Grammar, "value", Rule::Obeyed),
    (Scope::Thinking, "type", Rule::Obeyed),
    (Scope::Thinking, "budget_tokens", Rule::Refused("use max_tokens")),
    (Scope::Thinking, "clear_thinking", Rule::Idle("the chat template decides")),
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
    match REQUEST_RULES.get(name) {
        None => Verdict::Unknown,
        Some(RequestRule::Idle) => Verdict::Taken,
        Some(RequestRule::Refused(neutral, remedy)) => refuse(neutral, format!("not supported: {remedy}")),
        Some(RequestRule::Obeyed(at, neutral)) => {
            let path = if *at == At::Completions { "/v1/completions" } else { "/v1/chat/completions" };
            refuse(neutral, format!("no such field at this endpoint: it belongs to {path}"))
        }
    }
}

/// Rule for a field of a request that an endpoint did not take.
enum RequestRule {
    Idle,
    /// The values that ask for nothing, and the remedy.
    Refused(&'static [&'static str], &'static str),
    /// The endpoints that obey the field, and the values that the other endpoint takes.
    Obeyed(At, &'static [&'static str]),
}

/// The tables above, by name. A body may have millions of fields.
static REQUEST_RULES: LazyLock<HashMap<&str, RequestRule>> = LazyLock::new(|| {
    let idle = WITHOUT_EFFECT.iter().map(|(name, _)| (*name, RequestRule::Idle));
    let refused = REFUSED.iter().map(|(name, neutral, remedy)| (*name, RequestRule::Refused(neutral, remedy)));
    let obeyed = OBEYED.iter().map(|(name, at, neutral, _)| (*name, RequestRule::Obeyed(*at, neutral)));
    idle.chain(refused).chain(obeyed).collect()
});

/// Returns true for `false`, unless `true` is neutral, for an empty text, list or object, and for the `neutral` values.
fn asks_for_nothing(value: &Value, neutral: &[&str]) -> bool {
    let is_empty = match value {
        Value::Null => true,
        // The field is a wish if it is true by default.
        Value::Bool(false) => !neutral.contains(&"true"),
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
