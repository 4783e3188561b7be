//! The network between the operator and heads, nodes and machines.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _};
use lockstep_operator::heads::{Control, Credentials, Link, Network, Reports};
use lockstep_operator::rollout::NodeWord;
use lockstep_proto::v1::ClusterStatus;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::script::Millis;
use super::{Planted, Shared, World};

/// Time after which a connection attempt without an answer, or a question, is given up.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1_500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which keep-alives notice that nothing answers.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
const ROUND_TRIP: Duration = Duration::from_millis(2);

/// Returns the address of a machine.
pub(super) fn machine_address(machine: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, machine as u8 + 1))
}

/// Returns the machine of an address, which is its own or a pod's on it.
fn machine_of(address: IpAddr) -> usize {
    let IpAddr::V4(address) = address else { return usize::MAX };
    let [_, zone, pod_machine, last] = address.octets();
    usize::from(if zone == 0 { last } else { pod_machine }).wrapping_sub(1)
}

impl World {
    /// Returns true if the operator reaches a machine.
    fn is_reached(&self, machine: usize) -> bool {
        if self.planted == Some(Planted::SilencesMachine) && machine == 0 {
            return false;
        }
        let machine = self.machines.get(machine);
        self.now >= self.operator_cut_until && machine.is_some_and(|machine| machine.is_well(self.now))
    }

    /// Returns the uid of the process at an address.
    fn process_at(&self, address: IpAddr) -> Option<String> {
        let pods = self.objects.pods.objects.values();
        let text = address.to_string();
        let uid = pods
            .filter(|pod| pod.status.as_ref().is_some_and(|status| status.pod_ip.as_ref() == Some(&text)))
            .find_map(|pod| pod.metadata.uid.clone())?;
        self.processes.contains_key(&uid).then_some(uid)
    }
}

pub(super) struct Simulated(pub Shared);

impl Network for Simulated {
    fn dial<'a>(&'a self, address: IpAddr, _: &'a Credentials) -> BoxFuture<'a, Result<Link, String>> {
        async move {
            sleep(ROUND_TRIP).await;
            let (reached, head) = {
                let world = self.0.lock();
                let head = world.process_at(address).filter(|uid| world.processes[uid].head.is_some());
                (world.is_reached(machine_of(address)), head)
            };
            match (reached, head) {
                (false, _) => {
                    sleep(DIAL_TIMEOUT).await;
                    Err("the head's control port did not answer in time".into())
                }
                (true, None) => Err("connection refused".into()),
                (true, Some(uid)) => {
                    Ok(Arc::new(HeadLink { world: self.0.clone(), uid, machine: machine_of(address) }) as Link)
                }
            }
        }
        .boxed()
    }

    fn ask_node(&self, address: IpAddr) -> BoxFuture<'_, Option<NodeWord>> {
        async move {
            sleep(ROUND_TRIP).await;
            let word = {
                let world = self.0.lock();
                let reached = world.is_reached(machine_of(address));
                let uid = world.process_at(address).filter(|_| reached);
                let process = uid.and_then(|uid| world.processes.get(&uid));
                let lie = if world.planted == Some(Planted::SilencesMachine) { 10_000 } else { 0 };
                let silent_for = |heard_at: Millis| Duration::from_millis(lie.max(world.now - heard_at));
                process.map(|process| NodeWord { silent_for: silent_for(process.heard_at) })
            };
            if word.is_none() {
                sleep(ANSWER_TIMEOUT).await;
            }
            word
        }
        .boxed()
    }

    fn does_answer(&self, address: IpAddr, _: u16) -> BoxFuture<'_, bool> {
        async move {
            sleep(ROUND_TRIP).await;
            let answers = {
                let world = self.0.lock();
                world.is_reached(machine_of(address))
            };
            if !answers {
                sleep(ANSWER_TIMEOUT).await;
            }
            answers
        }
        .boxed()
    }
}

/// Connection to one head.
struct HeadLink {
    world: Shared,
    uid: String,
    machine: usize,
}

/// Subscription to a head's reports.
struct Watching {
    world: Shared,
    machine: usize,
    status: watch::Receiver<ClusterStatus>,
    is_first: bool,
    silent_since: Option<Millis>,
}

impl Watching {
    /// Returns the next report, or the reason why there is none.
    async fn next(&mut self) -> Result<ClusterStatus, String> {
        if std::mem::take(&mut self.is_first) {
            return Ok(self.status.borrow_and_update().clone());
        }
        loop {
            let changed = timeout(Duration::from_millis(200), self.status.changed()).await;
            let (now, reached) = {
                let world = self.world.lock();
                (world.now, world.is_reached(self.machine))
            };
            if reached {
                self.silent_since = None;
                match changed {
                    Ok(Ok(())) => return Ok(self.status.borrow_and_update().clone()),
                    Ok(Err(_)) => return Err("the head ended the connection".into()),
                    Err(_) => {}
                }
            } else {
                // The report comes later.
                self.status.mark_changed();
                let since = *self.silent_since.get_or_insert(now);
                if now - since >= KEEP_ALIVE.as_millis() as Millis {
                    return Err("keep-alive timed out".into());
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Control for HeadLink {
    fn watch(&self) -> BoxFuture<'_, Result<Reports, String>> {
        async move {
            let world = self.world.lock();
            let head = world.processes.get(&self.uid).and_then(|process| process.head.as_ref());
            let status = head.map(|head| head.status.subscribe()).ok_or("connection refused")?;
            let watching = Watching {
                world: self.world.clone(),
                machine: self.machine,
                status,
                is_first: true,
                silent_since: None,
            };
            let reports = stream::unfold(Some(watching), |watching| async move {
                let mut watching = watching?;
                match watching.next().await {
                    Ok(status) => Some((Ok(status), Some(watching))),
                    Err(error) => Some((Err(error), None)),
                }
            });
            Ok(reports.boxed())
        }
        .boxed()
    }

    fn drain(&self, _: String) -> BoxFuture<'_, Result<(), String>> {
        async move {
            sleep(ROUND_TRIP).await;
            let is_reached = self.world.lock().is_reached(self.machine);
            if !is_reached {
                sleep(DIAL_TIMEOUT).await;
                return Err("deadline".to_owned());
            }
            let mut world = self.world.lock();
            world.check_drain(&self.uid);
            world.drain(&self.uid);
            Ok(())
        }
        .boxed()
    }
}
