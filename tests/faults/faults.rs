//! Faults, as they are done to a group.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lockstep_tests::process::children;
use lockstep_tests::random::Random;
use rustix::process::Signal;

use crate::control_group::ControlGroup;
use crate::lab::{Direction, Lab};
use crate::load::{HeadEnd, Load};
use crate::plan::{Cut, Fault, Millis};
use crate::site::{Site, send};

/// Time for which a node's packets are answered with RSTs.
const RESETS: Duration = Duration::from_millis(120);
/// Time for which a wire is slow.
const SLOWNESS: Duration = Duration::from_secs(3);
/// CPU time of a throttled node in each 100 ms.
const TENTH_OF_A_CORE: Duration = Duration::from_millis(10);
/// Memory limit at which no worker can load its weights.
const LITTLE_MEMORY: u64 = 8 << 20;
/// Longest time for a group to come back while its disk is full.
const FULL_DISK_LIMIT: Duration = Duration::from_secs(20);
/// Longest time for a process to end that was told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// Fault that was done.
pub struct Done {
    pub what: String,
    pub began: Instant,
    /// End of a fault that lasts. For a kill, time of the last kill.
    pub ended: Instant,
    /// True if the fault is the head's own, which cannot notice it then.
    pub is_heads: bool,
}

impl Done {
    /// Makes a fault that began at `began` and ends now.
    fn now(what: String, began: Instant) -> Self {
        Self { what, began, ended: Instant::now(), is_heads: false }
    }

    fn of_head(self) -> Self {
        Self { is_heads: true, ..self }
    }
}

/// Does a fault to the group, and looks after its processes meanwhile.
pub async fn inject(fault: Fault, site: &mut Site, load: &Load, random: &mut Random) -> Result<Done> {
    match fault {
        Fault::Kill => kill(site, random).await,
        Fault::Stop(range) => stop(site, random, range).await,
        Fault::Freeze(range) => freeze(site, random, range).await,
        Fault::Throttle(time) => throttle(site, time).await,
        Fault::Wire(Cut::BothWays, time) => {
            spoil_wire(site, random, time, "wire cut", |lab, node| {
                lab.cut(node, Direction::ToNode)?;
                lab.cut(node, Direction::FromNode)
            })
            .await
        }
        Fault::Wire(Cut::OneWay, time) => {
            let direction = [Direction::ToNode, Direction::FromNode][random.below(2)];
            let what = format!("wire cut ({direction:?})");
            spoil_wire(site, random, time, &what, |lab, node| lab.cut(node, direction)).await
        }
        Fault::Reset => spoil_wire(site, random, RESETS, "RSTs", Lab::reset).await,
        Fault::Slow => spoil_wire(site, random, SLOWNESS, "slow wire", Lab::slow).await,
        Fault::FullDisk => kill_with_full_disk(site, random).await,
        Fault::LittleMemory => take_memory(site, random).await,
        Fault::HeadKill => kill_head(site, load),
        Fault::WorkerDrain => drain_worker(site, random).await,
        Fault::HeadDrain => drain_head(site, load).await,
    }
}

/// Returns a random time in a range of milliseconds.
fn random_time((least, most): Millis, random: &mut Random) -> Duration {
    Duration::from_millis((least + random.below(most - least + 1)) as u64)
}

/// Returns a random rank that has a process just now, and this process.
async fn choose_rank(site: &mut Site, random: &mut Random) -> (usize, u32) {
    loop {
        let node = random.below(site.group.nodes.len());
        if let Some(pid) = site.rank_process(node) {
            return (node, pid);
        }
        site.pause(Duration::from_millis(10)).await;
    }
}

/// Returns a random worker that has a process just now, and this process.
async fn choose_worker(site: &mut Site, random: &mut Random) -> (usize, u32) {
    loop {
        let (node, pid) = choose_rank(site, random).await;
        if node > 0 {
            return (node, pid);
        }
    }
}

fn kill_process(site: &mut Site, pid: u32) -> Instant {
    site.condemn(pid);
    send(pid, Signal::KILL);
    Instant::now()
}

/// Kills a rank. In one of four cases, kills another rank or its successor while the group forms again.
async fn kill(site: &mut Site, random: &mut Random) -> Result<Done> {
    let (node, pid) = choose_rank(site, random).await;
    let began = kill_process(site, pid);
    let mut done = Done { what: format!("rank {node} killed"), began, ended: began, is_heads: false };
    if random.below(4) == 0 {
        let pause = random_time((0, 800), random);
        site.pause(pause).await;
        let (node, pid) = choose_rank(site, random).await;
        done.ended = kill_process(site, pid);
        done.what += &format!(", rank {node} {pause:?} later");
    }
    Ok(done)
}

/// Stops a rank or the head, which is the last of the processes to choose from.
async fn stop(site: &mut Site, random: &mut Random, range: Millis) -> Result<Done> {
    let time = random_time(range, random);
    let is_head = random.below(site.group.nodes.len() + 1) == 0;
    let (name, pid) = if is_head {
        ("the head".to_owned(), site.head_process().context("the head does not run")?)
    } else {
        let (node, pid) = choose_rank(site, random).await;
        (format!("rank {node}"), pid)
    };
    let began = Instant::now();
    send(pid, Signal::STOP);
    site.pause(time).await;
    send(pid, Signal::CONT);
    let done = Done::now(format!("{name} stopped for {time:?}"), began);
    Ok(if is_head { done.of_head() } else { done })
}

async fn freeze(site: &mut Site, random: &mut Random, range: Millis) -> Result<Done> {
    let time = random_time(range, random);
    let group = ControlGroup::freezer()?;
    let (node, pid) = choose_rank(site, random).await;
    group.add(pid)?;
    let began = Instant::now();
    group.freeze()?;
    site.pause(time).await;
    group.free()?;
    Ok(Done::now(format!("rank {node} frozen for {time:?}"), began))
}

/// Gives each node a tenth of a core for a time.
async fn throttle(site: &mut Site, time: Duration) -> Result<Done> {
    let mut groups = Vec::new();
    for node in 0..site.group.nodes.len() {
        let group = ControlGroup::cpu(node)?;
        let own = site.group.nodes[node].as_ref().map(|process| process.id()).context("a node does not run")?;
        for pid in [vec![own], children(own)].concat() {
            group.add(pid)?;
        }
        groups.push(group);
    }
    let began = Instant::now();
    groups.iter().try_for_each(|group| group.throttle(TENTH_OF_A_CORE))?;
    site.pause(time).await;
    groups.iter().try_for_each(ControlGroup::free)?;
    Ok(Done::now(format!("every process throttled for {time:?}"), began))
}

/// Does something to the wire of a random node, and mends the wire after `time`.
async fn spoil_wire(
    site: &mut Site,
    random: &mut Random,
    time: Duration,
    what: &str,
    spoil: impl Fn(&Lab, usize) -> Result<()>,
) -> Result<Done> {
    let node = random.below(site.group.nodes.len());
    let began = Instant::now();
    spoil(site.around.lab()?, node)?;
    site.pause(time).await;
    site.around.lab()?.mend(node)?;
    Ok(Done::now(format!("{what} of node {node} for {time:?}"), began))
}

/// Fills the disk, kills a rank, and makes room when the group is back. A full disk must not keep it from that.
async fn kill_with_full_disk(site: &mut Site, random: &mut Random) -> Result<Done> {
    site.around.disk()?.fill()?;
    site.pause(random_time((200, 1_000), random)).await;
    let before = site.witness.latest().map_or(0, |status| status.epoch);
    let (node, pid) = choose_rank(site, random).await;
    let began = kill_process(site, pid);
    let is_back = |site: &Site| site.witness.latest().is_some_and(|status| status.ready && status.epoch > before);
    let back = site.await_that("serve with a full disk", FULL_DISK_LIMIT, is_back).await;
    site.around.disk()?.empty()?;
    let late = if back.is_ok() { "" } else { ": the group is not back before there is room" };
    Ok(Done { what: format!("rank {node} killed with a full disk{late}"), began, ended: began, is_heads: false })
}

/// Kills a worker and gives its successors too little memory for a while. The kernel kills each of them.
async fn take_memory(site: &mut Site, random: &mut Random) -> Result<Done> {
    let (node, pid) = choose_worker(site, random).await;
    site.doomed = Some(node);
    let deaths = site.deaths(node);
    let began = kill_process(site, pid);
    let limit = |site: &Site| site.around.memory(node)?.limit(LITTLE_MEMORY);
    site.await_that("limit the memory", STOP_LIMIT, |site| limit(site).is_ok()).await?;
    let time = random_time((2_000, 4_000), random);
    site.pause(time).await;
    site.around.memory(node)?.free()?;
    let killed = site.deaths(node) - deaths;
    let done = Done::now(format!("worker {node} without memory for {time:?}, killed {killed} times"), began);
    // The kernel may have condemned one more.
    site.pause(Duration::from_millis(100)).await;
    site.doomed = None;
    Ok(done)
}

/// Kills the head. Its rank ends with it.
fn kill_head(site: &mut Site, load: &Load) -> Result<Done> {
    let head = site.head_process().context("the head does not run")?;
    if let Some(rank) = site.rank_process(0) {
        site.condemn(rank);
    }
    load.excuse(Some(HeadEnd { at: Instant::now(), breaks_answers: true }));
    let began = kill_process(site, head);
    Ok(Done { what: "the head killed".into(), began, ended: began, is_heads: true })
}

async fn drain_worker(site: &mut Site, random: &mut Random) -> Result<Done> {
    let (node, pid) = choose_worker(site, random).await;
    site.condemn(pid);
    let began = Instant::now();
    send(pid, Signal::TERM);
    await_end(site, node, pid).await?;
    Ok(Done::now(format!("worker {node} told to stop"), began))
}

/// Tells the head to stop. It finishes its requests first, and then tells the workers to stop.
async fn drain_head(site: &mut Site, load: &Load) -> Result<Done> {
    for node in 0..site.group.nodes.len() {
        if let Some(pid) = site.rank_process(node) {
            site.condemn(pid);
        }
    }
    let head = site.head_process().context("the head does not run")?;
    site.condemn(head);
    let began = Instant::now();
    load.excuse(Some(HeadEnd { at: began, breaks_answers: false }));
    send(head, Signal::TERM);
    await_end(site, 0, head).await?;
    Ok(Done::now("the head told to stop".into(), began).of_head())
}

/// Waits until a node has another process than `pid`.
async fn await_end(site: &mut Site, node: usize, pid: u32) -> Result<()> {
    let has_ended = |site: &Site| site.group.nodes[node].as_ref().is_none_or(|process| process.id() != pid);
    site.await_that("the end of a process that was told to stop", STOP_LIMIT, has_ended).await
}
