//! `lockstep.v1.Inference`: wire types in, wire types out. The session does everything between.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use lockstep_proto::v1::generate_request::Prompt;
use lockstep_proto::v1::grammar::Kind;
use lockstep_proto::v1::inference_server::Inference;
use lockstep_proto::v1::{
    self, ChatRequest, DetokenizeRequest, DetokenizeResponse, GenerateRequest, GenerateResponse, GetModelInfoRequest,
    GetModelInfoResponse, ListModelsRequest, ListModelsResponse, TokenizeRequest, TokenizeResponse,
};
use lockstep_schedule::plan::TokenLogprobs;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::chat;
use super::status::{add_request_id, read_deadline, read_request_id, status};
use crate::access::AnswerTally;
use crate::grammar::Grammar;
use crate::session::{
    Answer, Api, Delta, Finish, GenerateInput, GeneratedToken, LimitsInput, PromptInput, RequestError, SamplingInput,
    ScoredToken, Usage,
};
use crate::text::Tokenizer;

type Generated = BoxStream<'static, Result<GenerateResponse, Status>>;

pub(crate) struct InferenceService {
    api: Api,
}

impl InferenceService {
    pub(crate) fn new(api: Api) -> Self {
        Self { api }
    }

    async fn start(&self, metadata: &MetadataMap, mut input: GenerateInput) -> Result<Response<Generated>, Status> {
        input.request_id = read_request_id(metadata);
        let request_id = input.request_id.clone();
        input.deadline = read_deadline(metadata).map_err(|error| self.refuse(metadata, &error))?;
        let answers = self.api.generate(input).await.map_err(|error| refusal(metadata, &error))?;
        let (tokenizer, tally) = (self.api.text().tokenizer(), AnswerTally::default());
        let streams = answers.into_iter().map(|answer| responses(answer, tokenizer.clone(), tally.clone()));
        let mut response = Response::new(until_error(stream::select_all(streams)));
        add_request_id(response.metadata_mut(), &request_id);
        response.extensions_mut().insert(tally);
        Ok(response)
    }

    /// Counts a request that is refused before the session has seen it, and returns the status of the refusal.
    fn refuse(&self, metadata: &MetadataMap, error: &RequestError) -> Status {
        self.api.metrics().count_outcome(error.outcome());
        refusal(metadata, error)
    }
}

/// Returns the status of a refusal.
fn refusal(metadata: &MetadataMap, error: &RequestError) -> Status {
    status(error, &read_request_id(metadata))
}

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = Generated;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Generated>, Status> {
        let (metadata, _, request) = request.into_parts();
        let prompt = match request.prompt {
            Some(Prompt::Text(text)) => PromptInput::Text(text),
            Some(Prompt::TokenIds(tokens)) => PromptInput::Tokens(tokens.ids),
            None => PromptInput::default(),
        };
        let input = GenerateInput {
            model: request.model,
            prompt,
            sampling: sampling(request.sampling.unwrap_or_default()),
            limits: limits(request.limits.unwrap_or_default()),
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            choices: request.n,
            grammar: request.grammar.map(grammar).transpose().map_err(|error| self.refuse(&metadata, &error))?,
            ..GenerateInput::default()
        };
        self.start(&metadata, input).await
    }

    type ChatStream = Generated;

    async fn chat(&self, request: Request<ChatRequest>) -> Result<Response<Generated>, Status> {
        let (metadata, _, request) = request.into_parts();
        let refuse = |error: RequestError| self.refuse(&metadata, &error);
        let prompt = PromptInput::Chat(chat::conversation_from_wire(request.messages).map_err(refuse)?);
        let tools = chat::tools_from_wire(request.tools, request.tool_choice, request.single_call).map_err(refuse)?;
        let input = GenerateInput {
            model: request.model,
            prompt,
            sampling: sampling(request.sampling.unwrap_or_default()),
            limits: limits(request.limits.unwrap_or_default()),
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            choices: request.n,
            grammar: request.grammar.map(grammar).transpose().map_err(refuse)?,
            tools,
            ..GenerateInput::default()
        };
        self.start(&metadata, input).await
    }

    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let ids = self.api.tokenize("text", &request.model, request.text, !request.no_special_tokens).await;
        let token_ids = ids.map_err(|error| status(&error, &read_request_id(&metadata)))?;
        Ok(Response::new(TokenizeResponse { token_ids }))
    }

    async fn detokenize(&self, request: Request<DetokenizeRequest>) -> Result<Response<DetokenizeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let text = self.api.detokenize("token_ids", &request.model, &request.token_ids, request.skip_special_tokens);
        let text = text.map_err(|error| status(&error, &read_request_id(&metadata)))?;
        Ok(Response::new(DetokenizeResponse { text }))
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        Ok(Response::new(ListModelsResponse { models: vec![self.api.model().clone()] }))
    }

    async fn get_model_info(
        &self,
        request: Request<GetModelInfoRequest>,
    ) -> Result<Response<GetModelInfoResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.api.check_model(&request.model).map_err(|error| status(&error, &read_request_id(&metadata)))?;
        Ok(Response::new(GetModelInfoResponse { model: Some(self.api.model().clone()) }))
    }
}

fn sampling(wire: v1::Sampling) -> SamplingInput {
    let v1::Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        logit_bias,
        seed,
    } = wire;
    let mut logit_bias: Vec<(u32, f32)> = logit_bias.into_iter().collect();
    logit_bias.sort_unstable_by_key(|(id, _)| *id);
    SamplingInput {
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        logit_bias,
        seed,
    }
}

fn limits(wire: v1::Limits) -> LimitsInput {
    let v1::Limits { max_tokens, stop, stop_token_ids, ignore_eos, min_tokens } = wire;
    LimitsInput { max_tokens, min_tokens, stop, stop_token_ids, ignore_eos }
}

fn grammar(wire: v1::Grammar) -> Result<(&'static str, Grammar), RequestError> {
    const FIELD: &str = "grammar";
    let refuse = |reason: String| RequestError::field(FIELD, reason);
    let grammar = match wire.kind {
        Some(Kind::JsonSchema(text)) => {
            let schema = serde_json::from_str(&text);
            Grammar::JsonSchema(schema.map_err(|error| refuse(format!("the schema is not JSON: {error}")))?)
        }
        Some(Kind::JsonObject(true)) => Grammar::JsonObject,
        Some(Kind::Regex(regex)) => Grammar::Regex(regex),
        Some(Kind::Choice(choices)) => Grammar::Choice(choices.texts),
        Some(Kind::Lark(lark)) => Grammar::Lark(lark),
        Some(Kind::JsonObject(false)) | None => {
            return Err(refuse("nothing is asked for: set json_schema, json_object, regex, choice or lark".into()));
        }
    };
    Ok((FIELD, grammar))
}

/// Returns the stream up to its first error. An error ends the call, and with the call its other choices.
pub(super) fn until_error<T: Send + 'static>(
    responses: impl Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    stream::unfold(Some(responses), |responses| async move {
        let mut responses = responses?;
        let response = responses.next().await?;
        let rest = response.is_ok().then_some(responses);
        Some((response, rest))
    })
    .boxed()
}

/// Returns the answer as messages. The first and the last carry the usage.
fn responses(answer: Answer, tokenizer: Arc<Tokenizer>, tally: AnswerTally) -> Generated {
    stream::unfold((answer, true, tokenizer, tally), |(mut answer, first, tokenizer, tally)| async move {
        let response = match answer.next().await? {
            Ok(delta) => {
                tally.set_usage(answer.choice() as usize, answer.usage());
                let usage = (first || delta.finish.is_some()).then(|| usage(answer.usage()));
                Ok(response(&answer, delta, usage, &tokenizer))
            }
            Err(error) => {
                tally.fail(error.to_string());
                Err(status(&error, answer.request_id()))
            }
        };
        Some((response, (answer, false, tokenizer, tally)))
    })
    .boxed()
}

fn response(answer: &Answer, delta: Delta, usage: Option<v1::Usage>, tokenizer: &Tokenizer) -> GenerateResponse {
    let finish_reason = match delta.finish {
        None => v1::FinishReason::Unspecified,
        Some(Finish::Stop) => v1::FinishReason::Stop,
        Some(Finish::ToolCalls) => v1::FinishReason::ToolCalls,
        Some(Finish::Length) => v1::FinishReason::Length,
        Some(Finish::Cancelled) => v1::FinishReason::Cancelled,
    };
    GenerateResponse {
        request_id: answer.request_id().to_owned(),
        prompt: delta.prompt.iter().map(|token| prompt_to_wire(token, tokenizer)).collect(),
        choice: answer.choice(),
        text: delta.text,
        reasoning: delta.reasoning,
        tool_calls: delta.calls.into_iter().map(chat::call_to_wire).collect(),
        token_ids: delta.tokens.iter().map(|token| token.id).collect(),
        logprobs: delta.tokens.iter().filter_map(|token| logprobs(token, tokenizer)).collect(),
        finish_reason: finish_reason.into(),
        usage,
    }
}

fn prompt_to_wire(token: &ScoredToken, tokenizer: &Tokenizer) -> v1::PromptToken {
    let ScoredToken { id, scores } = token;
    let (logprob, top) = (scores.logprobs.chosen, top_to_wire(&scores.logprobs, tokenizer));
    v1::PromptToken { token_id: *id, logprob, rank: scores.rank, top }
}

fn logprobs(token: &GeneratedToken, tokenizer: &Tokenizer) -> Option<v1::TokenLogprobs> {
    let logprobs = token.logprobs.as_ref()?;
    Some(v1::TokenLogprobs { logprob: logprobs.chosen, top: top_to_wire(logprobs, tokenizer) })
}

fn top_to_wire(logprobs: &TokenLogprobs, tokenizer: &Tokenizer) -> Vec<v1::TopLogprob> {
    let top = logprobs.top.iter().map(|(id, logprob)| v1::TopLogprob {
        token_id: *id,
        logprob: *logprob,
        text: tokenizer.token_text(*id),
    });
    top.collect()
}

fn usage(usage: Usage) -> v1::Usage {
    let Usage { prompt_tokens, completion_tokens, cached_tokens, .. } = usage;
    v1::Usage { prompt_tokens, completion_tokens, cached_tokens }
}
