//! What each fault loses of the answers of a cluster with two groups: nothing but what was on its way through a head whose
//! machine loses power.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use lockstep_tests::client::greedy;
use lockstep_tests::cluster::{Node, eventually, kubectl};
use lockstep_tests::readme::write_table;
use tokio::task::JoinSet;

use super::{Begun, change_environment, delete, power_off, spare_the_operator, suffer};
use crate::serve::{PROMPT, expected};
use crate::steps::{HEAD, LONGEST_WAIT, NAMESPACE, QUICKSTART, WORKER, connected, node_of, serves};

const BEGIN: &str = "<!-- make faults writes this table of two groups -->";
const SECOND_HEAD: &str = "quickstart-1-head-0";
const CLIENTS: usize = 6;
/// Tokens of each answer. On two cores, with six clients, an answer takes seconds, so each fault hits some in the middle.
const TOKENS: u32 = 300;

/// A kind of fault.
struct Kind {
    title: &'static str,
    times: usize,
    /// True if the first group's head loses its power. Then a request through the Service may be lost, and half of the
    /// clients ask the second group's head, which must lose none.
    takes_a_head: bool,
    begin: fn() -> Result<Begun>,
}

const KINDS: [Kind; 5] = [
    Kind { title: "a head's pod is deleted", times: 5, takes_a_head: false, begin: || delete(HEAD) },
    Kind { title: "a worker's pod is deleted", times: 5, takes_a_head: false, begin: || delete(WORKER) },
    Kind { title: "the environment changes", times: 3, takes_a_head: false, begin: change_environment },
    Kind { title: "a head's node loses power", times: 3, takes_a_head: true, begin: || power_off(HEAD) },
    Kind { title: "a node of workers loses power", times: 3, takes_a_head: false, begin: power_off_workers },
];

/// Cuts the power of a node that has workers and no head.
fn power_off_workers() -> Result<Begun> {
    let heads = [node_of(HEAD)?, node_of(SECOND_HEAD)?];
    for group in 0..2 {
        for rank in 0..2 {
            let worker = format!("{QUICKSTART}-{group}-worker-{rank}");
            if !heads.contains(&node_of(&worker)?) {
                return power_off(&worker);
            }
        }
    }
    bail!("each worker shares a node with a head: {heads:?}")
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Outcome {
    answers: usize,
    wrong: usize,
    /// Reasons of the lost requests that no fault excuses.
    lost: Vec<String>,
    /// Number of lost requests that may have gone through the head that lost its power.
    lost_with_head: usize,
}

/// Clients that ask all the time, each request on a connection of its own, as new clients would.
struct Clients {
    outcome: Arc<Mutex<Outcome>>,
    tasks: JoinSet<()>,
}

impl Clients {
    fn start(want: &Arc<Vec<u32>>, takes_a_head: bool) -> Result<Self> {
        // By address, because the fault may take a DNS server along.
        let get = |what: &[&str], path: &str| kubectl(&[&["-n", NAMESPACE, "get"], what, &["-o", path]].concat());
        let service = get(&["service", QUICKSTART], "jsonpath={.spec.clusterIP}")?;
        let second = get(&["pod", SECOND_HEAD], "jsonpath={.status.podIP}")?;
        let outcome = Arc::<Mutex<Outcome>>::default();
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let asks_second = takes_a_head && number % 2 == 0;
            let (outcome, want) = (outcome.clone(), want.clone());
            let address = if asks_second { second.clone() } else { service.clone() };
            tasks.spawn(async move {
                loop {
                    let answered = ask(&address).await;
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    match answered {
                        Ok(tokens) if tokens == *want => outcome.answers += 1,
                        Ok(_) => outcome.wrong += 1,
                        Err(_) if takes_a_head && !asks_second => outcome.lost_with_head += 1,
                        Err(error) => outcome.lost.push(format!("{error:#}")),
                    }
                }
            });
        }
        Ok(Self { outcome, tasks })
    }

    fn answers(&self) -> usize {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).answers
    }

    async fn end(mut self) -> Outcome {
        self.tasks.shutdown().await;
        std::mem::take(&mut self.outcome.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn ask(address: &str) -> Result<Vec<u32>> {
    let mut client = connected(format!("{address}:50051")).await?;
    Ok(client.generate(greedy(&PROMPT, TOKENS)).await?.tokens)
}

/// Makes each fault several times, and writes a table of what was lost. Fails if that was more than a head without power
/// took along, or if an answer was wrong.
pub async fn two_groups_lose_nothing() -> Result<()> {
    let want = Arc::new(expected(TOKENS).await?);
    kubectl(&["-n", NAMESPACE, "scale", "icl", QUICKSTART, "--replicas=2"])?;
    serves(2)?;
    let mut table =
        String::from("| fault | times | answers | lost | lost with the head | wrong |\n|---|--:|--:|--:|--:|--:|\n");
    let mut faults = Vec::new();
    for kind in &KINDS {
        let mut sum = Outcome::default();
        for _ in 0..kind.times {
            let outcome = play(kind, &want).await.with_context(|| kind.title)?;
            eprintln!("{}: {outcome:?}", kind.title);
            sum.answers += outcome.answers;
            sum.wrong += outcome.wrong;
            sum.lost.extend(outcome.lost);
            sum.lost_with_head += outcome.lost_with_head;
        }
        let Outcome { answers, wrong, lost, lost_with_head } = sum;
        let (title, times, count) = (kind.title, kind.times, lost.len());
        writeln!(table, "| {title} | {times} | {answers} | {count} | {lost_with_head} | {wrong} |")?;
        if count + wrong > 0 {
            faults.push(format!("{title}: {wrong} wrong, lost: {lost:?}"));
        }
    }
    eprintln!("{table}");
    write_table(BEGIN, &table)?;
    ensure!(faults.is_empty(), "{faults:?}");
    Ok(())
}

async fn play(kind: &Kind, want: &Arc<Vec<u32>>) -> Result<Outcome> {
    spare_the_operator(2)?;
    let (first, second) = (node_of(HEAD)?, node_of(SECOND_HEAD)?);
    ensure!(first != second, "both heads are on {first}");
    // Clients outside come to the Service through a node, and this one keeps its power.
    Node::named(&second)?.route_services()?;
    let clients = Clients::start(want, kind.takes_a_head)?;
    eventually("answers", LONGEST_WAIT, || {
        ensure!(clients.answers() >= CLIENTS, "{} answers", clients.answers());
        Ok(())
    })?;
    suffer(kind.begin, 2).await?;
    Ok(clients.end().await)
}
