//! Clients: what they ask, what they must get, and what they got.

use std::collections::VecDeque;
use std::time::Duration;

use lockstep_api::{Event as ClientEvent, FinishReason, ServeError, Submission};
use lockstep_schedule::plan::{PromptToken, SamplingParams, SeqId};

use super::{Event, Property, World};
use crate::group::planted::Planted;
use crate::group::script::{Ask, MS, Micros, Reader};
use crate::group::strict_rank::{next_token, score_prompt};

/// Events that may wait for a client that reads nothing.
const BACKLOG: usize = 8;
/// Pause before a client asks again that was refused.
const RETRY: Micros = 500 * MS;
/// How much later than its bound a request may end: a tick, and the time in which the head itself is stopped.
const SLACK: Micros = 200 * MS;

/// A client of one request.
pub(super) struct Client {
    ask: Ask,
    /// Tokens that the request gets if it runs alone.
    expected: Vec<u32>,
    finish: FinishReason,
    /// Numbers of the prompt's tokens that the client has yet to receive.
    expected_prompt: VecDeque<PromptToken>,
    num_received: usize,
    num_events: usize,
    has_started: bool,
    /// Time at which the head took the request.
    submitted_at: Option<Micros>,
    ended: bool,
    /// Set if the answer broke off with its head, which is no finding.
    broken: bool,
}

impl Client {
    pub(super) fn new(ask: &Ask) -> Self {
        let sampling = sampling(ask);
        let mut tokens = ask.prompt.clone();
        let (mut expected, mut finish) = (Vec::new(), FinishReason::Length);
        for _ in 0..ask.max_tokens {
            let token = next_token(&tokens, &sampling);
            if ask.stop_token_ids.contains(&token) {
                finish = FinishReason::StopToken(token);
                break;
            }
            tokens.push(token);
            expected.push(token);
        }
        let expected_prompt = if ask.scores_prompt { score_prompt(&ask.prompt).into() } else { VecDeque::new() };
        Self {
            ask: ask.clone(),
            expected,
            finish,
            expected_prompt,
            num_received: 0,
            num_events: 0,
            has_started: false,
            submitted_at: None,
            ended: false,
            broken: false,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn submission(&self, index: usize) -> Submission {
        Submission {
            request_id: format!("request-{index}"),
            prompt: self.ask.prompt.clone(),
            priority: 0,
            cache_salt: String::new(),
            sampling: sampling(&self.ask),
            max_tokens: self.ask.max_tokens,
            stop_token_ids: self.ask.stop_token_ids.clone(),
            deadline: self.ask.deadline.map(Duration::from_micros),
            guide: None,
            prompt_logprobs: self.ask.scores_prompt.then_some(0),
        }
    }
}

fn sampling(ask: &Ask) -> SamplingParams {
    SamplingParams { seed: ask.seed, ..Default::default() }
}

impl World {
    /// A client asks the current head, or tries again later.
    pub(super) fn submit(&mut self, client: usize) {
        let head = self.current_head;
        if !self.heads[head].is_reachable() {
            return self.after(RETRY, Event::Submit { client });
        }
        if let Some(wakes) = self.heads[head].sleeps_until(self.now) {
            return self.at(wakes, Event::Submit { client });
        }
        self.submit_to_head(head, client);
    }

    /// Notes the head's decision about a request.
    pub(super) fn decide(&mut self, head: usize, client: usize, decision: Result<SeqId, ServeError>) {
        match decision {
            Ok(id) => {
                self.counts.requests += 1;
                self.clients[client].submitted_at = Some(self.now);
                self.heads[head].open.insert(id, client);
                if self.clients[client].ask.is_poison {
                    self.log(|| format!("sequence {id} is poison"));
                }
            }
            Err(error) => {
                self.counts.refused += 1;
                let is_true = match &error {
                    ServeError::Full { .. } => self.heads[head].open.len() >= 64,
                    ServeError::Unavailable { .. } => {
                        self.heads[head].draining_since.is_some() || self.has_been_lost(head)
                    }
                    _ => false,
                };
                if !is_true {
                    self.find(Property::ReasonsAreTrue, format!("request {client} refused: {error}"));
                }
                self.after(RETRY, Event::Submit { client });
            }
        }
    }

    /// Returns true if no epoch has served at this head for the recovery timeout.
    fn has_been_lost(&self, head: usize) -> bool {
        let timeout = self.script.shape.recovery_timeout;
        // A clock that jumps ahead makes every time on it too long.
        let skew = self.heads[head].skew;
        self.heads[head].lost_since.is_some_and(|since| self.now + skew + SLACK >= since + timeout)
    }

    /// Checks an event of a request. Returns a reason if it cannot reach the client.
    pub(super) fn receive_event(&mut self, head: usize, client: usize, event: ClientEvent) -> Option<&'static str> {
        if self.clients[client].broken {
            return None;
        }
        self.log(|| format!("client {client}: {event:?}"));
        if self.clients[client].ended {
            self.find(Property::RequestsEnd, format!("request {client} has ended and gets {event:?}"));
            return None;
        }
        if !event.is_last() {
            match self.clients[client].ask.reader {
                Reader::Vanishes { after } if self.clients[client].num_events >= after => {
                    self.clients[client].ended = true;
                    return Some("its client went away");
                }
                Reader::Slow { after } if self.clients[client].num_events >= after + BACKLOG => {
                    self.receive_event(head, client, ClientEvent::Failed(ServeError::SlowReader));
                    return Some("its client reads too slowly");
                }
                _ => {}
            }
        }
        self.clients[client].num_events += 1;
        match event {
            ClientEvent::Started { .. } => {
                if std::mem::replace(&mut self.clients[client].has_started, true) {
                    self.find(Property::TokensAreRight, format!("request {client} started twice"));
                }
            }
            ClientEvent::Prompt { tokens } => self.receive_prompt(client, &tokens),
            ClientEvent::Token { id, .. } => self.receive_token(client, id),
            ClientEvent::Finished(reason) => self.finish_request(client, reason),
            ClientEvent::Cancelled => {
                self.end_request(client);
                let timeout = self.script.shape.drain_timeout;
                let skew = self.heads[head].skew;
                let is_true =
                    self.heads[head].draining_since.is_some_and(|since| self.now + skew + SLACK >= since + timeout);
                if !is_true {
                    self.find(Property::ReasonsAreTrue, format!("request {client} was cancelled without a drain"));
                }
            }
            ClientEvent::Failed(error) => self.fail_request(head, client, &error),
        }
        None
    }

    fn receive_prompt(&mut self, client: usize, tokens: &[PromptToken]) {
        for token in tokens {
            let expected = self.clients[client].expected_prompt.pop_front();
            if expected.as_ref() != Some(token) {
                self.find(
                    Property::TokensAreRight,
                    format!("request {client}: {token:?} of the prompt, not {expected:?}"),
                );
            }
        }
    }

    fn receive_token(&mut self, client: usize, token: u32) {
        let planted = if self.slips() { self.planted } else { None };
        match planted {
            Some(Planted::LosesToken) => return,
            Some(Planted::DoublesToken) => self.clients[client].num_received += 1,
            _ => {}
        }
        self.counts.tokens += 1;
        let state = &mut self.clients[client];
        let expected = state.expected.get(state.num_received).copied();
        state.num_received += 1;
        if expected != Some(token) {
            let place = self.clients[client].num_received - 1;
            self.find(
                Property::TokensAreRight,
                format!("request {client}: token {place} is {token}, not {expected:?}"),
            );
        }
    }

    fn end_request(&mut self, client: usize) {
        self.clients[client].ended = true;
        self.clients[client].submitted_at = None;
        self.last_end = self.now;
    }

    fn finish_request(&mut self, client: usize, reason: FinishReason) {
        self.end_request(client);
        self.counts.finished += 1;
        let state = &self.clients[client];
        let (received, expected) = (state.num_received, state.expected.len());
        if received != expected || !state.expected_prompt.is_empty() || state.finish != reason {
            let text = format!("request {client} finished by {reason:?} after {received} of {expected} tokens");
            self.find(Property::TokensAreRight, text);
        }
    }

    fn fail_request(&mut self, head: usize, client: usize, error: &ServeError) {
        let submitted_at = self.clients[client].submitted_at.unwrap_or(self.now);
        self.end_request(client);
        self.counts.failed += 1;
        let ask = &self.clients[client].ask;
        let skew = self.heads[head].skew;
        let is_true = match error {
            ServeError::Deadline => {
                ask.deadline.is_some_and(|deadline| self.now + skew + SLACK >= submitted_at + deadline)
            }
            ServeError::Unavailable { .. } => self.has_been_lost(head),
            ServeError::SlowReader => matches!(ask.reader, Reader::Slow { .. }),
            ServeError::Internal(_) => ask.is_poison,
            ServeError::Full { .. } | ServeError::Invalid(_) => false,
        };
        if !is_true {
            self.find(Property::ReasonsAreTrue, format!("request {client} failed: {error}"));
        }
    }

    /// Ends the answers of a head whose process or machine is gone.
    pub(super) fn break_answers(&mut self, head: usize) {
        for client in std::mem::take(&mut self.heads[head].open).into_values() {
            if !self.clients[client].ended {
                self.counts.broken += 1;
                self.clients[client].broken = true;
                self.end_request(client);
            }
        }
    }

    /// Adds a finding for each request that is still open although the group serves.
    pub(super) fn find_open_requests(&mut self) {
        let open: Vec<usize> = (0..self.clients.len()).filter(|client| !self.clients[*client].ended).collect();
        self.find(Property::RequestsEnd, format!("no request has ended for 240 s, and these are open: {open:?}"));
    }

    /// Returns true if the ranks die of a sequence.
    pub(super) fn is_poison(&self, head: usize, id: SeqId) -> bool {
        self.heads[head].open.get(&id).is_some_and(|client| self.clients[*client].ask.is_poison)
    }
}
