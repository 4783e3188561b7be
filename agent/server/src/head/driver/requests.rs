//! What clients ask for, and what they are told.

use lockstep_schedule::Request;
use tokio::sync::mpsc;

use super::Driver;
use crate::head::clients;
use crate::service::{Command, Event, ServeError, Submission};

impl Driver {
    pub(super) fn command(&mut self, command: Command) {
        let Command::Submit { submission, events, accepted } = command;
        // A client that did not wait for the answer has dropped its events too: the next tick cancels it.
        accepted.send(self.submit(submission, events)).ok();
    }

    fn submit(&mut self, submission: Submission, events: mpsc::Sender<Event>) -> Result<(), ServeError> {
        let unavailable = |reason: &str| {
            Err(ServeError::Unavailable { reason: reason.into(), retry_after_s: clients::RETRY_AFTER_S })
        };
        if self.draining.is_some() {
            return unavailable("the head is shutting down");
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
            needs_head: false,
        };
        self.inputs.scheduler.submit(request, now).map_err(clients::refusal)?;
        self.next_id += 1;
        tracing::debug!(request_id = submission.request_id, sequence = id, "took a request");
        self.clients.insert(id, submission.request_id, events);
        Ok(())
    }

    pub(super) fn deliver(&mut self, outputs: Vec<lockstep_schedule::Output>) {
        for output in outputs {
            if let Some(id) = self.clients.deliver(output) {
                self.clients.remove(id, "its client reads nothing or went away");
                self.inputs.scheduler.cancel(id);
            }
        }
    }
}
