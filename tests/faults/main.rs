//! Campaign of real faults on groups of real processes: kills, stops, cut wires, full disks and more under load. No
//! request may be lost, and every answer has the tokens of an undisturbed run.
//!
//! `make faults` runs all of it; [`plan`] says what. `make soak` runs [`soak`]. As a test, without the argument `campaign`, this binary runs a short
//! campaign that needs neither root nor a minute.

mod around;
mod case;
mod control_group;
mod faults;
mod lab;
mod load;
mod namespaces;
mod plan;
mod report;
mod site;
mod small_disk;
mod soak;
mod witness;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Trial};
use tokio::signal::unix::{SignalKind, signal};

use case::Outcome;
use control_group::ControlGroup;
use load::{Load, Question};
use plan::{Fault, Plan, Round, Setting};
use report::Report;
use site::Site;

/// Longest time for a group to start.
const LONGEST_START: Duration = Duration::from_secs(60);
/// Greatest number of a case's troubles that are printed.
const SHOWN: usize = 10;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "campaign") {
        return run_campaign().unwrap_or_else(|error| {
            eprintln!("make faults: {error:#}");
            ExitCode::FAILURE
        });
    }
    if std::env::args().any(|argument| argument == "soak") {
        return run_soak().unwrap_or_else(|error| {
            eprintln!("make soak: {error:#}");
            ExitCode::FAILURE
        });
    }
    let short = Trial::test("a_short_campaign_loses_nothing", || {
        let mut report = Report::new();
        tokio::runtime::Runtime::new()?.block_on(run(&Plan::short(), &mut report))?;
        if report.is_clean() { Ok(()) } else { Err("see above".into()) }
    });
    libtest_mimic::run(&Arguments::from_args(), vec![short]).exit_code()
}

fn run_campaign() -> Result<ExitCode> {
    let mut plan = Plan::from_environment()?;
    let can_enter = namespaces::are_allowed();
    if can_enter {
        namespaces::enter()?;
        control_group::remove_abandoned();
    }
    plan.leave_out(|fault| missing(fault, can_enter));
    let mut report = Report::new();
    let is_over = tokio::runtime::Runtime::new()?.block_on(async {
        let (mut interrupt, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            over = run(&plan, &mut report) => over.map(|()| true),
            _ = interrupt.recv() => Ok(false),
            _ = term.recv() => Ok(false),
        }
    })?;
    println!("\n{}", report.table()?);
    if !is_over {
        return Ok(ExitCode::from(130));
    }
    if plan.is_whole {
        report.write()?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the soak for the time that `HOURS` gives.
fn run_soak() -> Result<ExitCode> {
    let hours = std::env::var("HOURS").unwrap_or_else(|_| "2".into());
    let hours: f64 = hours.parse().with_context(|| format!("HOURS={hours} is no number"))?;
    let logs = folder_beside_programs()?.join("soak");
    let is_flat =
        tokio::runtime::Runtime::new()?.block_on(soak::soak(Duration::from_secs_f64(hours * 3600.0), logs))?;
    Ok(if is_flat { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the reason why this machine cannot have a fault; `None`: it can.
fn missing(fault: Fault, can_enter: bool) -> Option<String> {
    let error = match fault {
        fault if fault.setting() == Setting::Loopback && !matches!(fault, Fault::Freeze(_) | Fault::Throttle(_)) => {
            None
        }
        _ if !can_enter => return Some("it needs root and namespaces".into()),
        Fault::Freeze(_) => ControlGroup::freezer().err(),
        Fault::LittleMemory => ControlGroup::memory(0).err(),
        Fault::Throttle(_) => ControlGroup::cpu(0).err(),
        _ => None,
    };
    error.map(|error| format!("{error:#}"))
}

/// Runs all rounds, one after another.
async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    ensure!(!plan.rounds.is_empty(), "nothing to do");
    let mut campaign = Campaign { seed: plan.seed, questions: HashMap::new(), report };
    for round in &plan.rounds {
        campaign.run_round(round).await?;
    }
    Ok(())
}

/// Running campaign.
struct Campaign<'a> {
    seed: u64,
    /// Requests and their answers, by the name of the shape.
    questions: HashMap<&'static str, Arc<[Question]>>,
    report: &'a mut Report,
}

impl Campaign<'_> {
    /// Runs all cases of a kind on a shape. A case in which something goes wrong is followed by a new group.
    async fn run_round(&mut self, round: &Round) -> Result<()> {
        let mut seeds = (self.seed..).take(round.cases).peekable();
        while let Some(first) = seeds.peek().copied() {
            let logs = log_folder(round, first)?;
            let (mut site, load) = match self.start(round, logs.clone()).await {
                Ok(started) => started,
                Err(error) => {
                    self.judge(round, first, Err(error));
                    seeds.next();
                    continue;
                }
            };
            let mut is_clean = true;
            while is_clean && let Some(seed) = seeds.next() {
                let outcome = case::run(round.kind.fault, &mut site, &load, seed).await;
                is_clean = self.judge(round, seed, outcome);
            }
            site.end(!is_clean);
            if !is_clean {
                println!("          logs: {}", logs.display());
            }
        }
        Ok(())
    }

    /// Starts a group and its clients.
    async fn start(&mut self, round: &Round, logs: PathBuf) -> Result<(Site, Load)> {
        let mut site = Site::start(round.shape, round.kind.fault.setting(), logs)?;
        let now = Instant::now();
        let is_ready = |site: &Site| site.witness.is_ready_after(now);
        if let Err(error) = site.await_that("start a group", LONGEST_START, is_ready).await {
            site.end(true);
            return Err(error);
        }
        if let Some(rank) = site.witness.latest().and_then(|status| status.ranks.into_iter().next()) {
            self.report.device = rank.device;
        }
        let endpoint = site.group.endpoint();
        if !self.questions.contains_key(round.shape.name) {
            self.questions.insert(round.shape.name, load::ask_undisturbed(endpoint.clone()).await?);
        }
        let load = Load::start(&endpoint, &self.questions[round.shape.name])?;
        Ok((site, load))
    }

    /// Adds a case to the report, and prints a line about it. Prints how to repeat the case if something went wrong.
    /// Returns true if nothing did.
    fn judge(&mut self, round: &Round, seed: u64, outcome: Result<Outcome>) -> bool {
        let tally = self.report.tally(round.kind);
        let (what, troubles) = match outcome {
            Ok(outcome) => {
                tally.add(&outcome);
                (outcome.to_string(), outcome.troubles())
            }
            Err(error) => {
                tally.add_failure();
                ("failed".into(), vec![format!("{error:#}")])
            }
        };
        let (kind, shape) = (round.kind.name, round.shape.name);
        println!("{:>6} s  {kind} on {shape}, seed {seed}: {what}", self.report.began.elapsed().as_secs());
        if !troubles.is_empty() {
            let shown = &troubles[..troubles.len().min(SHOWN)];
            println!("FAILED    {} times:\n          {}", troubles.len(), shown.join("\n          "));
            println!("          again: make faults KINDS={kind} SHAPES={shape} SEED={seed} KILLS=1");
        }
        troubles.is_empty()
    }
}

/// Returns a folder beside the programs for the logs of a group.
fn log_folder(round: &Round, seed: u64) -> Result<PathBuf> {
    Ok(folder_beside_programs()?.join(format!("{}-{}-{seed}", round.kind.name, round.shape.name)))
}

/// Returns the folder for logs beside the programs.
fn folder_beside_programs() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program's path")?;
    let target = program.ancestors().nth(3).context("find the target folder")?;
    Ok(target.join("faults"))
}
