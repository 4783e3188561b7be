//! Soak: hours of mixed traffic with requests that clients break off, and a kill a minute. Nothing may grow.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lockstep_tests::random::Random;
use lockstep_tests::readme::write_table;

use crate::faults::inject;
use crate::load::{Cancels, Load, ask_undisturbed};
use crate::plan::{Fault, SHAPES, Setting};
use crate::site::Site;

const BEGIN: &str = "<!-- make soak writes this table -->";
/// Time between two kills, and between two looks at the processes.
const KILL_INTERVAL: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time for a group to start or to come back.
const LONGEST_RECOVERY: Duration = Duration::from_secs(150);
/// Shortest soak whose table is written.
const WRITTEN_FROM: Duration = Duration::from_secs(3600);

/// What is counted of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Quantity {
    MemoryKib,
    Descriptors,
    Threads,
}

impl Quantity {
    const ALL: [Self; 3] = [Self::MemoryKib, Self::Descriptors, Self::Threads];

    /// Reads the quantity of a process. `None`: the process has ended.
    fn read(self, pid: u32) -> Option<u64> {
        let of_status = |name: &str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        match self {
            Self::MemoryKib => of_status("VmRSS:"),
            Self::Threads => of_status("Threads:"),
            Self::Descriptors => Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64),
        }
    }

    /// Returns the growth that is none: what a burst of requests or a recovery takes for a while.
    fn slack(self, before: u64) -> u64 {
        match self {
            Self::MemoryKib => (before / 20).max(8 << 10),
            Self::Descriptors => 6,
            Self::Threads => 2,
        }
    }

    fn show(self, value: u64) -> String {
        match self {
            Self::MemoryKib => format!("{:.1} MiB", value as f64 / 1024.0),
            _ => value.to_string(),
        }
    }
}

/// Samples of one quantity of one process, with their times.
type Series = Vec<(Duration, u64)>;

/// Runs for `time`. Prints a line a minute, and a table at the end. Returns true if nothing grew and nothing was lost.
///
/// # Errors
/// Fails if the group does not start, or does not come back.
pub async fn soak(time: Duration, logs: PathBuf) -> Result<bool> {
    let mut site = Site::start(SHAPES[1], Setting::Loopback, logs)?;
    let now = Instant::now();
    site.await_that("start a group", LONGEST_RECOVERY, |site| site.witness.is_ready_after(now)).await?;
    let endpoint = site.group.endpoint();
    let questions = ask_undisturbed(endpoint.clone()).await?;
    let load = Load::start(&endpoint, &questions)?;
    let cancels = Cancels::start(&endpoint, site.group.http_port(), &questions)?;
    let mut series = BTreeMap::<(String, Quantity), Series>::new();
    let (mut random, mut lost, mut requests, mut kills) = (Random::new(1), 0, 0, 0);
    let (began, mut killed) = (Instant::now(), Instant::now());
    while began.elapsed() < time {
        site.pause(LOOK_INTERVAL).await;
        for (name, pid) in processes(&mut site) {
            for quantity in Quantity::ALL {
                let sample = quantity.read(pid).map(|value| (began.elapsed(), value));
                series.entry((name.clone(), quantity)).or_default().extend(sample);
            }
        }
        if killed.elapsed() >= KILL_INTERVAL {
            killed = Instant::now();
            let done = inject(Fault::Kill, &mut site, &load, &mut random).await?;
            site.await_that("serve again", LONGEST_RECOVERY, |site| site.witness.is_ready_after(done.ended)).await?;
            let (answers, ended) = (load.take(), site.take_ended());
            kills += 1;
            requests += answers.requests;
            lost += answers.lost.len() + answers.wrong.len() + ended.len();
            println!(
                "{:>6} s  {}; {requests} answers, {} broken off; lost, wrong or ended: {lost} {:?} {:?} {ended:?}",
                began.elapsed().as_secs(),
                done.what,
                cancels.count(),
                answers.lost,
                answers.wrong
            );
        }
    }
    let broken_off = cancels.count();
    drop((load, cancels));
    let is_idle = await_idle(&mut site).await;
    site.end(lost > 0 || is_idle.is_err());
    let (table, grown) = judge(&series, began.elapsed());
    let minutes = time.as_secs() / 60;
    let text = format!(
        "{minutes} minutes, {requests} whole answers, {broken_off} broken off by their clients, {kills} kills, {lost} lost or \
         wrong:\n\n{table}"
    );
    println!("\n{text}");
    if time >= WRITTEN_FROM {
        write_table(BEGIN, &text)?;
    }
    is_idle?;
    Ok(grown.is_empty() && lost == 0)
}

/// Returns the processes of the group by their names.
fn processes(site: &mut Site) -> Vec<(String, u32)> {
    let mut all: Vec<_> = site.head_process().map(|pid| ("head".to_owned(), pid)).into_iter().collect();
    for node in 0..site.group.nodes.len() {
        all.extend(site.rank_process(node).map(|pid| (format!("rank {node}"), pid)));
    }
    all
}

/// Waits until nothing is held for requests.
async fn await_idle(site: &mut Site) -> Result<()> {
    let is_idle = |site: &Site| {
        let status = site.witness.latest();
        status.is_some_and(|status| (status.running, status.waiting, status.kv_blocks_used) == (0, 0, 0))
    };
    if site.await_that("let all blocks go", Duration::from_secs(30), is_idle).await.is_err() {
        let status = site.witness.latest().context("the head does not answer")?;
        bail!(
            "{} running, {} waiting, {} blocks without a request",
            status.running,
            status.waiting,
            status.kv_blocks_used
        );
    }
    Ok(())
}

/// Compares the second quarter of each series with the last one. Returns a table, and the names of what grew.
fn judge(series: &BTreeMap<(String, Quantity), Series>, whole: Duration) -> (String, Vec<String>) {
    let mut table =
        String::from("| process | quantity | second quarter | last quarter | grew |\n|---|---|--:|--:|---|\n");
    let mut grown = Vec::new();
    for ((process, quantity), samples) in series {
        let median = |from: f64, to: f64| {
            let part = whole.mul_f64(from)..whole.mul_f64(to);
            let mut values: Vec<u64> =
                samples.iter().filter(|(at, _)| part.contains(at)).map(|(_, value)| *value).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        let (Some(before), Some(after)) = (median(0.25, 0.5), median(0.75, 1.0)) else { continue };
        let has_grown = after > before + quantity.slack(before);
        if has_grown {
            grown.push(format!("{process}: {quantity:?}"));
        }
        let name = match quantity {
            Quantity::MemoryKib => "resident memory",
            Quantity::Descriptors => "descriptors",
            Quantity::Threads => "threads",
        };
        let (before, after) = (quantity.show(before), quantity.show(after));
        let grew = if has_grown { "yes" } else { "no" };
        let _ = writeln!(table, "| {process} | {name} | {before} | {after} | {grew} |");
    }
    (table, grown)
}
