//! Memory that goes back to the system after a burst of large requests. The allocator would keep most of it for ever, and a
//! head has little memory.

use std::time::Duration;

use lockstep_api::Api;
use lockstep_engine::release_free_memory;
use tokio_util::sync::CancellationToken;

/// Time between two looks at the memory of bodies.
const LOOK: Duration = Duration::from_secs(1);
/// Memory of bodies above which there is a burst, and below which it is over.
const BURST: usize = 16 << 20;
const CALM: usize = 1 << 20;
/// Number of looks for which a burst must be over. A client that sends one large request after another needs the memory
/// again at once.
const CALM_LOOKS: u32 = 3;

/// Gives memory back after each burst, until `shutdown` is cancelled.
///
/// # Errors
/// None. The head's tasks have a common type.
pub(super) async fn give_back_after_bursts(api: Api, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut bursts = Bursts::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => (),
            () = shutdown.cancelled() => return Ok(()),
        }
        if bursts.is_over(api.take_body_peak()) {
            // The allocator walks through all of its memory, and the runtime must go on meanwhile.
            tokio::task::spawn_blocking(release_free_memory).await.ok();
            tracing::debug!("gave memory back after large requests");
        }
    }
}

/// A burst of large bodies, as the looks at their memory show it.
#[derive(Debug, Default)]
struct Bursts {
    had_burst: bool,
    calm_looks: u32,
}

impl Bursts {
    /// Returns true if a burst is over. `peak` is the most memory that bodies had since the last look.
    fn is_over(&mut self, peak: usize) -> bool {
        self.had_burst |= peak > BURST;
        self.calm_looks = if peak > CALM { 0 } else { self.calm_looks + 1 };
        let is_over = self.had_burst && self.calm_looks >= CALM_LOOKS;
        self.had_burst &= !is_over;
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_once() {
        let mut bursts = Bursts::default();
        let looks = [0, BURST, 0, 0, 0, BURST + 1, 0, CALM + 1, CALM, 0, 0, 0, 0, 2 * BURST, 0, 0, 0, 0];
        let over: Vec<usize> = (0..looks.len()).filter(|look| bursts.is_over(looks[*look])).collect();
        assert_eq!(over, [10, 16]);
    }
}
