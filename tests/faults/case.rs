//! One case: a fault under load, and what came of it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use lockstep_tests::random::Random;

use crate::faults::{Done, inject};
use crate::load::{Answers, Load};
use crate::plan::Fault;
use crate::site::Site;

/// Longest time for a group to serve again. The head gives up on requests after 120 s.
const LONGEST_RECOVERY: Duration = Duration::from_secs(150);
/// Longest time for requests to end that ran during the fault. Each has a bound of its own.
const LONGEST_ANSWERS: Duration = Duration::from_secs(200);
/// Longest pause between a group's readiness and the next fault, in milliseconds.
const LONGEST_PEACE: usize = 1_000;

/// Outcome of a case.
pub struct Outcome {
    pub what: String,
    pub answers: Answers,
    /// Time from the fault to the status that shows it; `None`: the head never noticed, or is dead itself.
    pub noticed: Option<Duration>,
    /// Time from the fault's end to the first token after the longest silence.
    pub served_again: Option<Duration>,
    /// Processes that ended although nothing was done to them.
    pub ended: Vec<String>,
}

impl Outcome {
    /// Returns all that must not happen.
    pub fn troubles(&self) -> Vec<String> {
        let named =
            |name: &'static str, all: &[String]| all.iter().map(|one| format!("{name}: {one}")).collect::<Vec<_>>();
        [named("lost", &self.answers.lost), named("wrong", &self.answers.wrong), named("ended", &self.ended)].concat()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time =
            |time: Option<Duration>| time.map_or("never".into(), |time| format!("after {:.2} s", time.as_secs_f64()));
        let (noticed, served_again) = (time(self.noticed), time(self.served_again));
        write!(
            formatter,
            "{}; noticed {noticed}, serves again {served_again}, {} requests",
            self.what, self.answers.requests
        )
    }
}

/// Does a fault to a group under load, and waits until all requests have ended that ran meanwhile.
///
/// # Errors
/// Fails if the fault cannot be done, or if the group does not come back.
pub async fn run(fault: Fault, site: &mut Site, load: &Load, seed: u64) -> Result<Outcome> {
    let mut random = Random::new(seed);
    await_readiness(site, Instant::now()).await?;
    site.pause(Duration::from_millis(random.below(LONGEST_PEACE) as u64)).await;
    let done = inject(fault, site, load, &mut random).await?;
    await_readiness(site, done.ended).await?;
    let ready = Instant::now();
    site.await_that("end the requests", LONGEST_ANSWERS, |_| load.all_began_after(ready)).await?;
    load.excuse(None);
    Ok(judge(site, load, done))
}

async fn await_readiness(site: &mut Site, since: Instant) -> Result<()> {
    site.await_that("serve again", LONGEST_RECOVERY, |site| site.witness.is_ready_after(since)).await
}

fn judge(site: &mut Site, load: &Load, done: Done) -> Outcome {
    let noticed = site.witness.noticed(done.began).filter(|_| !done.is_heads).map(|at| at - done.began);
    let served_again = load.end_of_silence(done.began, done.ended).map(|at| at.saturating_duration_since(done.ended));
    Outcome { what: done.what, answers: load.take(), noticed, served_again, ended: site.take_ended() }
}
