//! Streams one answer: hands on the text as it arrives, and returns the whole answer with its figures.

use std::io;
use std::time::Instant;

use lockstep_proto::chat::Figures;
use lockstep_proto::v1::inference_client::InferenceClient;
use lockstep_proto::v1::{ChatMessage, ChatRequest, FinishReason, GenerateRequest, generate_request};

use super::access::Connection;
use super::endpoint::EndpointError;
use super::sampling::SamplingArgs;

/// Input of one request.
pub(super) enum Question {
    Prompt(String),
    Conversation(Vec<ChatMessage>),
}

/// Text of an answer, with the figures of its request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    pub text: String,
    pub figures: Figures,
}

/// Sends `question` to the group and hands each piece of the answer to `out`.
///
/// # Errors
/// Fails if the group refuses the request, the connection breaks, or `out` fails.
pub(super) async fn stream_answer(
    client: &mut InferenceClient<Connection>,
    question: Question,
    sampling: &SamplingArgs,
    mut out: impl FnMut(&str) -> io::Result<()>,
) -> Result<Answer, EndpointError> {
    let sent = Instant::now();
    let (sampling, limits) = (Some(sampling.sampling()), Some(sampling.limits()));
    let mut pieces = match question {
        Question::Prompt(text) => {
            let prompt = Some(generate_request::Prompt::Text(text));
            client.generate(GenerateRequest { prompt, sampling, limits, ..Default::default() }).await?
        }
        Question::Conversation(messages) => {
            client.chat(ChatRequest { messages, sampling, limits, ..Default::default() }).await?
        }
    }
    .into_inner();
    let mut answer = Answer::default();
    let figures = &mut answer.figures;
    let mut first = None;
    while let Some(piece) = pieces.message().await? {
        if !piece.token_ids.is_empty() {
            let first = *first.get_or_insert_with(Instant::now);
            figures.first = first - sent;
            figures.rest = first.elapsed();
        }
        if let Some(usage) = &piece.usage {
            figures.prompt_tokens = usage.prompt_tokens;
            figures.cached_tokens = usage.cached_tokens;
            figures.tokens = usage.completion_tokens;
        }
        if piece.finish_reason() != FinishReason::Unspecified {
            figures.finish = piece.finish_reason();
        }
        if !piece.text.is_empty() {
            out(&piece.text)?;
            answer.text.push_str(&piece.text);
        }
    }
    Ok(answer)
}

/// Returns a message of a conversation.
pub(super) fn message(role: &str, content: impl Into<String>) -> ChatMessage {
    ChatMessage { role: role.into(), content: content.into(), ..ChatMessage::default() }
}
