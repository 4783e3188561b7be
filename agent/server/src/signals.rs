//! What signals tell a process, and who may take Ctrl-C for itself.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal.
const EXIT_ABORTED: i32 = 130;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Told to stop: finish what runs, then end.
    pub stop: CancellationToken,
    /// What the next SIGINT ends in place of the process.
    claimed: Arc<Mutex<Option<CancellationToken>>>,
}

impl Signals {
    /// The next SIGINT cancels this token and nothing else, until [`Self::release`].
    pub fn claim_interrupt(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.claimed.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        token
    }

    pub fn release(&self) {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Listens for ever. The first SIGTERM, or SIGINT that nobody claims, drains; the second ends at once.
    pub async fn watch(self) {
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            tracing::error!("cannot listen for signals: this process will not drain");
            return;
        };
        loop {
            tokio::select! {
                _ = term.recv() => self.told_to_stop(),
                _ = int.recv() => self.interrupted(),
            }
        }
    }

    fn interrupted(&self) {
        match self.claimed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(claimed) => claimed.cancel(),
            None => self.told_to_stop(),
        }
    }

    fn told_to_stop(&self) {
        if self.stop.is_cancelled() {
            std::process::exit(EXIT_ABORTED);
        }
        tracing::info!("told to stop: finishing what runs; a second signal ends at once");
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_for_whoever_claimed_it() {
        let signals = Signals::default();
        let answer = signals.claim_interrupt();
        signals.clone().interrupted();
        assert!(answer.is_cancelled() && !signals.stop.is_cancelled());
        let next = signals.claim_interrupt();
        signals.release();
        signals.interrupted();
        assert!(!next.is_cancelled() && signals.stop.is_cancelled());
    }
}
