//! Signals of the process. The foreground task may claim Ctrl-C for itself.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal.
const EXIT_ABORTED: i32 = 130;

/// State of the process's signals. It is cheap to clone, and all clones share it.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Token that is cancelled once the process receives a signal to stop. The process then finishes its work and ends.
    pub stop: CancellationToken,
    /// Token that the next SIGINT cancels in place of `stop`.
    interrupt_claim: Arc<Mutex<Option<CancellationToken>>>,
}

impl Signals {
    /// Returns a token that the next SIGINT cancels instead of stopping the process. The claim ends with
    /// [`Self::release_interrupt`].
    pub(crate) fn claim_interrupt(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.interrupt_claim.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        token
    }

    /// Gives up the claim, so that the next SIGINT stops the process again.
    pub(crate) fn release_interrupt(&self) {
        self.interrupt_claim.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Listens for signals for ever. The first SIGTERM or unclaimed SIGINT begins a drain. The second ends the process at
    /// once.
    pub async fn watch(self) {
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            tracing::error!("cannot listen for signals: this process will not drain");
            return;
        };
        loop {
            tokio::select! {
                _ = term.recv() => self.stop_process(),
                _ = int.recv() => self.receive_interrupt(),
            }
        }
    }

    fn receive_interrupt(&self) {
        match self.interrupt_claim.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(claimed) => claimed.cancel(),
            None => self.stop_process(),
        }
    }

    fn stop_process(&self) {
        if self.stop.is_cancelled() {
            std::process::exit(EXIT_ABORTED);
        }
        tracing::info!("got a signal to stop: this process finishes its requests; a second signal ends it at once");
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_cancels_only_the_token_that_claimed_it() {
        let signals = Signals::default();
        let answer = signals.claim_interrupt();
        signals.clone().receive_interrupt();
        assert!(answer.is_cancelled() && !signals.stop.is_cancelled());
        let next = signals.claim_interrupt();
        signals.release_interrupt();
        signals.receive_interrupt();
        assert!(!next.is_cancelled() && signals.stop.is_cancelled());
    }
}
