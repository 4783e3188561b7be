//! What clients ask for, and what they are told.

use std::time::{Duration, Instant};

use lockstep_api::{Command, Event, Left, ServeError, Submission};
use lockstep_schedule::Request;
use tokio::sync::mpsc;

use super::{CANARY, Driver};
use crate::head::clients;

/// How long requests are still taken after the operator asked for a drain: until every node's proxy has heard that this
/// head does not accept any more, clients are sent here.
const LINGER: Duration = Duration::from_secs(5);

impl Driver {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            // A client that did not wait for the answer has dropped its events too: the next tick cancels it.
            Command::Submit { submission, events, accepted } => {
                accepted.send(self.submit(submission, events)).ok();
            }
            Command::Drain { reason, answer } => {
                if self.closed.is_none() {
                    self.lingers_until = Some(Instant::now() + LINGER);
                }
                self.close(if reason.is_empty() { "the operator asked for it" } else { &reason });
                self.publish();
                let stats = self.inputs.scheduler.stats();
                answer.send(Left { running: stats.running as u32, waiting: stats.waiting as u32 }).ok();
            }
        }
    }

    fn submit(&mut self, submission: Submission, events: mpsc::Sender<Event>) -> Result<(), ServeError> {
        let unavailable = |reason: &str| {
            Err(ServeError::Unavailable { reason: reason.into(), retry_after_s: clients::RETRY_AFTER_S })
        };
        let lingers = self.lingers_until.is_some_and(|until| Instant::now() < until);
        if let Some(reason) = self.closed.as_ref().filter(|_| !lingers) {
            return unavailable(&format!("the head takes no more requests: {reason}"));
        }
        if self.lost_at.is_some_and(|at| at.elapsed() > self.inputs.recovery_timeout) {
            return unavailable("the group has not recovered in time");
        }
        let now = self.now();
        let id = self.next_id;
        // What the blocks cannot hold would be refused; the answer ends there instead.
        let room = self.inputs.scheduler.max_sequence_tokens().saturating_sub(submission.prompt.len() as u32);
        let request = Request {
            id,
            prompt: submission.prompt,
            sampling: submission.sampling,
            max_tokens: submission.max_tokens.min(room.max(1)),
            stop_token_ids: submission.stop_token_ids,
            deadline: submission.deadline.map(|deadline| now + deadline.as_micros() as u64),
            needs_head: submission.guide.is_some(),
        };
        self.inputs.scheduler.submit(request, now).map_err(clients::refusal)?;
        self.next_id += 1;
        self.requests += 1;
        tracing::debug!(request_id = submission.request_id, sequence = id, "took a request");
        self.clients.insert(id, submission.request_id, events, submission.guide);
        Ok(())
    }

    pub(super) fn deliver(&mut self, outputs: Vec<lockstep_schedule::RequestOutput>) {
        for output in outputs {
            self.tokens_generated +=
                u64::from(matches!(output, lockstep_schedule::RequestOutput::Token { id, .. } if id != CANARY));
            if let Some(id) = self.clients.deliver(output) {
                self.inputs.scheduler.cancel(id);
            }
        }
    }
}
