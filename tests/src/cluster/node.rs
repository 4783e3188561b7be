//! Nodes of the cluster that the test runs in.

use std::time::Duration;

use anyhow::Result;

use super::tools::{eventually, kubectl, run};

/// How long a node may take to be noticed as lost or as back: ten seconds of silence, and a busy machine.
const NOTICED: Duration = Duration::from_secs(60);

/// A real node, by its number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node(pub u32);

impl Node {
    /// As Kubernetes calls it.
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// Cuts its power: no process on it is told.
    pub fn power_off(self) -> Result<()> {
        self.set("power", "off")
    }

    /// Boots it again, on its old disk.
    pub fn power_on(self) -> Result<()> {
        self.set("power", "on")
    }

    /// Takes it off the network. It runs on.
    pub fn cut(self) -> Result<()> {
        self.set("wire", "cut")
    }

    /// Joins it to the network again.
    pub fn mend(self) -> Result<()> {
        self.set("wire", "mend")
    }

    fn set(self, tool: &str, to: &str) -> Result<()> {
        run(tool, &[to, &self.0.to_string()]).map(drop)
    }

    /// Whether the control plane says that it is ready; a node that it has lost is not.
    pub fn is_ready(self) -> Result<bool> {
        Ok(self.condition()? == "True")
    }

    fn condition(self) -> Result<String> {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        kubectl(&["get", "node", &self.name(), "-o", path])
    }

    /// Waits until the control plane has noticed that it is ready, or that it is not.
    pub fn await_ready(self, ready: bool) -> Result<()> {
        let what = format!("{} to be {}", self.name(), if ready { "ready" } else { "not ready" });
        eventually(&what, NOTICED, || {
            let condition = self.condition()?;
            anyhow::ensure!((condition == "True") == ready, "its condition Ready is {condition}");
            Ok(())
        })
    }
}

/// Adds nodes `fake-1` to `fake-N` of 8 GPUs each, which kwok plays: pods there seem to run. Only pods that ask for
/// `nvidia.com/gpu`, or tolerate its taint, are placed there.
pub fn fake_nodes(count: u32) -> Result<()> {
    run("fake-nodes", &[&count.to_string()]).map(drop)
}

/// Power and wire for every node, as far as that is possible.
pub(super) fn restore_all() {
    let count: u32 = std::env::var("NODES").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    for node in (1..=count).map(Node) {
        let restored = node.power_on().and_then(|()| node.mend());
        if let Err(error) = restored {
            eprintln!("{}: {error:#}", node.name());
        }
    }
    for node in (1..=count).map(Node) {
        if let Err(error) = node.await_ready(true) {
            eprintln!("{error:#}");
        }
    }
}
