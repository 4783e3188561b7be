//! Answers with the log-probabilities of the whole vocabulary at each place. Such an answer is large, so the ranks compute
//! one at a time, and it waits for its client outside of the queue of events.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use crate::service::{EVENT_BACKLOG, EventStream, Inference, ServeError, Submission};

/// Queues a request once it has its turn. The next one has its turn when the head has ended this one, however slowly its
/// client reads.
///
/// # Errors
/// Returns the head's reason for refusing the request.
pub(super) async fn submit(
    inference: &Inference,
    turn: &Arc<Semaphore>,
    submission: Submission,
) -> Result<EventStream, ServeError> {
    let permit = turn.clone().acquire_owned().await.map_err(|_| ServeError::head_gone())?;
    let mut events = inference.submit(submission).await?;
    // The number of tokens is bounded below this.
    let (sender, stream) = mpsc::channel(EVENT_BACKLOG + 1);
    tokio::spawn(async move {
        let forward = async {
            while let Some(event) = events.recv().await {
                let is_last = event.is_last();
                if sender.send(event).await.is_err() || is_last {
                    break;
                }
            }
        };
        tokio::select! {
            () = forward => {}
            () = sender.closed() => {}
        }
        drop(permit);
    });
    Ok(stream)
}
