//! Nodes of the cluster that the test runs in.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::tools::{eventually, kubectl, run};

/// Longest time until the control plane notices that a node is lost or back: ten seconds of silence, and a busy
/// machine.
const NOTICED: Duration = Duration::from_secs(60);

/// Real node, by its number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node(pub u32);

impl Node {
    /// Returns the real node with this name in Kubernetes.
    pub fn named(name: &str) -> Result<Self> {
        let number = name.strip_prefix("node").and_then(|number| number.parse().ok());
        number.map(Self).with_context(|| format!("{name:?} is no real node"))
    }

    /// Returns the node's name in Kubernetes.
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// Cuts the node's power. Its processes get no signal.
    pub fn power_off(self) -> Result<()> {
        self.set("power", "off")
    }

    /// Boots the node again, on its old disk.
    pub fn power_on(self) -> Result<()> {
        self.set("power", "on")
    }

    /// Takes the node off the network. Its processes run on.
    pub fn cut(self) -> Result<()> {
        self.set("wire", "cut")
    }

    /// Joins the node to the network again.
    pub fn mend(self) -> Result<()> {
        self.set("wire", "mend")
    }

    /// Leads requests from outside to Services through this node, as long as it is on the network.
    pub fn route_services(self) -> Result<()> {
        run("route", &[&self.0.to_string()]).map(drop)
    }

    fn set(self, tool: &str, to: &str) -> Result<()> {
        run(tool, &[to, &self.0.to_string()]).map(drop)
    }

    /// Returns true if the control plane counts the node as ready. A lost node is not ready.
    pub fn is_ready(self) -> Result<bool> {
        Ok(self.condition()? == "True")
    }

    fn condition(self) -> Result<String> {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        kubectl(&["get", "node", &self.name(), "-o", path])
    }

    /// Waits until the control plane counts the node as ready or as not ready.
    pub fn await_ready(self, ready: bool) -> Result<()> {
        let what = format!("{} to be {}", self.name(), if ready { "ready" } else { "not ready" });
        eventually(&what, NOTICED, || {
            let condition = self.condition()?;
            anyhow::ensure!((condition == "True") == ready, "its condition Ready is {condition}");
            Ok(())
        })
    }
}

/// Adds nodes `fake-1` to `fake-N` of 8 GPUs each. kwok simulates the nodes, and pods seem to run there. The nodes have
/// the taint `nvidia.com/gpu`. Kubernetes places only pods there that ask for `nvidia.com/gpu` or tolerate the taint.
pub fn fake_nodes(count: u32) -> Result<()> {
    run("fake-nodes", &[&count.to_string()]).map(drop)
}

/// Restores the power and the network of every node, as far as possible.
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
