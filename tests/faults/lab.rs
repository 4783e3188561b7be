//! Network of a group on one machine: a namespace for each node, with a wire to a router. The router is the namespace of
//! this process, from which the clients reach the head whatever happens to the wires between the nodes.

use anyhow::Result;
use lockstep_tests::group::Surroundings;

use crate::namespaces::run;

/// Speed of a slow wire, both ways.
const SLOW: &str = "1mbit";

/// Direction on a node's wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToNode,
    FromNode,
}

/// Network of a group. It is removed when dropped.
pub struct Lab {
    nodes: usize,
}

impl Lab {
    pub fn new(nodes: usize) -> Result<Self> {
        let lab = Self { nodes };
        for node in 0..nodes {
            run(&format!(
                "ip netns add node{node}
                ip link add wire{node} type veth peer name eth0 netns node{node}
                ip addr add 10.77.{node}.1/24 dev wire{node}
                ip link set wire{node} up
                ip -n node{node} addr add 10.77.{node}.2/24 dev eth0
                ip -n node{node} link set lo up
                ip -n node{node} link set eth0 up
                ip -n node{node} route add default via 10.77.{node}.1"
            ))?;
        }
        run("echo 1 >/proc/sys/net/ipv4/ip_forward
            nft 'table ip lab { chain wires { type filter hook forward priority 0; }; }'")?;
        Ok(lab)
    }

    pub fn surroundings(&self, node: usize) -> Surroundings {
        let wrapper = vec!["nsenter".into(), format!("--net=/run/netns/node{node}")];
        Surroundings { address: format!("10.77.{node}.2"), wrapper }
    }

    /// Loses all packets between the node and the other nodes in one direction.
    pub fn cut(&self, node: usize, direction: Direction) -> Result<()> {
        let end = if direction == Direction::ToNode { "oifname" } else { "iifname" };
        run(&format!("nft add rule ip lab wires {end} wire{node} drop"))
    }

    /// Answers each of the node's packets to other nodes with a RST, as a firewall does that has forgotten the
    /// connection.
    pub fn reset(&self, node: usize) -> Result<()> {
        run(&format!("nft add rule ip lab wires iifname wire{node} meta l4proto tcp reject with tcp reset"))
    }

    /// Slows the node's wire down both ways: with a delay, where the kernel can do that.
    pub fn slow(&self, node: usize) -> Result<()> {
        let ends = [
            format!("tc qdisc add dev wire{node}"),
            format!("nsenter --net=/run/netns/node{node} tc qdisc add dev eth0"),
        ];
        for end in ends {
            run(&format!("{end} root netem delay 20ms 5ms rate {SLOW}"))
                .or_else(|_| run(&format!("{end} root tbf rate {SLOW} burst 16kb latency 500ms")))?;
        }
        Ok(())
    }

    /// Makes the node's wire whole and fast again.
    pub fn mend(&self, node: usize) -> Result<()> {
        run(&format!(
            "nft flush chain ip lab wires
            tc qdisc del dev wire{node} root 2>/dev/null || true
            nsenter --net=/run/netns/node{node} tc qdisc del dev eth0 root 2>/dev/null || true"
        ))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        run("nft delete table ip lab").ok();
        for node in 0..self.nodes {
            run(&format!("ip link del wire{node}; ip netns del node{node}")).ok();
        }
    }
}
