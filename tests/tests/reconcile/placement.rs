//! The nodes on which Kubernetes' scheduler puts the pods of several groups.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::{fake_nodes, kubectl};

use crate::world::{FAST, NODES, World, name_of};

/// Nodes of these tests: one for each pod of three groups of two pods.
const ROOM: u32 = 6;

/// No node has pods of two groups while another node is free. The placement policy still holds within each group.
pub fn groups_lie_on_nodes_of_their_own() -> Result<()> {
    let world = World::new("apart")?;
    fake_nodes(ROOM)?;
    let tried = (|| {
        lie_apart(&world, "spread", "Spread", 2)?;
        lie_apart(&world, "packed", "Pack", 1)
    })();
    for node in NODES + 1..=ROOM {
        kubectl(&["delete", "node", &format!("fake-{node}")])?;
    }
    tried
}

/// Makes three groups of two pods. Each group must have `nodes` nodes, and no node may have pods of two groups.
fn lie_apart(world: &World, name: &str, policy: &str, nodes: usize) -> Result<()> {
    world.apply(name, &format!("replicas: 3, workers: 1, placement: {{ policy: {policy} }}, {FAST}"))?;
    world.await_settled(name)?;
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in world.list("pods", name)? {
        let group = pod["metadata"]["labels"]["lockstep.dev/group"].as_str().context("a group")?;
        let node = pod["spec"]["nodeName"].as_str().with_context(|| format!("a node of {}", name_of(&pod)))?;
        groups.entry(group.to_owned()).or_default().insert(node.to_owned());
    }
    ensure!(groups.len() == 3 && groups.values().all(|own| own.len() == nodes), "{policy}: {groups:?}");
    let all: BTreeSet<_> = groups.values().flatten().collect();
    ensure!(all.len() == 3 * nodes, "{policy}: groups share nodes: {groups:?}");
    world.kubectl(&["delete", "icl", name])?;
    world.eventually("the pods to be gone", || {
        ensure!(world.pods(name)?.is_empty(), "they are there");
        Ok(())
    })
}
