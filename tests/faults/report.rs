//! Table of a campaign, on the terminal and in `tests/README.md`.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lockstep_tests::readme::write_table;

use crate::case::Outcome;
use crate::plan::{KINDS, Kind};

const BEGIN: &str = "<!-- make faults writes this table -->";

/// Sums over the cases of one kind.
#[derive(Debug, Default)]
pub struct Tally {
    cases: usize,
    requests: usize,
    broken: usize,
    lost: usize,
    wrong: usize,
    ended: usize,
    /// Cases after which the group did not come back, or that could not be made.
    failed: usize,
    noticed: Vec<Duration>,
    served_again: Vec<Duration>,
}

impl Tally {
    pub fn add(&mut self, outcome: &Outcome) {
        let answers = &outcome.answers;
        self.cases += 1;
        self.requests += answers.requests;
        self.broken += answers.broken;
        self.lost += answers.lost.len();
        self.wrong += answers.wrong.len();
        self.ended += outcome.ended.len();
        self.noticed.extend(outcome.noticed);
        self.served_again.extend(outcome.served_again);
    }

    pub fn add_failure(&mut self) {
        self.cases += 1;
        self.failed += 1;
    }

    pub fn is_clean(&self) -> bool {
        self.lost + self.wrong + self.ended + self.failed == 0
    }
}

/// Report of a campaign.
pub struct Report {
    pub began: Instant,
    /// Sums by kind, in the order of [`KINDS`].
    tallies: [Tally; KINDS.len()],
    /// Device of the ranks, with the instruction set: `cpu (avx2)`.
    pub device: String,
}

impl Report {
    pub fn new() -> Self {
        Self { began: Instant::now(), tallies: Default::default(), device: String::new() }
    }

    pub fn tally(&mut self, kind: Kind) -> &mut Tally {
        let index = KINDS.iter().position(|known| known.name == kind.name).expect("a kind");
        &mut self.tallies[index]
    }

    pub fn is_clean(&self) -> bool {
        self.tallies.iter().all(Tally::is_clean)
    }

    /// Returns the table, in Markdown.
    pub fn table(&self) -> Result<String> {
        let date = Command::new("date").arg("+%F").output().context("ask for the date")?.stdout;
        let date = String::from_utf8_lossy(&date).trim().to_owned();
        let cores = std::thread::available_parallelism()?;
        let minutes = self.began.elapsed().as_secs().div_ceil(60);
        let mut text = format!("{date}, {}, {cores} cores, {minutes} minutes:\n\n", self.device);
        text += "| fault | cases | requests | lost | wrong | broken off | noticed after | serves again after | healthy processes ended |\n";
        text += "|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
        for (kind, tally) in KINDS.iter().zip(&self.tallies).filter(|(_, tally)| tally.cases > 0) {
            let Tally { cases, requests, lost, wrong, broken, ended, .. } = tally;
            let (noticed, served) = (describe(&tally.noticed, tally.cases), describe(&tally.served_again, tally.cases));
            let failed = if tally.failed > 0 { format!(" ({} failed)", tally.failed) } else { String::new() };
            writeln!(
                text,
                "| {} | {cases}{failed} | {requests} | {lost} | {wrong} | {broken} | {noticed} | {served} | {ended} |",
                kind.title
            )?;
        }
        Ok(text)
    }

    /// Puts the table into `tests/README.md`.
    pub fn write(&self) -> Result<()> {
        write_table(BEGIN, &self.table()?)
    }
}

/// Returns the median and the maximum, and how many cases have a time if some have none.
fn describe(times: &[Duration], cases: usize) -> String {
    let mut sorted = times.to_vec();
    sorted.sort();
    let (Some(last), Some(middle)) = (sorted.last(), sorted.get(sorted.len() / 2)) else { return "–".into() };
    let some = if sorted.len() < cases { format!(" ({} of {cases})", sorted.len()) } else { String::new() };
    format!("{} / {}{some}", seconds(*middle), seconds(*last))
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
