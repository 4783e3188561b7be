//! Answers as the protocol's messages: chunks while they grow if the client streams, and one last message a choice.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lockstep_proto::vllm::grpc::engine::generate_complete::MatchedStop;
use lockstep_proto::vllm::grpc::engine::generate_response::Response as Message;
use lockstep_proto::vllm::grpc::engine::{
    GenerateComplete, GenerateResponse, GenerateStreamChunk, OutputLogProbs, TopLogProbs,
};
use tonic::Status;

use super::running::Entry;
use crate::access::AnswerTally;
use crate::grpc::inference::until_error;
use crate::grpc::status::status;
use crate::session::{Answer, Finish, GeneratedToken, RequestError};
use crate::text::Tokenizer;

pub(super) type Generated = BoxStream<'static, Result<GenerateResponse, Status>>;

/// Reason for the end of an answer that a client or a drain ended.
const ABORT: &str = "abort";

/// What the messages of an answer show, and what the client asked to end it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<u32>,
    /// Set if chunks come as the answer grows.
    pub stream: bool,
    /// Set if the messages have log-probabilities.
    pub logprobs: bool,
    /// Set if they have those of other tokens too.
    pub top_logprobs: bool,
}

/// Returns the messages of all choices. They end at the first error.
pub(super) fn messages(
    answers: Vec<Answer>,
    shape: &Arc<Shape>,
    entry: &Arc<Entry>,
    tokenizer: &Arc<Tokenizer>,
    tally: &AnswerTally,
) -> Generated {
    // The session counts the prompt once, and the protocol counts it for each choice.
    let prompt_tokens = answers.iter().map(|answer| answer.usage().prompt_tokens).sum();
    let choices = answers.into_iter().map(|answer| Choice {
        index: answer.choice(),
        request_id: answer.request_id().to_owned(),
        answer: Some(answer),
        shape: shape.clone(),
        entry: entry.clone(),
        tokenizer: tokenizer.clone(),
        tally: tally.clone(),
        prompt_tokens,
        cached_tokens: 0,
        tokens: Vec::new(),
        has_begun: false,
        end: None,
    });
    until_error(stream::select_all(choices.map(Choice::messages)))
}

/// Returns the messages of a request that was aborted before it began.
pub(super) fn aborted(choices: u32) -> Generated {
    let complete = |index| GenerateComplete { index, finish_reason: ABORT.into(), ..Default::default() };
    stream::iter((0..choices).map(move |index| Ok(response(Message::Complete(complete(index)))))).boxed()
}

/// One choice of a request, as it grows.
struct Choice {
    index: u32,
    request_id: String,
    /// `None` once the answer has ended. Dropping the answer frees its blocks at the head.
    answer: Option<Answer>,
    shape: Arc<Shape>,
    entry: Arc<Entry>,
    tokenizer: Arc<Tokenizer>,
    tally: AnswerTally,
    prompt_tokens: u32,
    cached_tokens: u32,
    tokens: Vec<GeneratedToken>,
    /// Set once a chunk was sent. A router expects one before the last message.
    has_begun: bool,
    /// Set once the answer has ended and the last message has not been sent.
    end: Option<End>,
}

/// How an answer ended.
struct End {
    finish_reason: &'static str,
    matched_stop: Option<MatchedStop>,
}

impl Choice {
    fn messages(self) -> Generated {
        stream::unfold(self, |mut choice| async move {
            let message = choice.next().await?;
            Some((message, choice))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<GenerateResponse, Status>> {
        loop {
            if let Some(end) = self.end.take() {
                return Some(Ok(response(Message::Complete(self.complete(end)))));
            }
            self.answer.as_ref()?;
            let sent = self.tokens.len();
            if let Err(error) = self.grow().await {
                self.answer = None;
                self.tally.fail(error.to_string());
                return Some(Err(status(&error, &self.request_id)));
            }
            let has_news = self.tokens.len() > sent || (self.end.is_some() && !self.has_begun);
            if self.shape.stream && has_news {
                self.has_begun = true;
                return Some(Ok(response(Message::Chunk(self.chunk(sent)))));
            }
        }
    }

    /// Waits until the answer has grown or ended, or is aborted.
    async fn grow(&mut self) -> Result<(), RequestError> {
        let Some(answer) = &mut self.answer else { return Ok(()) };
        let delta = tokio::select! {
            biased;
            () = self.entry.aborted() => None,
            delta = answer.next() => delta.transpose()?,
        };
        self.cached_tokens = answer.usage().cached_tokens;
        self.tally.set_usage(self.index as usize, answer.usage());
        let (finish_reason, matched_stop) = match delta {
            None => (ABORT, None),
            Some(delta) => {
                self.tokens.extend(delta.tokens);
                let Some(finish) = delta.finish else { return Ok(()) };
                let string = delta.stop_string.map(MatchedStop::MatchedStopStr);
                (finish_reason(finish), string.or_else(|| self.match_token(delta.stop_token?)))
            }
        };
        self.answer = None;
        self.end = Some(End { finish_reason, matched_stop });
        Ok(())
    }

    /// Returns what a stop token matches. The model's own end tokens match nothing that the client asked for. A stop string
    /// that spells a special token ends the answer at that token.
    fn match_token(&self, token: u32) -> Option<MatchedStop> {
        if self.shape.stop_token_ids.contains(&token) {
            return Some(MatchedStop::MatchedTokenId(token));
        }
        let text = self.tokenizer.token_text(token);
        self.shape.stop.contains(&text).then_some(MatchedStop::MatchedStopStr(text))
    }

    /// Returns the chunk of the tokens from that index on.
    fn chunk(&self, from: usize) -> GenerateStreamChunk {
        let tokens = &self.tokens[from..];
        GenerateStreamChunk {
            token_ids: tokens.iter().map(|token| token.id).collect(),
            prompt_tokens: self.prompt_tokens,
            completion_tokens: tokens.len() as u32,
            cached_tokens: self.cached_tokens,
            output_logprobs: self.shape.output_logprobs(tokens),
            index: self.index,
        }
    }

    fn complete(&self, end: End) -> GenerateComplete {
        GenerateComplete {
            output_ids: self.tokens.iter().map(|token| token.id).collect(),
            finish_reason: end.finish_reason.into(),
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.tokens.len() as u32,
            cached_tokens: self.cached_tokens,
            output_logprobs: self.shape.output_logprobs(&self.tokens),
            index: self.index,
            matched_stop: end.matched_stop,
        }
    }
}

impl Shape {
    fn output_logprobs(&self, tokens: &[GeneratedToken]) -> Option<OutputLogProbs> {
        if !self.logprobs || tokens.is_empty() {
            return None;
        }
        let mut wire = OutputLogProbs::default();
        for token in tokens {
            let Some(logprobs) = &token.logprobs else { continue };
            wire.token_ids.push(token.id);
            wire.token_logprobs.push(logprobs.chosen);
            if self.top_logprobs {
                let (token_ids, values) = logprobs.top.iter().copied().unzip();
                wire.top_logprobs.push(TopLogProbs { values, token_ids });
            }
        }
        Some(wire)
    }
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::ToolCalls => "stop",
        Finish::Length => "length",
        Finish::Cancelled => ABORT,
    }
}

fn response(message: Message) -> GenerateResponse {
    GenerateResponse { response: Some(message) }
}
