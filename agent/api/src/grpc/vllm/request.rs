//! A request of the protocol as the session's input. A field that cannot be obeyed is refused by its name, unless its
//! value asks for nothing.

use lockstep_proto::vllm::grpc::engine::generate_request::Input;
use lockstep_proto::vllm::grpc::engine::sampling_params::Constraint;
use lockstep_proto::vllm::grpc::engine::{GenerateRequest, KvTransferParams, SamplingParams};
use serde_json::Value;
use tonic::metadata::MetadataMap;

use super::answers::Shape;
use crate::grammar::Grammar;
use crate::grpc::status::read_request_id;
use crate::session::{GenerateInput, LimitsInput, PromptInput, RequestError, SamplingInput, Truncation, request_id};

const TRUNCATION: &str = "truncate_prompt_tokens";
/// Remedy for inputs that only a model with an encoder takes.
const TEXT_ONLY: &str = "this model reads text: leave it out";
const NO_TRANSFER: &str =
    "each group computes its own keys and values: leave it out, and route to the group as a whole";

/// Returns the id that the client gave the request, or that of the metadata, or a new one.
///
/// # Errors
/// The id is not fit for logs. `Abort` would not find the request under another id.
pub(super) fn request_name(own: String, metadata: &MetadataMap) -> Result<String, RequestError> {
    if own.is_empty() {
        return Ok(read_request_id(metadata));
    }
    if request_id(Some(own.as_bytes())) == own {
        return Ok(own);
    }
    Err(RequestError::field("request_id", "expected up to 128 visible ASCII characters"))
}

/// Checks that a request asks for the only rank of data parallelism.
///
/// # Errors
/// The field asks for another one.
pub(super) fn check_rank(field: &'static str, rank: Option<i32>) -> Result<(), RequestError> {
    match rank {
        None | Some(0) => Ok(()),
        Some(rank) => Err(RequestError::field(field, format!("{rank} is out of range: a group is one rank, 0"))),
    }
}

/// Reads a request for a model with that context. Returns the input, and what the answer's messages show.
///
/// # Errors
/// Names the field that is wrong or that cannot be obeyed.
pub(super) fn read(wire: GenerateRequest, context_length: u32) -> Result<(GenerateInput, Shape), RequestError> {
    check_unsupported(&wire)?;
    let prompt = match wire.input {
        Some(Input::Tokenized(tokens)) => PromptInput::Tokens(tokens.input_ids),
        Some(Input::Text(text)) => PromptInput::Text(text),
        None => return Err(RequestError::field("input", "missing: send tokenized or text")),
    };
    let params = wire.sampling_params.unwrap_or_default();
    let logprobs = params.logprobs.map(|count| unsigned("logprobs", count, "0 to 20")).transpose()?;
    let shape = Shape {
        stop: params.stop.clone(),
        stop_token_ids: params.stop_token_ids.clone(),
        stream: wire.stream,
        logprobs: logprobs.is_some(),
        top_logprobs: logprobs.is_some_and(|count| count > 0),
    };
    let truncation = params.truncate_prompt_tokens.map(|asked| truncation(asked, context_length)).transpose()?;
    let input = GenerateInput {
        prompt,
        sampling: sampling(&params)?,
        logprobs,
        choices: (params.n > 0).then_some(params.n),
        grammar: params.constraint.map(grammar).transpose()?.flatten(),
        limits: LimitsInput {
            max_tokens: params.max_tokens,
            min_tokens: params.min_tokens,
            stop: params.stop,
            stop_token_ids: params.stop_token_ids,
            ignore_eos: params.ignore_eos,
        },
        truncation,
        ..GenerateInput::default()
    };
    Ok((input, shape))
}

/// Refuses the fields that this server cannot obey.
fn check_unsupported(wire: &GenerateRequest) -> Result<(), RequestError> {
    check_rank("data_parallel_rank", wire.data_parallel_rank)?;
    let transfers = wire.kv_transfer_params.as_ref().is_some_and(|params| *params != KvTransferParams::default());
    let asks_in_json = |json: &str| !matches!(json.trim(), "" | "null" | "{}");
    let has_refs = wire.media_refs.as_ref().is_some_and(|refs| !refs.items.is_empty());
    let params = wire.sampling_params.as_ref();
    let refusals = [
        ("kv_transfer_params", transfers, NO_TRANSFER),
        ("kv_transfer_params_json", wire.kv_transfer_params_json.as_deref().is_some_and(asks_in_json), NO_TRANSFER),
        ("mm_inputs", wire.mm_inputs.is_some(), TEXT_ONLY),
        ("extra_mm_inputs", !wire.extra_mm_inputs.is_empty(), TEXT_ONLY),
        ("media_refs", has_refs, TEXT_ONLY),
        (
            "prompt_logprobs",
            params.is_some_and(|params| params.prompt_logprobs.is_some()),
            "not supported: ask for logprobs of the answer",
        ),
    ];
    match refusals.into_iter().find(|(_, asks, _)| *asks) {
        Some((field, _, remedy)) => Err(RequestError::field(field, remedy)),
        None => Ok(()),
    }
}

/// Reads the choice of a token. The protocol has no unset value for most fields: 0 is one where it means nothing.
fn sampling(params: &SamplingParams) -> Result<SamplingInput, RequestError> {
    let set_or_one = |value: f32| Some(if value == 0.0 { 1.0 } else { value });
    let mut logit_bias = Vec::with_capacity(params.logit_bias.len());
    for (id, bias) in &params.logit_bias {
        logit_bias.push((unsigned("logit_bias", *id, "ids of the vocabulary")?, *bias));
    }
    logit_bias.sort_unstable_by_key(|(id, _)| *id);
    Ok(SamplingInput {
        temperature: Some(params.temperature.unwrap_or(1.0)),
        top_k: Some(params.top_k),
        top_p: set_or_one(params.top_p),
        min_p: Some(params.min_p),
        repetition_penalty: set_or_one(params.repetition_penalty),
        presence_penalty: Some(params.presence_penalty),
        frequency_penalty: Some(params.frequency_penalty),
        logit_bias,
        seed: params.seed.map(|seed| i64::from(seed).cast_unsigned()),
    })
}

/// Reads the form of the answer. Returns `None` if the constraint asks for nothing.
fn grammar(constraint: Constraint) -> Result<Option<(&'static str, Grammar)>, RequestError> {
    Ok(match constraint {
        Constraint::JsonSchema(text) => {
            const FIELD: &str = "json_schema";
            let schema: Value = serde_json::from_str(&text)
                .map_err(|error| RequestError::field(FIELD, format!("the schema is not JSON: {error}")))?;
            Some((FIELD, Grammar::JsonSchema(schema)))
        }
        Constraint::Regex(regex) => Some(("regex", Grammar::Regex(regex))),
        Constraint::Grammar(lark) => Some(("grammar", Grammar::Lark(lark))),
        Constraint::JsonObject(asked) => asked.then_some(("json_object", Grammar::JsonObject)),
        Constraint::Choice(choice) => Some(("choice", Grammar::Choice(choice.choices))),
        Constraint::StructuralTag(tag) if tag.is_empty() => None,
        Constraint::StructuralTag(_) => {
            let remedy = "not supported: ask for json_schema, regex, grammar or choice";
            return Err(RequestError::field("structural_tag", remedy));
        }
    })
}

fn unsigned(field: &'static str, value: i32, bounds: &str) -> Result<u32, RequestError> {
    u32::try_from(value).map_err(|_| RequestError::field(field, format!("{value} is out of range: {bounds}")))
}

/// Reads the number of a prompt's last tokens to keep. -1 stands for as many as leave room for one token of the answer.
fn truncation(asked: i32, context_length: u32) -> Result<Truncation, RequestError> {
    let most = match u32::try_from(asked) {
        Ok(0) => {
            let reason = "0 is out of range: 1 or more, or -1 for what fits the context";
            return Err(RequestError::field(TRUNCATION, reason));
        }
        Ok(most) => most,
        Err(_) if asked == -1 => context_length.saturating_sub(1),
        Err(_) => return Err(RequestError::field(TRUNCATION, format!("{asked} is out of range: -1, or 1 or more"))),
    };
    Ok(Truncation { max_tokens: Some(most), keeps_first: false })
}

#[cfg(test)]
mod tests {
    use lockstep_proto::vllm::grpc::engine::{ChoiceConstraint, MediaRef, MediaRefs, MultimodalInputs};

    use super::*;

    const CONTEXT: u32 = 100;

    fn request(change: impl FnOnce(&mut GenerateRequest)) -> GenerateRequest {
        let mut request = GenerateRequest { input: Some(Input::Text("x".into())), ..Default::default() };
        change(&mut request);
        request
    }

    fn with_params(params: SamplingParams) -> GenerateRequest {
        request(|request| request.sampling_params = Some(params))
    }

    #[test]
    fn fields_that_cannot_be_obeyed_are_named() {
        let params = |params: SamplingParams| with_params(params);
        let constraint = |constraint| params(SamplingParams { constraint: Some(constraint), ..Default::default() });
        let transfer = KvTransferParams { remote_host: "h".into(), remote_port: 1 };
        let refs = MediaRefs { items: vec![MediaRef::default()] };
        let cases = [
            (request(|r| r.input = None), "input: missing"),
            (request(|r| r.kv_transfer_params = Some(transfer)), "kv_transfer_params: each group"),
            (request(|r| r.kv_transfer_params_json = Some("{\"a\": 1}".into())), "kv_transfer_params_json: each group"),
            (request(|r| r.mm_inputs = Some(MultimodalInputs {})), "mm_inputs: this model reads text"),
            (request(|r| r.extra_mm_inputs = vec![MultimodalInputs {}]), "extra_mm_inputs: this model reads text"),
            (request(|r| r.media_refs = Some(refs)), "media_refs: this model reads text"),
            (request(|r| r.data_parallel_rank = Some(1)), "data_parallel_rank: 1 is out of range"),
            (
                params(SamplingParams { prompt_logprobs: Some(0), ..Default::default() }),
                "prompt_logprobs: not supported",
            ),
            (
                params(SamplingParams { logprobs: Some(-1), ..Default::default() }),
                "logprobs: -1 is out of range: 0 to 20",
            ),
            (
                params(SamplingParams { logit_bias: [(-3, 1.0)].into(), ..Default::default() }),
                "logit_bias: -3 is out of range",
            ),
            (
                params(SamplingParams { truncate_prompt_tokens: Some(0), ..Default::default() }),
                "truncate_prompt_tokens: 0 is out of range",
            ),
            (
                params(SamplingParams { truncate_prompt_tokens: Some(-2), ..Default::default() }),
                "truncate_prompt_tokens: -2 is out of range",
            ),
            (constraint(Constraint::StructuralTag("{}".into())), "structural_tag: not supported"),
            (constraint(Constraint::JsonSchema("{".into())), "json_schema: the schema is not JSON"),
        ];
        for (wire, expected) in cases {
            let error = read(wire, CONTEXT).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn values_that_ask_for_nothing_are_taken() {
        let constraint =
            |constraint| with_params(SamplingParams { constraint: Some(constraint), n: 0, ..Default::default() });
        let cases = [
            request(|r| r.kv_transfer_params = Some(KvTransferParams::default())),
            request(|r| r.kv_transfer_params_json = Some(" {} ".into())),
            request(|r| r.media_refs = Some(MediaRefs::default())),
            request(|r| r.data_parallel_rank = Some(0)),
            constraint(Constraint::JsonObject(false)),
            constraint(Constraint::StructuralTag(String::new())),
            with_params(SamplingParams {
                skip_special_tokens: true,
                spaces_between_special_tokens: true,
                include_stop_str_in_output: true,
                grammar_from_first_token: true,
                ..Default::default()
            }),
        ];
        for wire in cases {
            let (input, shape) = read(wire, CONTEXT).unwrap();
            assert!(input.grammar.is_none() && input.choices.is_none() && input.truncation.is_none());
            assert_eq!(shape, Shape::default());
            let sampling = input.sampling;
            assert_eq!(
                (sampling.temperature, sampling.top_p, sampling.repetition_penalty),
                (Some(1.0), Some(1.0), Some(1.0))
            );
            assert_eq!((sampling.top_k, sampling.min_p, sampling.seed), (Some(0), Some(0.0), None));
        }
    }

    #[test]
    fn fields_are_obeyed() {
        let constraint = Some(Constraint::Choice(ChoiceConstraint { choices: vec!["a".into()] }));
        let wire = with_params(SamplingParams {
            temperature: Some(0.5),
            top_p: 0.9,
            top_k: 7,
            repetition_penalty: 1.1,
            seed: Some(-1),
            n: 3,
            logprobs: Some(0),
            max_tokens: Some(4),
            stop: vec!["s".into()],
            stop_token_ids: vec![5],
            logit_bias: [(9, 1.0), (4, -2.0)].into(),
            truncate_prompt_tokens: Some(-1),
            constraint,
            ..Default::default()
        });
        let (input, shape) = read(wire, CONTEXT).unwrap();
        assert_eq!(input.truncation, Some(Truncation { max_tokens: Some(CONTEXT - 1), keeps_first: false }));
        assert_eq!((shape.stream, shape.logprobs, shape.top_logprobs), (false, true, false));
        assert_eq!((shape.stop, shape.stop_token_ids), (vec!["s".to_owned()], vec![5]));
        assert_eq!((input.logprobs, input.choices), (Some(0), Some(3)));
        assert_eq!(input.grammar, Some(("choice", Grammar::Choice(vec!["a".into()]))));
        let sampling = input.sampling;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.5), Some(0.9), Some(7)));
        assert_eq!((sampling.seed, sampling.logit_bias), (Some(u64::MAX), vec![(4, -2.0), (9, 1.0)]));
        let limits = input.limits;
        assert_eq!((limits.max_tokens, limits.stop, limits.stop_token_ids), (Some(4), vec!["s".into()], vec![5]));
    }

    #[test]
    fn a_request_keeps_its_name() {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-request-id", "theirs".parse().unwrap());
        assert_eq!(request_name(String::new(), &metadata).unwrap(), "theirs");
        assert_eq!(request_name("own".into(), &metadata).unwrap(), "own");
        assert!(request_name("a b".into(), &metadata).unwrap_err().to_string().starts_with("request_id: "));
    }
}
