//! One streamed answer: text out as it comes, and the figures at the end.

use std::io;
use std::time::{Duration, Instant};

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
    pub finish: FinishReason,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub tokens: u32,
    /// From the question to the first token.
    pub first: Duration,
    /// From the first token to the last.
    pub rest: Duration,
}

impl Answer {
    /// Tokens per second after the first; 0 where there were fewer than two.
    fn rate(&self) -> f64 {
        let seconds = self.rest.as_secs_f64();
        if self.tokens < 2 || seconds == 0.0 { 0.0 } else { f64::from(self.tokens - 1) / seconds }
    }

    /// The figures, in one line.
    pub(super) fn figures(&self) -> String {
        let cached = match self.cached_tokens {
            0 => String::new(),
            cached => format!(" ({cached} cached)"),
        };
        let why = match self.finish {
            FinishReason::Length => ", cut at the limit",
            FinishReason::Cancelled => ", cancelled",
            FinishReason::Stop | FinishReason::Unspecified => "",
        };
        format!(
            "{} tokens{why}; {:.1} tokens/s after the first, which took {:.0} ms; prompt of {} tokens{cached}",
            self.tokens,
            self.rate(),
            self.first.as_secs_f64() * 1e3,
            self.prompt_tokens
        )
    }
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
    let mut first = None;
    while let Some(piece) = pieces.message().await? {
        if !piece.token_ids.is_empty() {
            let first = *first.get_or_insert_with(Instant::now);
            answer.first = first - asked;
            answer.rest = first.elapsed();
        }
        if let Some(usage) = &piece.usage {
            answer.prompt_tokens = usage.prompt_tokens;
            answer.cached_tokens = usage.cached_tokens;
            answer.tokens = usage.completion_tokens;
        }
        if piece.finish_reason() != FinishReason::Unspecified {
            answer.finish = piece.finish_reason();
        }
        if !piece.text.is_empty() {
            out(&piece.text)?;
            answer.text.push_str(&piece.text);
        }
    }
    Ok(answer)
}

pub(super) fn message(role: &str, content: impl Into<String>) -> ChatMessage {
    ChatMessage { role: role.into(), content: content.into() }
}

#[cfg(test)]
mod tests {
    use super::{Answer, FinishReason};
    use std::time::Duration;

    #[test]
    fn figures_of_answers() {
        let answer = Answer {
            finish: FinishReason::Length,
            prompt_tokens: 7,
            cached_tokens: 4,
            tokens: 11,
            first: Duration::from_millis(250),
            rest: Duration::from_secs(2),
            ..Answer::default()
        };
        let line = "11 tokens, cut at the limit; 5.0 tokens/s after the first, which took 250 ms; prompt of 7 tokens (4 cached)";
        assert_eq!(answer.figures(), line);
        assert!(Answer::default().figures().starts_with("0 tokens; 0.0 tokens/s"));
    }
}
