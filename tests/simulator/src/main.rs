//! Plays histories of a simulated group, in search of one in which a property does not hold.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use lockstep_simulator::{Counts, History};

/// Time between two lines of progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Plays histories of a simulated group (the real head, schedule and node sessions over simulated wires, clocks, processes
/// and ranks) and of the operator (the real one, in a simulated Kubernetes). A seed determines a history. Ends with status 1
/// at the first history in which a property does not hold, and prints its seed.
#[derive(Parser)]
struct Arguments {
    /// Play this history alone, and print what happens in it
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: leave out what the failure does not need, and print the rest
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Seed of the first history; without it, the clock chooses
    #[arg(long)]
    first: Option<u64>,
    /// Number of histories; without it and without a time, they go on until one fails
    #[arg(long)]
    count: Option<u64>,
    /// Time for which histories are played, in hours
    #[arg(long)]
    hours: Option<f64>,
    /// Time for which histories are played, in minutes
    #[arg(long, conflicts_with = "hours")]
    minutes: Option<f64>,
    /// Threads; without it, one for each core
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Play only histories of the operator
    #[arg(long)]
    operator: bool,
    /// Go on after a finding
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => play_one(seed, &arguments),
        None => play_many(&arguments),
    }
}

fn play_one(seed: u64, arguments: &Arguments) -> ExitCode {
    let mut history = History::of(seed);
    if arguments.shrink
        && let Some(finding) = history.play(false).findings.first()
    {
        history = history.shrink(&finding.property);
    }
    print!("{history}");
    let level = std::env::var("LOG").unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_max_level(level.parse::<tracing::Level>().ok()).without_time().init();
    let played = history.play(true);
    println!("{:?}", played.counts);
    played.findings.iter().for_each(|finding| println!("seed {seed}: {finding}"));
    if played.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sums over many histories.
#[derive(Default)]
struct Totals {
    histories: AtomicU64,
    of_operator: AtomicU64,
    simulated_micros: AtomicU64,
    faults: AtomicU64,
    requests: AtomicU64,
    tokens: AtomicU64,
    recoveries: AtomicU64,
    findings: AtomicU64,
    /// Longest times from the last fault to a group that serves and to a cluster at rest, in microseconds, with the seeds.
    slowest: Mutex<[(u64, u64); 2]>,
}

impl Totals {
    fn add(&self, seed: u64, counts: &Counts) {
        let add = |number: &AtomicU64, more: u64| number.fetch_add(more, Ordering::Relaxed);
        add(&self.histories, 1);
        add(&self.simulated_micros, counts.simulated().as_micros() as u64);
        let (kind, time) = match counts {
            Counts::Group(counts) => {
                add(&self.faults, counts.faults);
                add(&self.requests, counts.requests);
                add(&self.tokens, counts.tokens);
                add(&self.recoveries, counts.recoveries);
                (0, counts.slowest_return)
            }
            Counts::Operator(counts) => {
                add(&self.of_operator, 1);
                add(&self.faults, counts.faults);
                (1, counts.return_time * 1000)
            }
        };
        if let Ok(mut slowest) = self.slowest.lock() {
            slowest[kind] = slowest[kind].max((time, seed));
        }
    }

    fn print(&self, since: Instant) {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let minutes = since.elapsed().as_secs_f64() / 60.0;
        println!(
            "{} histories ({:.0} a minute), {} of the operator; {:.1} simulated days, {} faults, {} requests, {} tokens, {} \
             lost epochs, {} findings",
            get(&self.histories),
            get(&self.histories) as f64 / minutes,
            get(&self.of_operator),
            get(&self.simulated_micros) as f64 / 1e6 / 86_400.0,
            get(&self.faults),
            get(&self.requests),
            get(&self.tokens),
            get(&self.recoveries),
            get(&self.findings),
        );
    }

    fn print_slowest(&self) {
        let Ok(slowest) = self.slowest.lock() else { return };
        for ((time, seed), what) in slowest.iter().zip(["group served again", "cluster was as its spec asks"]) {
            println!("the slowest {what} {:.1} s after its last fault (seed {seed})", *time as f64 / 1e6);
        }
    }
}

fn play_many(arguments: &Arguments) -> ExitCode {
    std::panic::set_hook(Box::new(|_| ()));
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let next = AtomicU64::new(arguments.first.unwrap_or_else(clock));
    let end = arguments.count.map(|count| next.load(Ordering::Relaxed).saturating_add(count));
    let (since, over, totals) = (Instant::now(), AtomicBool::new(false), Totals::default());
    let minutes = arguments.minutes.or_else(|| arguments.hours.map(|hours| hours * 60.0));
    let deadline = minutes.map(|minutes| since + Duration::from_secs_f64(minutes * 60.0));
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = arguments.threads.unwrap_or(cores).get();
    let play = || {
        while !over.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if end.is_some_and(|end| seed >= end) {
                return;
            }
            let history = History::of(seed);
            if arguments.operator && matches!(history, History::Group(_)) {
                continue;
            }
            let played = history.play(false);
            totals.add(seed, &played.counts);
            if let Some(finding) = played.findings.first() {
                totals.findings.fetch_add(1, Ordering::Relaxed);
                println!("seed {seed}: {finding}\n  again, and small: make simulate SEED={seed}");
                over.fetch_or(!arguments.keep_going, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        let mut reported_at = since;
        while players.iter().any(|player| !player.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if reported_at.elapsed() > REPORT_INTERVAL {
                reported_at = Instant::now();
                totals.print(since);
            }
        }
    });
    totals.print(since);
    totals.print_slowest();
    if totals.findings.load(Ordering::Relaxed) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
