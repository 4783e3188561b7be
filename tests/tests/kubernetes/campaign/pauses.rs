//! For how long each fault stops the answers of a cluster with one group and a spare Kubernetes node.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::client::{Client, greedy};
use lockstep_tests::cluster::{eventually, kubectl};
use lockstep_tests::readme::write_table;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{Begun, change_environment, delete, power_off, spare_the_operator, suffer};
use crate::serve::PROMPT;
use crate::steps::{HEAD, LONGEST_WAIT, NAMESPACE, WORKER};

const BEGIN: &str = "<!-- make faults writes this table of pods -->";
/// A client that asks for a token all the time, on a connection of its own each time, and notes the answers.
struct Asker {
    answers: Arc<Mutex<Vec<Instant>>>,
    task: AbortHandle,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asker {
    fn start() -> Self {
        let answers = Arc::<Mutex<Vec<Instant>>>::default();
        let noted = answers.clone();
        let task = tokio::spawn(async move {
            let mut address = String::new();
            loop {
                if ask(&address).await.is_some() {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                } else {
                    address = tokio::task::spawn_blocking(head_address).await.unwrap_or_default();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { answers, task: task.abort_handle() }
    }

    /// Returns the longest time without an answer since `since`.
    fn longest_pause(&self, since: Instant) -> Result<Duration> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let pauses = answers.windows(2).filter(|pair| pair[1] > since).map(|pair| pair[1] - pair[0]);
        let last = answers.last().map(Instant::elapsed).context("nothing was answered")?;
        pauses.chain([last]).max().context("nothing was answered")
    }
}

/// Returns the address of the head's pod. From here Services are reached through one of the nodes, which may lose power.
fn head_address() -> String {
    let ip = kubectl(&["-n", NAMESPACE, "get", "pod", HEAD, "-o", "jsonpath={.status.podIP}"]);
    ip.map(|ip| format!("http://{ip}:50051")).unwrap_or_default()
}

async fn ask(address: &str) -> Option<()> {
    let endpoint = Endpoint::from_shared(address.to_owned()).ok()?.connect_timeout(Duration::from_millis(300));
    let channel = timeout(Duration::from_millis(500), endpoint.connect()).await.ok()?.ok()?;
    let mut client = Client::over(channel);
    timeout(Duration::from_secs(1), client.generate(greedy(&PROMPT, 1))).await.ok()?.ok().map(drop)
}

/// A kind of fault.
struct Kind {
    title: &'static str,
    times: usize,
    /// Longest pause that clients may see.
    goal: Duration,
    begin: fn() -> Result<Begun>,
}

const KINDS: [Kind; 5] = [
    Kind { title: "the head's pod is deleted", times: 10, goal: Duration::from_secs(4), begin: || delete(HEAD) },
    Kind { title: "a worker's pod is deleted", times: 10, goal: Duration::from_secs(4), begin: || delete(WORKER) },
    Kind { title: "the environment changes", times: 5, goal: Duration::from_secs(5), begin: change_environment },
    Kind { title: "the head's node loses power", times: 3, goal: Duration::from_secs(12), begin: || power_off(HEAD) },
    Kind { title: "a worker's node loses power", times: 3, goal: Duration::from_secs(12), begin: || power_off(WORKER) },
];

/// Makes each fault several times, and writes a table of the pauses that clients saw. Fails if one was longer than its
/// goal, or if a pod was replaced in vain.
pub async fn each_fault_costs_seconds() -> Result<()> {
    let mut table = String::from(
        "| fault | times | longest pause: median / maximum | goal | replaced in vain |\n|---|--:|--:|--:|--:|\n",
    );
    let mut misses = Vec::new();
    for kind in &KINDS {
        let (mut pauses, mut in_vain) = (Vec::new(), 0);
        for _ in 0..kind.times {
            let (pause, others) = play(kind).await.with_context(|| kind.title)?;
            eprintln!("{}: {:.2} s, replaced besides: {others:?}", kind.title, pause.as_secs_f64());
            pauses.push(pause);
            in_vain += others.len();
        }
        pauses.sort();
        let (median, longest) = (pauses[pauses.len() / 2].as_secs_f64(), pauses[pauses.len() - 1].as_secs_f64());
        let goal = kind.goal.as_secs_f64();
        writeln!(table, "| {} | {} | {median:.2} s / {longest:.2} s | {goal} s | {in_vain} |", kind.title, kind.times)?;
        if longest > goal || in_vain > 0 {
            misses.push(kind.title);
        }
    }
    eprintln!("{table}");
    write_table(BEGIN, &table)?;
    ensure!(misses.is_empty(), "longer than the goal, or pods that were replaced in vain: {misses:?}");
    Ok(())
}

/// Makes a fault once. Returns the longest pause, and the pods that were replaced in vain.
async fn play(kind: &Kind) -> Result<(Duration, Vec<String>)> {
    spare_the_operator(1)?;
    let asker = Asker::start();
    eventually("answers", LONGEST_WAIT, || asker.longest_pause(Instant::now()).map(drop))?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let others = suffer(kind.begin, 1).await?;
    Ok((asker.longest_pause(began)?, others))
}
