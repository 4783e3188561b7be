//! One streamed answer: text out as it comes, and the figures at the end.

use std::io;
use std::time::Instant;

use lockstep_proto::chat::Figures;
use lockstep_proto::v1::inference_client::InferenceClient;
use lockstep_proto::v1::{ChatMessage, ChatRequest, FinishReason, GenerateRequest, generate_request};
use tonic::transport::Channel;

use super::endpoint::EndpointError;
use super::sampling::Sampling;

/// What is asked.
pub(super) enum Question {
    Prompt(String),
    Conversation(Vec<ChatMessage>),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    pub text: String,
    pub figures: Figures,
}

/// Asks `question` and hands each piece of the answer to `out`.
///
/// # Errors
/// The group's refusal, a broken connection, or `out`'s own.
pub(super) async fn stream(
    client: &mut InferenceClient<Channel>,
    question: Question,
    how: &Sampling,
    mut out: impl FnMut(&str) -> io::Result<()>,
) -> Result<Answer, EndpointError> {
    let asked = Instant::now();
    let (sampling, limits) = (Some(how.sampling()), Some(how.limits()));
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
            figures.first = first - asked;
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

pub(super) fn message(role: &str, content: impl Into<String>) -> ChatMessage {
    ChatMessage { role: role.into(), content: content.into(), ..ChatMessage::default() }
}
