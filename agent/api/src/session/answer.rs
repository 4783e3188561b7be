//! Answers as they grow: an answer turns the head's events into text, looks for stop strings, and counts metrics.
//!
//! Dropping an [`Answer`] before its end cancels the request.

use std::sync::Arc;
use std::time::Instant;

use lockstep_schedule::plan::{PromptToken, TokenLogprobs};

use super::RequestError;
use super::request::{OutputInput, Prepared};
use crate::metrics::{Metrics, Outcome};
use crate::output::{OutputParser, OutputPiece};
use crate::service::{Event, EventStream, FinishReason, ServeError, Submission};
use crate::text::{Detokenizer, StopMatcher, Stopped, Tokenizer};

/// Most events in one [`Delta`], for a client so slow that events piled up.
const MAX_COALESCED: usize = 64;

/// Reason for an answer's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token, a stop string, or a complete form.
    Stop,
    /// `Stop`, in an answer with calls.
    ToolCalls,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The head ended the request because its drain timeout passed.
    Cancelled,
}

impl From<FinishReason> for Finish {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::StopToken(_) | FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
        }
    }
}

/// Wish of the client that ended an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// A stop string.
    Text(String),
    /// A stop token.
    Token(u32),
}

/// Growth of an answer since the last delta.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// Next tokens of the prompt, from the second one on, if the request asks for their log-probabilities. All come
    /// before the first token of the answer.
    pub prompt: Vec<ScoredToken>,
    /// New text. It is empty while a character, a possible stop string or a possible call is incomplete.
    pub text: String,
    pub reasoning: String,
    /// At most one entry for each call.
    pub calls: Vec<CallDelta>,
    pub tokens: Vec<GeneratedToken>,
    /// Set in the last delta.
    pub finish: Option<Finish>,
    /// The stop string that ended the answer, in the last delta.
    pub stop_string: Option<String>,
    /// The stop token that ended the answer, in the last delta. It is not one of `tokens`.
    pub stop_token: Option<u32>,
    /// Set in the last delta, if the client asked for the stop.
    pub(crate) stop_reason: Option<StopReason>,
}

/// Growth of one call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallDelta {
    pub index: usize,
    /// Id of the call and name of the tool, in the call's first delta only.
    pub begin: Option<(String, String)>,
    /// More of the arguments. Joined over all deltas they are JSON.
    pub arguments: String,
}

/// A token of the prompt with its log-probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    pub id: u32,
    pub scores: PromptToken,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    pub id: u32,
    pub logprobs: Option<TokenLogprobs>,
}

/// Tokens of one choice. Only the first choice counts the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub cached_tokens: u32,
    /// Tokens of the answer that wrote its reasoning, with the mark before it.
    pub reasoning_tokens: u32,
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), |sum, usage| Self {
            prompt_tokens: sum.prompt_tokens + usage.prompt_tokens,
            completion_tokens: sum.completion_tokens + usage.completion_tokens,
            cached_tokens: sum.cached_tokens + usage.cached_tokens,
            reasoning_tokens: sum.reasoning_tokens + usage.reasoning_tokens,
        })
    }
}

/// State of an answer without its events. It exists before the head has accepted the request.
pub(crate) struct AnswerState {
    request_id: String,
    prompt: Arc<[u32]>,
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    output: OutputInput,
    /// Set if the answer has no content, only calls.
    only_calls: bool,
    asked_stop_tokens: Vec<u32>,
    /// Stop strings that a special token spells.
    spelled_stops: Vec<(u32, String)>,
    parser: OutputParser,
    /// Set once a call has begun.
    has_calls: bool,
    /// Number of first tokens whose text is not searched for stop strings.
    min_tokens: u32,
    choice: u32,
    /// Number of tokens of the prompt that were reported, the first one included.
    num_reported: usize,
    /// Tokens that end the answer and are listed with its tokens.
    listed_ends: Vec<u32>,
    usage: Usage,
    /// Number of last tokens that have not shown yet what they write.
    undecided_tokens: u32,
    deadline: Option<tokio::time::Instant>,
    metrics: RequestMetrics,
}

impl AnswerState {
    /// Makes the state of the answer to `submission`, one of the submissions of `prepared`.
    pub(crate) fn new(
        prepared: &Prepared,
        submission: &Submission,
        arrival: Instant,
        tokenizer: Arc<Tokenizer>,
        metrics: Metrics,
    ) -> Self {
        let before = if prepared.continues_prompt { &submission.prompt[..] } else { &[] };
        let detokenizer = Detokenizer::new(tokenizer.clone()).after(before);
        let spelled = |stop: &String| Some((tokenizer.special_token_id(stop)?, stop.clone()));
        let spelled_stops = prepared.stop.iter().filter_map(spelled).collect();
        let mut format = prepared.format.clone();
        if prepared.output.reasoning_as_content {
            format.reasoning = None;
        }
        let choice = submission.sampling.choice;
        let prompt_tokens = if choice == 0 { submission.prompt.len() as u32 } else { 0 };
        let deadline = submission.deadline.and_then(|after| tokio::time::Instant::from_std(arrival).checked_add(after));
        Self {
            request_id: submission.request_id.clone(),
            prompt: submission.prompt.as_slice().into(),
            detokenizer: detokenizer
                .with_shown_marks(&prepared.format.marks())
                .with_special_tokens(prepared.output.show_special_tokens),
            tokenizer,
            parser: OutputParser::new(&format),
            output: prepared.output,
            only_calls: prepared.only_calls,
            asked_stop_tokens: prepared.asked_stop_tokens.clone(),
            spelled_stops,
            has_calls: false,
            stop: StopMatcher::new(prepared.stop.iter().map(String::as_str)),
            min_tokens: prepared.min_tokens,
            choice,
            num_reported: 1,
            listed_ends: prepared.listed_ends.clone(),
            usage: Usage { prompt_tokens, ..Usage::default() },
            undecided_tokens: 0,
            deadline,
            metrics: RequestMetrics {
                metrics,
                arrival,
                prompt_tokens: submission.prompt.len() as u32,
                answer_tokens: 0,
                last_token: None,
                outcome: None,
            },
        }
    }

    /// Returns the answer that `events` will fill.
    pub(crate) fn with_events(mut self, events: EventStream) -> Answer {
        // This outcome stays if the client drops the answer before its end.
        self.metrics.outcome = Some(Outcome::Cancelled);
        Answer { state: self, events: Some(events), failure: None }
    }
}

/// Answer to one request, as it grows.
pub struct Answer {
    state: AnswerState,
    /// `None` once the answer has ended.
    events: Option<EventStream>,
    /// Failure to report after the text that came before it.
    failure: Option<ServeError>,
}

impl Answer {
    pub fn request_id(&self) -> &str {
        &self.state.request_id
    }

    /// Returns the index of this answer among the request's answers.
    pub fn choice(&self) -> u32 {
        self.state.choice
    }

    pub fn usage(&self) -> Usage {
        self.state.usage
    }

    /// Returns the tokens of the prompt.
    pub(crate) fn prompt(&self) -> &Arc<[u32]> {
        &self.state.prompt
    }

    /// Waits for more of the answer. Returns `None` after the end. Cancel safe.
    ///
    /// # Errors
    /// Returns the reason why the request could not go on. Nothing follows an error.
    pub async fn next(&mut self) -> Option<Result<Delta, RequestError>> {
        if let Some(failure) = self.failure.take() {
            return Some(Err(self.fail(failure)));
        }
        let mut next = Some(self.event().await?);
        let mut delta = Delta::default();
        for remaining in (0..MAX_COALESCED).rev() {
            let Some(event) = next else { break };
            match self.state.apply_event(event, &mut delta) {
                Err(failure) if delta.tokens.is_empty() => return Some(Err(self.fail(failure))),
                Err(failure) => self.failure = Some(failure),
                Ok(()) => {}
            }
            // An event that is received here is applied in the next iteration, so the last iteration must receive none.
            if remaining == 0 || delta.finish.is_some() || self.failure.is_some() {
                break;
            }
            next = self.events.as_mut().and_then(|events| events.try_recv().ok());
        }
        if let Some(finish) = delta.finish {
            self.record_finish(finish);
        }
        Some(Ok(delta))
    }

    /// Waits for the next event. If the deadline passes or the head is gone, the event is `Failed`. Returns `None`
    /// after the end of the answer.
    async fn event(&mut self) -> Option<Event> {
        let events = self.events.as_mut()?;
        let event = match self.state.deadline {
            None => events.recv().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, events.recv()).await {
                Ok(event) => event,
                Err(_) => Some(Event::Failed(ServeError::Deadline)),
            },
        };
        Some(event.unwrap_or_else(head_gone))
    }

    /// Closes the stream of events, logs the end of the request, and sets its outcome.
    fn record_finish(&mut self, finish: Finish) {
        self.events = None;
        let AnswerState { request_id, usage, metrics, .. } = &self.state;
        let Usage { prompt_tokens, completion_tokens, cached_tokens, .. } = usage;
        let seconds = metrics.arrival.elapsed().as_secs_f64();
        tracing::debug!(
            request_id,
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            seconds,
            ?finish,
            "request finished"
        );
        self.state.metrics.outcome = Some(match finish {
            Finish::Stop | Finish::ToolCalls => Outcome::Stop,
            Finish::Length => Outcome::Length,
            Finish::Cancelled => Outcome::Cancelled,
        });
    }

    fn fail(&mut self, failure: ServeError) -> RequestError {
        self.events = None;
        let error = RequestError::Serve(failure);
        self.state.metrics.outcome = Some(error.outcome());
        tracing::warn!(request_id = self.state.request_id, %error, "request failed");
        error
    }
}

/// Makes an id of nine letters and digits, because the templates of some models accept only such ids.
fn call_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..9].to_owned()
}

/// Returns the event for a stream that the head dropped without a last event.
fn head_gone() -> Event {
    Event::Failed(ServeError::head_gone())
}

impl AnswerState {
    /// Adds one event to `delta`.
    fn apply_event(&mut self, event: Event, delta: &mut Delta) -> Result<(), ServeError> {
        match event {
            Event::Started { cached_tokens } => {
                if self.choice == 0 {
                    self.usage.cached_tokens = cached_tokens;
                }
                self.metrics.metrics.count_cached(self.metrics.prompt_tokens, cached_tokens);
            }
            Event::Prompt { tokens } => {
                let ids = self.prompt.iter().skip(self.num_reported);
                self.num_reported += tokens.len();
                delta.prompt.extend(ids.zip(tokens).map(|(id, scores)| ScoredToken { id: *id, scores }));
            }
            Event::Token { id, logprobs } => {
                self.metrics.count_token();
                self.usage.completion_tokens += 1;
                delta.tokens.push(GeneratedToken { id, logprobs });
                if self.listed_ends.contains(&id) {
                    self.finish_text(Finish::Stop, delta);
                    return Ok(());
                }
                let text = self.detokenizer.push(id);
                self.undecided_tokens += 1;
                self.add_text(&text, delta);
            }
            Event::Finished(FinishReason::StopToken(id)) => self.stop_at(id, delta),
            Event::Finished(reason) => self.finish_text(reason.into(), delta),
            Event::Cancelled => self.finish_text(Finish::Cancelled, delta),
            Event::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Ends the answer at a stop token. The token shows in the text if the client wants stops there, or if the client wants
    /// special tokens there and has not asked for this stop.
    fn stop_at(&mut self, id: u32, delta: &mut Delta) {
        delta.stop_token = Some(id);
        let is_asked = self.asked_stop_tokens.contains(&id);
        let is_shown = self.output.show_special_tokens && self.tokenizer.is_special(id) && !is_asked;
        self.finish_text(Finish::Stop, delta);
        if delta.stop_reason.is_some() {
            return;
        }
        if is_asked {
            let spelled = self.spelled_stops.iter().find(|(token, _)| *token == id);
            delta.stop_reason = Some(match spelled {
                Some((_, stop)) => StopReason::Text(stop.clone()),
                None => StopReason::Token(id),
            });
        }
        if is_shown || (self.output.include_stop && is_asked) {
            delta.text.push_str(&self.tokenizer.token_text(id));
        }
    }

    /// Adds the text that was held back. Ends the answer with `finish`, unless that text completes a stop string.
    fn finish_text(&mut self, finish: Finish, delta: &mut Delta) {
        let text = self.detokenizer.flush();
        self.add_text(&text, delta);
        if delta.finish.is_none() {
            let held = self.stop.flush();
            self.parse_text(&held, delta);
            self.set_finish(finish, delta);
        }
    }

    fn add_text(&mut self, text: &str, delta: &mut Delta) {
        if self.usage.completion_tokens <= self.min_tokens && self.min_tokens > 0 {
            return self.parse_text(text, delta);
        }
        match self.stop.push(text) {
            Stopped::No(text) => self.parse_text(&text, delta),
            Stopped::Yes { mut text, stop } => {
                if self.output.include_stop {
                    text.push_str(&stop);
                }
                delta.stop_reason = Some(StopReason::Text(stop.clone()));
                self.parse_text(&text, delta);
                delta.stop_string = Some(stop);
                self.set_finish(Finish::Stop, delta);
            }
        }
    }

    /// Splits `text` into content, reasoning and calls, and adds them to `delta`.
    fn parse_text(&mut self, text: &str, delta: &mut Delta) {
        let pieces = self.parser.push(text);
        pieces.into_iter().for_each(|piece| self.add_piece(piece, delta));
    }

    /// Adds the pieces that the parser held back, and sets the reason for the end in `delta`.
    fn set_finish(&mut self, finish: Finish, delta: &mut Delta) {
        let pieces = self.parser.finish();
        pieces.into_iter().for_each(|piece| self.add_piece(piece, delta));
        delta.finish = Some(if self.has_calls && finish == Finish::Stop { Finish::ToolCalls } else { finish });
    }

    fn add_piece(&mut self, piece: OutputPiece, delta: &mut Delta) {
        let tokens = std::mem::take(&mut self.undecided_tokens);
        if matches!(piece, OutputPiece::Reasoning(_)) {
            self.usage.reasoning_tokens += tokens;
        }
        match piece {
            // The marks of a call that was cut off would be content.
            OutputPiece::Content(_) if self.only_calls => {}
            OutputPiece::Content(text) => delta.text.push_str(&text),
            OutputPiece::Reasoning(text) => delta.reasoning.push_str(&text),
            OutputPiece::Call { index, id, name } => {
                self.has_calls = true;
                let begin = Some((id.unwrap_or_else(call_id), name));
                delta.calls.push(CallDelta { index, begin, arguments: String::new() });
            }
            OutputPiece::Arguments { index, fragment } => {
                match delta.calls.last_mut().filter(|call| call.index == index) {
                    Some(call) => call.arguments.push_str(&fragment),
                    None => delta.calls.push(CallDelta { index, begin: None, arguments: fragment }),
                }
            }
        }
    }
}

/// Metrics of one request. Its outcome is counted once, when this value is dropped.
struct RequestMetrics {
    metrics: Metrics,
    arrival: Instant,
    prompt_tokens: u32,
    answer_tokens: u32,
    last_token: Option<Instant>,
    /// `None` until the head accepts the request.
    outcome: Option<Outcome>,
}

impl RequestMetrics {
    fn count_token(&mut self) {
        self.answer_tokens += 1;
        let now = Instant::now();
        let since = self.last_token.replace(now);
        self.metrics.observe_token(since.is_none(), now - since.unwrap_or(self.arrival));
    }
}

impl Drop for RequestMetrics {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.metrics.count_outcome(outcome);
            self.metrics.observe_request(self.prompt_tokens, self.answer_tokens, self.arrival.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::output::reasoning::ReasoningStyle;
    use crate::output::tools::{Function, ToolStyle};
    use crate::output::{OutputFormat, ToolFormat};
    use crate::text::fixtures;

    fn start(stop: &[&str], deadline: Option<Duration>) -> AnswerState {
        let submission = Submission {
            request_id: "r".into(),
            prompt: vec![1, 2],
            priority: 0,
            cache_salt: String::new(),
            sampling: Default::default(),
            max_tokens: 8,
            stop_token_ids: vec![],
            deadline,
            guide: None,
            prompt_logprobs: None,
        };
        let stop = stop.iter().map(|stop| (*stop).into()).collect();
        let prepared = Prepared {
            submission,
            stop,
            format: OutputFormat::default(),
            choices: 1,
            min_tokens: 0,
            listed_ends: Vec::new(),
            continues_prompt: true,
            output: OutputInput::default(),
            only_calls: false,
            asked_stop_tokens: vec![],
            beams: None,
        };
        AnswerState::new(&prepared, &prepared.submission, Instant::now(), fixtures::byte_level(), Metrics::new())
    }

    /// Plays the answer `text` and a last event. Returns the text and the reason for its end.
    async fn play(text: &str, stop: &[&str], last: Option<Event>) -> (String, String) {
        let (sender, events) = mpsc::channel(64);
        let ids = fixtures::byte_level().encode(text, false).unwrap();
        sender.send(Event::Started { cached_tokens: 1 }).await.unwrap();
        for id in ids {
            sender.send(Event::Token { id, logprobs: None }).await.unwrap();
        }
        if let Some(last) = last {
            sender.send(last).await.unwrap();
        }
        drop(sender);
        let mut answer = start(stop, None).with_events(events);
        let (mut shown, mut end) = (String::new(), String::new());
        while let Some(delta) = answer.next().await {
            match delta {
                Ok(delta) => {
                    shown.push_str(&delta.text);
                    end = delta.finish.map(|finish| format!("{finish:?}")).unwrap_or_default();
                }
                Err(error) => end = error.to_string(),
            }
        }
        (shown, end)
    }

    #[tokio::test]
    async fn an_answer_ends_for_the_reason_that_the_head_gives() {
        let finished = |reason| Some(Event::Finished(reason));
        let failed = Event::Failed(ServeError::Internal("oops".into()));
        let cases = [
            (play("hello é", &[], finished(FinishReason::Stop)).await, ("hello é", "Stop")),
            (play("hello", &[], finished(FinishReason::StopToken(7))).await, ("hello", "Stop")),
            (play("hello", &[], finished(FinishReason::Length)).await, ("hello", "Length")),
            (play("one STOP two", &["STOP"], finished(FinishReason::Length)).await, ("one ", "Stop")),
            (play("one STO", &["STOP"], finished(FinishReason::Length)).await, ("one STO", "Length")),
            (play("one", &[], Some(failed)).await, ("one", "oops")),
            (play("one", &[], None).await, ("one", "the head is shutting down: try again in 5 s")),
        ];
        for ((shown, end), (text, reason)) in cases {
            assert_eq!((shown.as_str(), end.as_str()), (text, reason));
        }
    }

    #[tokio::test]
    async fn a_backlog_loses_no_token() {
        let (sender, events) = mpsc::channel(1024);
        for _ in 0..3 * MAX_COALESCED + 5 {
            sender.send(Event::Token { id: u32::from(b'x'), logprobs: None }).await.unwrap();
        }
        sender.send(Event::Finished(FinishReason::Stop)).await.unwrap();
        let mut answer = start(&[], None).with_events(events);
        let mut text = String::new();
        while let Some(delta) = answer.next().await {
            let delta = delta.unwrap();
            assert!(delta.tokens.len() <= MAX_COALESCED);
            text.push_str(&delta.text);
        }
        assert_eq!(text.len(), 3 * MAX_COALESCED + 5);
    }

    #[tokio::test]
    async fn a_stop_string_drops_the_events() {
        let (sender, events) = mpsc::channel(64);
        let mut answer = start(&["l"], None).with_events(events);
        sender.send(Event::Token { id: 256 + 1, logprobs: None }).await.unwrap();
        let delta = answer.next().await.unwrap().unwrap();
        assert_eq!((delta.finish, delta.text.as_str()), (Some(Finish::Stop), ""));
        assert_eq!(delta.stop_string.as_deref(), Some("l"));
        assert_eq!(answer.usage(), Usage { prompt_tokens: 2, completion_tokens: 1, ..Usage::default() });
        assert!(sender.is_closed());
        assert_eq!(answer.next().await, None);
    }

    #[tokio::test]
    async fn a_listed_end_ends_the_answer_and_shows_no_text() {
        let (sender, events) = mpsc::channel(64);
        let mut start = start(&[], None);
        start.listed_ends = vec![u32::from(b'b')];
        let mut answer = start.with_events(events);
        for byte in b"abc" {
            sender.send(Event::Token { id: u32::from(*byte), logprobs: None }).await.unwrap();
        }
        let delta = answer.next().await.unwrap().unwrap();
        assert_eq!((delta.text.as_str(), delta.tokens.len(), delta.finish), ("a", 2, Some(Finish::Stop)));
        assert!(sender.is_closed());
    }

    #[tokio::test]
    async fn stop_strings_wait_for_min_tokens() {
        let (sender, events) = mpsc::channel(64);
        for id in fixtures::byte_level().encode("xaxbx", false).unwrap() {
            sender.send(Event::Token { id, logprobs: None }).await.unwrap();
        }
        let mut start = start(&["x"], None);
        start.min_tokens = 3;
        let delta = start.with_events(events).next().await.unwrap().unwrap();
        assert_eq!((delta.text.as_str(), delta.finish), ("xaxb", Some(Finish::Stop)));
    }

    #[tokio::test]
    async fn calls_and_reasoning_are_separated() {
        let (sender, events) = mpsc::channel(256);
        let text = "<think>hm</think>ok <tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
        for id in fixtures::byte_level().encode(text, false).unwrap() {
            sender.send(Event::Token { id, logprobs: None }).await.unwrap();
        }
        sender.send(Event::Finished(FinishReason::Stop)).await.unwrap();
        let add = Function { name: "add".into(), parameters: serde_json::json!({}) };
        let tools = ToolFormat { style: ToolStyle::Hermes, tools: [add].into(), max_calls: 9 };
        let format =
            OutputFormat { reasoning: Some(ReasoningStyle::Think), reasoning_begun: false, tools: Some(tools) };
        let mut start = start(&[], None);
        start.parser = OutputParser::new(&format);
        let mut answer = start.with_events(events);
        let (mut text, mut reasoning, mut arguments, mut begun) = (String::new(), String::new(), String::new(), vec![]);
        let mut finish = None;
        while let Some(delta) = answer.next().await {
            let delta = delta.unwrap();
            text.push_str(&delta.text);
            reasoning.push_str(&delta.reasoning);
            for call in delta.calls {
                begun.extend(call.begin);
                arguments.push_str(&call.arguments);
            }
            finish = delta.finish;
        }
        assert_eq!((text.as_str(), reasoning.as_str(), arguments.as_str()), ("ok", "hm", "{\"a\": 1}"));
        assert_eq!((begun.len(), begun[0].0.len(), begun[0].1.as_str()), (1, 9, "add"));
        assert_eq!(finish, Some(Finish::ToolCalls));
    }

    #[tokio::test]
    async fn a_silent_head_does_not_outlast_the_deadline() {
        let (_sender, events) = mpsc::channel(1);
        let mut answer = start(&[], Some(Duration::from_millis(3))).with_events(events);
        assert_eq!(answer.next().await, Some(Err(RequestError::Serve(ServeError::Deadline))));
    }
}
