//! Groups, nodes and messages for the unit tests of the head.

use std::net::IpAddr;
use std::time::Instant;

use lockstep_proto::node as pb;

use super::group::GroupConfig;
use super::member::Member;

pub(super) fn config(nodes: usize) -> GroupConfig {
    let model = pb::Model { digest: "digest".into(), ..Default::default() };
    let assignment = pb::Assignment {
        cluster_id: "c".into(),
        world_size: nodes as u32,
        pipeline_parallel_size: 1,
        model: Some(model),
        ..Default::default()
    };
    GroupConfig { nodes, local_world_size: 1, backend: "ring", assignment }
}

pub(super) fn hello(node: u32) -> pb::Hello {
    pb::Hello {
        wire_version: pb::WIRE_VERSION,
        version: "0".into(),
        node,
        local_world_size: 1,
        incarnation: 7,
        dial: 3,
        ring_addresses: vec![format!("0.0.0.0:{}", 2000 + node)],
        host: format!("host-{node}"),
        pid: 5,
        backends: vec!["ring".into()],
        ..Default::default()
    }
}

pub(super) fn member(node: u32, connection: u64) -> Member {
    let lo = IpAddr::from([127, 0, 0, 1]);
    Member::new(hello(node), connection, lo, lo, Instant::now())
}

pub(super) fn loaded(num_blocks: u32) -> pb::Loaded {
    pb::Loaded { model: "digest".into(), num_blocks, ..Default::default() }
}
