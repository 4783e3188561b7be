//! Beam search: the sequences whose tokens are the likeliest together.
//!
//! Each step asks the head for one token of each beam, and for the likeliest tokens at its place. The prefix cache has
//! most of what such a request computes. The rules are those of transformers 5 (`GenerationMixin._beam_search`), so the
//! answers are the same.

use futures::future::{join_all, try_join_all};
use lockstep_schedule::plan::{SamplingParams, TokenLogprobs};
use tokio::sync::mpsc;

use super::RequestError;
use super::request::Prepared;
use super::sampling::MAX_LOGPROBS;
use crate::service::{Event, EventStream, FinishReason, Inference, ServeError, Submission};

/// Most tokens that a step asks for at one place: as many as the ranks send without whole rows.
const MAX_CANDIDATES: usize = 256;

/// A client's wishes about a beam search. The number of beams is the number of answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamsInput {
    /// The score of an answer is its log-probability, divided by its number of tokens to this power.
    pub length_penalty: f32,
    pub early_stopping: EarlyStopping,
}

/// End of a search that has found as many answers as it has beams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// The search ends as soon as the best beam, at its present length, scores no higher than the worst answer.
    Likely,
    /// The search ends at once.
    Full,
    /// The search ends once no beam can become a better answer, at any length.
    Never,
}

/// Tokens of an answer, or of one that still grows.
#[derive(Debug, Clone, PartialEq, Default)]
struct Beam {
    tokens: Vec<(u32, Option<TokenLogprobs>)>,
    /// Sum of the tokens' log-probabilities.
    logprob: f64,
    /// Score of an answer that has ended.
    score: f64,
}

/// State of a search. A step takes the likeliest tokens after each beam.
#[derive(Debug)]
struct Search {
    input: BeamsInput,
    width: usize,
    max_tokens: usize,
    ends: Vec<u32>,
    /// Number of likeliest tokens to report beside each token. `None` reports no log-probabilities.
    shown: Option<usize>,
    /// Beams that grow, the likeliest first.
    running: Vec<Beam>,
    /// Answers that have ended, the best first.
    ended: Vec<Beam>,
}

impl Search {
    fn new(input: BeamsInput, width: usize, request: &Submission) -> Self {
        Self {
            input,
            width,
            max_tokens: request.max_tokens as usize,
            ends: request.stop_token_ids.clone(),
            shown: request.sampling.logprobs.map(|count| count as usize),
            running: vec![Beam::default()],
            ended: Vec::new(),
        }
    }

    /// Returns how many tokens a step looks at. If all ends are among them, enough others are left.
    fn num_candidates(&self) -> usize {
        (self.width * (1 + self.ends.len()).max(2)).min(MAX_CANDIDATES)
    }

    /// Goes on by one token. `steps` has the likeliest tokens after each beam, with the log-probability of each.
    fn extend(&mut self, steps: &[Vec<(u32, f32)>]) {
        let num_candidates = self.num_candidates();
        // Log-probability of the sequence, its beam, and the place of its last token in the beam's step.
        let mut candidates: Vec<(f64, usize, usize)> = Vec::new();
        for (at, (beam, top)) in self.running.iter().zip(steps).enumerate() {
            let sums = top.iter().map(|(_, logprob)| beam.logprob + f64::from(*logprob));
            candidates.extend(sums.enumerate().map(|(place, sum)| (sum, at, place)));
        }
        candidates.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
        candidates.truncate(num_candidates);
        let is_full = self.ended.len() == self.width;
        let takes_more = !(is_full && self.input.early_stopping == EarlyStopping::Full);
        let (mut running, mut ended) = (Vec::new(), Vec::new());
        for (rank, (logprob, at, place)) in candidates.into_iter().enumerate() {
            let (beam, top) = (&self.running[at], &steps[at]);
            let (id, chosen) = top[place];
            let ends = beam.tokens.len() + 1 == self.max_tokens || self.ends.contains(&id);
            if ends && !(rank < self.width && takes_more) || !ends && running.len() == self.width {
                continue;
            }
            let mut tokens = beam.tokens.clone();
            let logprobs = self.shown.map(|shown| TokenLogprobs { chosen, top: top[..shown.min(top.len())].to_vec() });
            tokens.push((id, logprobs));
            let score = self.score(logprob, tokens.len());
            let list = if ends { &mut ended } else { &mut running };
            list.push(Beam { tokens, logprob, score });
        }
        self.running = running;
        self.ended.append(&mut ended);
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(self.width);
    }

    fn score(&self, logprob: f64, length: usize) -> f64 {
        logprob / (length as f64).powf(f64::from(self.input.length_penalty))
    }

    /// Returns true if the answers that have ended are those of the whole search.
    fn is_done(&self) -> bool {
        let Some(best) = self.running.first() else { return true };
        let Some(worst) = self.ended.last().filter(|_| self.ended.len() == self.width) else { return false };
        let longest = self.input.early_stopping == EarlyStopping::Never && self.input.length_penalty > 0.0;
        let length = if longest { self.max_tokens } else { best.tokens.len() };
        self.input.early_stopping == EarlyStopping::Full || self.score(best.logprob, length) <= worst.score
    }
}

/// Checks that a search can obey a request. Its steps are requests of their own: they know neither how far a form has
/// come nor which tokens the answer has.
///
/// # Errors
/// Names what excludes a search.
pub(super) fn check(sampling: &SamplingParams, has_guide: bool) -> Result<(), RequestError> {
    const NAME: &str = "use_beam_search";
    let penalties = sampling.penalties;
    if has_guide {
        let reason = "not together with a form of the answer, a required call, bad_words or allowed_token_ids";
        return Err(RequestError::field(NAME, reason));
    }
    if penalties.presence != 0.0 || penalties.frequency != 0.0 {
        let reason = "not together with presence_penalty or frequency_penalty: use repetition_penalty";
        return Err(RequestError::field(NAME, reason));
    }
    if sampling.logprobs.is_some_and(|count| count > MAX_LOGPROBS) {
        return Err(RequestError::field(
            NAME,
            format!("not together with log-probabilities of all tokens: ask for up to {MAX_LOGPROBS}"),
        ));
    }
    Ok(())
}

/// Begins a search. Returns a stream of events for each answer, the best answer first. All events of the answers come at
/// the end. The search is cancelled once all streams are dropped.
///
/// # Errors
/// Returns the head's reason for refusing the request.
pub(super) async fn search(
    inference: &Inference,
    prepared: &Prepared,
    input: BeamsInput,
) -> Result<Vec<EventStream>, ServeError> {
    let request = &prepared.submission;
    let width = prepared.choices as usize;
    let search = Search::new(input, width, request);
    let step = Submission {
        sampling: SamplingParams {
            temperature: 0.0,
            logprobs: Some(search.num_candidates() as u32),
            ..request.sampling.clone()
        },
        max_tokens: 1,
        // The search itself ends the answers.
        stop_token_ids: Vec::new(),
        ..request.clone()
    };
    let first =
        inference.submit(Submission { request_id: format!("{}-beam", request.request_id), ..step.clone() }).await?;
    let (senders, streams): (Vec<_>, Vec<_>) = (0..width).map(|_| mpsc::channel(16)).unzip();
    let inference = inference.clone();
    tokio::spawn(async move {
        let dropped = join_all(senders.iter().map(mpsc::Sender::closed));
        let run = async {
            match run(&inference, &step, search, first, &senders).await {
                Ok(search) => send_answers(search, &senders).await,
                Err(last) => tell_all(&senders, &last).await,
            }
        };
        tokio::select! {
            _ = dropped => {}
            () = run => {}
        }
    });
    Ok(streams)
}

/// Runs the search to its end.
///
/// # Errors
/// Returns the event that ended the search.
async fn run(
    inference: &Inference,
    step: &Submission,
    mut search: Search,
    first: EventStream,
    senders: &[mpsc::Sender<Event>],
) -> Result<Search, Event> {
    let top = read_step(first, senders).await?;
    search.extend(&[top]);
    while !search.is_done() {
        let submit = |(at, beam): (usize, &Beam)| {
            let mut submission = step.clone();
            submission.prompt.extend(beam.tokens.iter().map(|(id, _)| *id));
            submission.request_id = format!("{}-beam-{at}", step.request_id);
            submission.prompt_logprobs = None;
            async { inference.submit(submission).await.map_err(Event::Failed) }
        };
        let streams = try_join_all(search.running.iter().enumerate().map(submit)).await?;
        let steps = try_join_all(streams.into_iter().map(|stream| read_step(stream, &[]))).await?;
        search.extend(&steps);
    }
    Ok(search)
}

/// Waits for the likeliest tokens of one step. Passes what comes before them on to `senders`.
///
/// # Errors
/// Returns the event that ended the step before its token.
async fn read_step(mut stream: EventStream, senders: &[mpsc::Sender<Event>]) -> Result<Vec<(u32, f32)>, Event> {
    loop {
        match stream.recv().await {
            Some(Event::Token { logprobs: Some(logprobs), .. }) => return Ok(logprobs.top),
            Some(event @ (Event::Started { .. } | Event::Prompt { .. })) => {
                tell_all(senders, &event).await;
            }
            Some(Event::Token { .. } | Event::Finished(_)) => {
                let reason = "a step of a beam search gave no log-probabilities";
                return Err(Event::Failed(ServeError::Internal(reason.into())));
            }
            Some(last @ (Event::Cancelled | Event::Failed(_))) => return Err(last),
            None => return Err(Event::Failed(ServeError::head_gone())),
        }
    }
}

/// Sends the answers.
async fn send_answers(search: Search, senders: &[mpsc::Sender<Event>]) {
    let found = search.ended.len();
    let send = |(beam, sender): (Option<Beam>, &mpsc::Sender<Event>)| {
        let (ends, sender) = (&search.ends, sender.clone());
        async move {
            let Some(beam) = beam else {
                let reason = format!("n: the search found {found} answers: ask for fewer");
                return sender.send(Event::Failed(ServeError::Invalid(reason))).await;
            };
            for (id, logprobs) in beam.tokens {
                // An end has no event of its own.
                if ends.contains(&id) {
                    return sender.send(Event::Finished(FinishReason::StopToken(id))).await;
                }
                sender.send(Event::Token { id, logprobs }).await?;
            }
            sender.send(Event::Finished(FinishReason::Length)).await
        }
    };
    let beams = search.ended.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    join_all(beams.zip(senders).map(send)).await;
}

/// Sends an event to each answer that is still awaited.
async fn tell_all(senders: &[mpsc::Sender<Event>], event: &Event) {
    for sender in senders {
        sender.send(event.clone()).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const VOCAB: u64 = 40;

    /// Returns the log-probabilities of all tokens after `last`, the likeliest first: the table of `make_beams.py`.
    fn step(last: u32) -> Vec<(u32, f32)> {
        let last = u64::from(last);
        let logit = |token: u64| ((last * 7919 + token * 104_729 + last * token * 31 + 17) % 1009) as f64 / 300.0;
        let log_sum = (0..VOCAB).map(|token| logit(token).exp()).sum::<f64>().ln();
        let mut row: Vec<(u32, f32)> =
            (0..VOCAB).map(|token| (token as u32, (logit(token) - log_sum) as f32)).collect();
        row.sort_by(|a, b| b.1.total_cmp(&a.1));
        row
    }

    /// Searches as one entry of the record asks.
    fn search_table(entry: &Value) -> Search {
        let number = |name: &str| entry[name].as_u64().unwrap() as usize;
        let early_stopping = match &entry["early_stopping"] {
            Value::Bool(false) => EarlyStopping::Likely,
            Value::Bool(true) => EarlyStopping::Full,
            _ => EarlyStopping::Never,
        };
        let mut search = Search {
            input: BeamsInput { length_penalty: entry["length_penalty"].as_f64().unwrap() as f32, early_stopping },
            width: number("beams"),
            max_tokens: number("max_tokens"),
            ends: serde_json::from_value(entry["ends"].clone()).unwrap(),
            shown: None,
            running: vec![Beam::default()],
            ended: Vec::new(),
        };
        let prompt = entry["prompt"][0].as_u64().unwrap() as u32;
        while !search.is_done() {
            let num_candidates = search.num_candidates();
            let last = |beam: &Beam| beam.tokens.last().map_or(prompt, |(id, _)| *id);
            let steps = search.running.iter().map(|beam| step(last(beam)).into_iter().take(num_candidates).collect());
            let steps: Vec<Vec<(u32, f32)>> = steps.collect();
            search.extend(&steps);
        }
        search
    }

    #[test]
    fn answers_are_those_of_transformers() {
        let record = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/beams.json"));
        let record: Value = serde_json::from_str(record).unwrap();
        let entries = record["table"].as_array().unwrap();
        assert!(entries.len() > 100);
        for entry in entries {
            let found = search_table(entry).ended;
            let expected = entry["answers"].as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{entry}");
            for (found, expected) in found.iter().zip(expected) {
                let tokens: Vec<u32> = found.tokens.iter().map(|(id, _)| *id).collect();
                assert_eq!(serde_json::to_value(&tokens).unwrap(), expected["tokens"], "{entry}");
                assert!((found.score - expected["score"].as_f64().unwrap()).abs() < 1e-4, "{} {entry}", found.score);
            }
        }
    }
}
