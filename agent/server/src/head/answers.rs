//! The channels back to the clients of the open requests.

use std::collections::HashMap;

use lockstep_api::{Event, ServeError};
use lockstep_group::head::Input;
use lockstep_schedule::plan::SeqId;
use tokio::sync::mpsc::{OwnedPermit, Sender, error::TrySendError};
use tokio::sync::oneshot;

/// Channel for the decision about a request.
type Accepted = oneshot::Sender<Result<(), ServeError>>;

/// Channel to one client.
struct Answer {
    events: Sender<Event>,
    /// Room for the last event, which thus reaches even a client that lets events wait. `None` if the client is gone.
    last_event: Option<OwnedPermit<Event>>,
}

impl Answer {
    /// Sends the last event.
    fn end(self, event: Event) {
        if let Some(room) = self.last_event {
            room.send(event);
        }
    }
}

/// Channels by sequence.
#[derive(Default)]
pub(super) struct Answers {
    open: HashMap<SeqId, Answer>,
    /// Channels of the request that the driver decides about now.
    submitted: Option<(Sender<Event>, Accepted)>,
}

impl Answers {
    /// Keeps the channels of a request for [`Self::answer_submission`].
    pub(super) fn expect(&mut self, events: Sender<Event>, accepted: Accepted) {
        self.submitted = Some((events, accepted));
    }

    /// Tells the client of the submitted request the decision.
    pub(super) fn answer_submission(&mut self, decision: Result<SeqId, ServeError>) {
        let Some((events, accepted)) = self.submitted.take() else { return };
        let decision = decision.map(|id| {
            let last_event = events.clone().try_reserve_owned().ok();
            self.open.insert(id, Answer { events, last_event });
        });
        // If the client no longer waits for the decision, it has dropped its events too. The next tick cancels its
        // request.
        accepted.send(decision).ok();
    }

    /// Sends an event to a client. Returns an input if the event cannot reach it.
    pub(super) fn send(&mut self, id: SeqId, event: Event) -> Option<Input> {
        if event.is_last() {
            if let Some(answer) = self.open.remove(&id) {
                answer.end(event);
            }
            return None;
        }
        let reason = match self.open.get(&id)?.events.try_send(event) {
            Ok(()) => return None,
            Err(TrySendError::Full(_)) => "its client reads too slowly",
            Err(TrySendError::Closed(_)) => GONE,
        };
        if let Some(answer) = self.open.remove(&id) {
            answer.end(Event::Failed(ServeError::SlowReader));
        }
        Some(Input::ClientLost { id, reason })
    }

    /// Finds the clients that went away.
    pub(super) fn find_disconnected(&mut self) -> impl Iterator<Item = Input> {
        let gone = self.open.extract_if(|_, answer| answer.events.is_closed());
        gone.map(|(id, _)| Input::ClientLost { id, reason: GONE })
    }
}

const GONE: &str = "its client went away";

#[cfg(test)]
mod tests {
    use lockstep_api::FinishReason;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_slow_reader_is_told_so() {
        let token = || Event::Token { id: 7, logprobs: None };
        let open = |places| {
            let (events, stream) = mpsc::channel(places);
            let (accepted, decision) = oneshot::channel();
            let mut answers = Answers::default();
            answers.expect(events, accepted);
            answers.answer_submission(Ok(1));
            assert_eq!(decision.blocking_recv(), Ok(Ok(())));
            (answers, stream)
        };
        let lost = |input: Option<Input>| match input {
            Some(Input::ClientLost { id: 1, reason }) => Some(reason),
            _ => None,
        };
        let (mut answers, mut stream) = open(3);
        assert_eq!([lost(answers.send(1, token())), lost(answers.send(1, token()))], [None, None]);
        assert_eq!(lost(answers.send(1, token())), Some("its client reads too slowly"), "the third has no room");
        let told: Vec<Event> = std::iter::from_fn(|| stream.try_recv().ok()).collect();
        assert_eq!((told.len(), told.last()), (3, Some(&Event::Failed(ServeError::SlowReader))));

        let (mut answers, mut stream) = open(2);
        assert_eq!(lost(answers.send(1, token())), None);
        assert_eq!(lost(answers.send(1, Event::Finished(FinishReason::Stop))), None);
        let told: Vec<Event> = std::iter::from_fn(|| stream.try_recv().ok()).collect();
        assert_eq!(told.last(), Some(&Event::Finished(FinishReason::Stop)), "the last event has its own room");

        let (mut answers, stream) = open(2);
        drop(stream);
        assert_eq!(lost(answers.send(1, token())), Some(GONE));
        let (mut answers, stream) = open(2);
        drop(stream);
        assert_eq!(answers.find_disconnected().count(), 1);
    }
}
