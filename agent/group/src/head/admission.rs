//! Admission of nodes: the checks on a node's Hello. Each refusal names the setting to change.

use lockstep_proto::node::{Hello, WIRE_VERSION};

use super::group::GroupConfig;
use super::member::NodeSlot;

/// Checks `hello` against the settings of the group and against the process in the node's slot. `slot` is `None` if the
/// group has no such node.
///
/// `unix_micros` is the time now, in microseconds since 1970. It is the highest epoch that the head believes: heads count
/// epochs from 1, and no group forms one in a microsecond. The head continues with a higher epoch than a node states, so a
/// node that could state any number would leave no numbers for later epochs. A number below the time does no harm: the
/// time grows faster than any group counts, so later heads believe the nodes of this group too.
///
/// # Errors
/// Returns the reason for the refusal. The node writes it to its log.
pub(super) fn check_hello(
    hello: &Hello,
    config: &GroupConfig,
    slot: Option<&NodeSlot>,
    unix_micros: u64,
) -> Result<(), String> {
    let assignment = &config.assignment;
    if hello.wire_version != WIRE_VERSION {
        return Err(format!(
            "the node speaks control protocol {} ({}), the head {WIRE_VERSION} ({}): run the same version on both",
            hello.wire_version,
            hello.version,
            env!("CARGO_PKG_VERSION")
        ));
    }
    if !hello.cluster_id.is_empty() && hello.cluster_id != assignment.cluster_id {
        return Err(format!(
            "the node belongs to cluster `{}`, this head to `{}`: check LOCKSTEP_CLUSTER_ID and the head's address",
            hello.cluster_id, assignment.cluster_id
        ));
    }
    let Some(slot) = slot else {
        return Err(format!(
            "there is no node {}: the head expects {} workers, so MISTRALRS_MN_WORKER_ID must be below that",
            hello.node,
            config.nodes.saturating_sub(1)
        ));
    };
    if hello.local_world_size != config.local_world_size {
        return Err(format!(
            "the node has {} ranks, the head expects {} on each: set the same MISTRALRS_MN_LOCAL_WORLD_SIZE everywhere",
            hello.local_world_size, config.local_world_size
        ));
    }
    if hello.world_size != 0 && hello.world_size != assignment.world_size {
        return Err(format!(
            "the node expects {} ranks in all, the head {}: set the same world size everywhere",
            hello.world_size, assignment.world_size
        ));
    }
    if hello.last_epoch > unix_micros {
        return Err(format!(
            "the node says that its last epoch was {}, and no group can have reached more than {unix_micros} by now: start \
             the node again, and check the clock of the head's machine",
            hello.last_epoch
        ));
    }
    if hello.ring_addresses.len() != hello.local_world_size as usize {
        return Err(format!("{} ring addresses for {} ranks", hello.ring_addresses.len(), hello.local_world_size));
    }
    if config.backend != "solo" && !hello.backends.iter().any(|backend| backend == config.backend) {
        return Err(format!(
            "the group runs on `{}`, which this node's program cannot do (it can: {})",
            config.backend,
            hello.backends.join(", ")
        ));
    }
    match &slot.member {
        Some(member) if member.hello.incarnation > hello.incarnation => Err(format!(
            "a newer process (pid {} on {}) has the place of node {}",
            member.hello.pid, member.hello.host, hello.node
        )),
        // The node has given this dial up. Its Hello was on its way for long, or the head was stopped.
        Some(member) if member.hello.incarnation == hello.incarnation && member.hello.dial > hello.dial => {
            Err(format!("the process has dialed again since ({} after {})", member.hello.dial, hello.dial))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::testing::{config, hello, member};

    /// Microseconds since 1970.
    const NOW: u64 = 1_000_000;

    #[test]
    fn a_refusal_names_its_reason() {
        let check = |change: &dyn Fn(&mut Hello), expected: &str| {
            let mut hello = hello(1);
            change(&mut hello);
            let mut slot = NodeSlot::new(1);
            slot.occupy(member(1, 5));
            let slot = (hello.node < 3).then_some(&slot);
            match check_hello(&hello, &config(3), slot, NOW) {
                Ok(()) => assert_eq!(expected, ""),
                Err(reason) => assert!(!expected.is_empty() && reason.contains(expected), "{reason}"),
            }
        };
        check(&|_| (), "");
        check(&|hello| hello.wire_version = 99, "control protocol 99");
        check(&|hello| hello.cluster_id = "other".into(), "belongs to cluster `other`");
        check(&|hello| hello.node = 3, "there is no node 3: the head expects 2 workers");
        check(&|hello| hello.local_world_size = 2, "the node has 2 ranks, the head expects 1");
        check(&|hello| hello.world_size = 4, "expects 4 ranks in all, the head 3");
        check(&|hello| hello.last_epoch = NOW, "");
        check(&|hello| hello.last_epoch = NOW + 1, "no group can have reached more than 1000000 by now");
        check(&|hello| hello.last_epoch = u64::MAX, "its last epoch was 18446744073709551615, and");
        check(&|hello| hello.ring_addresses.clear(), "0 ring addresses for 1 ranks");
        check(&|hello| hello.backends = vec!["nccl".into()], "runs on `ring`");
        check(&|hello| hello.incarnation = 1, "a newer process (pid 5 on host-1) has the place");
        check(&|hello| hello.dial = 2, "has dialed again since (3 after 2)");
        check(&|hello| (hello.dial, hello.incarnation) = (1, 8), "");
    }
}
