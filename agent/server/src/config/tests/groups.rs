//! Roles and sizes, from the variables alone.

use super::*;

#[test]
fn one_node_is_the_whole_group() {
    check(&[
        ("", CPU, Ok("head of (1 + 0) × 1, control 127.0.0.1:0, ring 127.0.0.1:0")),
        ("", EIGHT_GPUS, Ok("head of (1 + 0) × 8, control 127.0.0.1:0, ring 127.0.0.1:0")),
        ("MISTRALRS_MN_LOCAL_WORLD_SIZE=3", CPU, Ok("head of (1 + 0) × 3, control 127.0.0.1:0, ring 127.0.0.1:0")),
        (
            "MISTRALRS_MN_LOCAL_WORLD_SIZE=1",
            EIGHT_GPUS_NO_NCCL,
            Ok("head of (1 + 0) × 1, control 127.0.0.1:0, ring 127.0.0.1:0"),
        ),
        ("MISTRALRS_MN_GLOBAL_WORLD_SIZE=1", CPU, Ok("head of (1 + 0) × 1, control 127.0.0.1:0, ring 127.0.0.1:0")),
        ("LOCKSTEP_CONTROL_PORT=7000", CPU, Ok("head of (1 + 0) × 1, control 127.0.0.1:7000, ring 127.0.0.1:0")),
        ("LOCKSTEP_GROUP_HOST=::1", CPU, Ok("head of (1 + 0) × 1, control [::1]:0, ring [::1]:0")),
        (
            "MISTRALRS_MN_GLOBAL_WORLD_SIZE=4",
            CPU,
            Err(&[
                "MISTRALRS_MN_GLOBAL_WORLD_SIZE=4",
                "no variable names another node",
                "MISTRALRS_MN_HEAD_NUM_WORKERS",
                "MISTRALRS_MN_WORKER_ID",
            ]),
        ),
        ("MISTRALRS_MN_LOCAL_WORLD_SIZE=9", EIGHT_GPUS, Err(&["MISTRALRS_MN_LOCAL_WORLD_SIZE=9", "8 are visible"])),
        ("", EIGHT_GPUS_NO_NCCL, Err(&["feature `nccl`", "8 CUDA devices", "--features nccl", "MISTRALRS_NO_NCCL=1"])),
    ]);
}

#[test]
fn a_head_waits_for_its_workers() {
    check(&[
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=2",
            CPU,
            Ok("head of (1 + 2) × 1, control 0.0.0.0:1235, ring 0.0.0.0:1236 or free"),
        ),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=0",
            CPU,
            Ok("head of (1 + 0) × 1, control 127.0.0.1:1235, ring 127.0.0.1:1236 or free"),
        ),
        (
            "MISTRALRS_MN_GLOBAL_WORLD_SIZE=32 MISTRALRS_MN_LOCAL_WORLD_SIZE=8 MISTRALRS_MN_HEAD_NUM_WORKERS=3 \
             MISTRALRS_MN_HEAD_PORT=7000 LOCKSTEP_RING_PORT=0",
            CPU,
            Ok("head of (1 + 3) × 8, control 0.0.0.0:7000, ring 0.0.0.0:0"),
        ),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1 LOCKSTEP_GROUP_HOST=127.0.0.1",
            CPU,
            Ok("head of (1 + 1) × 1, control 127.0.0.1:1235, ring 127.0.0.1:1236 or free"),
        ),
        (
            "MISTRALRS_MN_GLOBAL_WORLD_SIZE=32 MISTRALRS_MN_LOCAL_WORLD_SIZE=8 MISTRALRS_MN_HEAD_NUM_WORKERS=1",
            CPU,
            Err(&[
                "MISTRALRS_MN_GLOBAL_WORLD_SIZE=32",
                "(1 + 1 workers) × 8 = 16",
                "32 / 8 - 1 = 3 workers",
                "MISTRALRS_MN_LOCAL_WORLD_SIZE",
            ]),
        ),
        (
            "MISTRALRS_MN_GLOBAL_WORLD_SIZE=32 MISTRALRS_MN_HEAD_NUM_WORKERS=1 MISTRALRS_MN_HEAD_PORT=7000",
            CPU,
            Err(&["MISTRALRS_MN_GLOBAL_WORLD_SIZE=32", "(1 + 1 workers) × 1 = 2", "32 / 1 - 1 = 31 workers"]),
        ),
        (
            "MISTRALRS_MN_GLOBAL_WORLD_SIZE=30 MISTRALRS_MN_LOCAL_WORLD_SIZE=8 MISTRALRS_MN_HEAD_NUM_WORKERS=3",
            CPU,
            Err(&["MISTRALRS_MN_GLOBAL_WORLD_SIZE=30", "no multiple of 8"]),
        ),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1000 MISTRALRS_MN_LOCAL_WORLD_SIZE=8",
            CPU,
            Err(&["MISTRALRS_MN_HEAD_NUM_WORKERS=1000", "× 8 = 8008", "at most 1024"]),
        ),
        (
            "MISTRALRS_MN_HEAD_PORT=7000",
            CPU,
            Err(&["MISTRALRS_MN_HEAD_NUM_WORKERS is not set", "MISTRALRS_MN_HEAD_PORT"]),
        ),
        ("MISTRALRS_MN_HEAD_NUM_WORKERS=-1", CPU, Err(&["MISTRALRS_MN_HEAD_NUM_WORKERS=-1", "whole number from 0"])),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1 MISTRALRS_MN_HEAD_PORT=65536",
            CPU,
            Err(&["MISTRALRS_MN_HEAD_PORT=65536", "0 to 65535"]),
        ),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1 MISTRALRS_MN_HEAD_PORT=",
            CPU,
            Err(&["MISTRALRS_MN_HEAD_PORT=", "the value is empty"]),
        ),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1 MISTRALRS_MN_LOCAL_WORLD_SIZE=0",
            CPU,
            Err(&["MISTRALRS_MN_LOCAL_WORLD_SIZE=0", "from 1 to 64"]),
        ),
        ("MISTRALRS_MN_GLOBAL_WORLD_SIZE=0", CPU, Err(&["MISTRALRS_MN_GLOBAL_WORLD_SIZE=0", "from 1"])),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1",
            EIGHT_GPUS,
            Ok("head of (1 + 1) × 8, control 0.0.0.0:1235, ring 0.0.0.0:1236 or free"),
        ),
        ("MISTRALRS_MN_HEAD_NUM_WORKERS=1", EIGHT_GPUS_NO_NCCL, Err(&["feature `nccl`"])),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1 MISTRALRS_MN_LOCAL_WORLD_SIZE=4 LOCKSTEP_RING_PORT=65533",
            CPU,
            Err(&["LOCKSTEP_RING_PORT=65533", "4 ranks", "65536"]),
        ),
    ]);
}

#[test]
fn a_worker_finds_its_head() {
    check(&[
        (
            "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=llama-head:1235",
            CPU,
            Ok("node 1 with 1 of ?, control by llama-head:1235, ring 0.0.0.0:1236 or free"),
        ),
        (
            "MISTRALRS_MN_WORKER_ID=2 MISTRALRS_WORKER_SERVER_ADDR=[::1]:7000 MISTRALRS_MN_GLOBAL_WORLD_SIZE=32 \
             MISTRALRS_MN_LOCAL_WORLD_SIZE=8 LOCKSTEP_RING_PORT=9000",
            CPU,
            Ok("node 3 with 8 of 32, control by [::1]:7000, ring 0.0.0.0:9000"),
        ),
        (
            "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=a:1 MISTRALRS_WORKER_SERVER_ADDR=a:1",
            CPU,
            Ok("node 1 with 1 of ?, control by a:1, ring 0.0.0.0:1236 or free"),
        ),
        (
            "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=a:1 MISTRALRS_WORKER_SERVER_ADDR=b:1",
            CPU,
            Err(&["MISTRALRS_MN_WORKER_SERVER_ADDR=a:1", "MISTRALRS_WORKER_SERVER_ADDR=b:1", "unset one"]),
        ),
        ("MISTRALRS_MN_WORKER_ID=0", CPU, Err(&["MISTRALRS_MN_WORKER_SERVER_ADDR is not set", "host:port"])),
        ("MISTRALRS_MN_WORKER_SERVER_ADDR=a:1", CPU, Err(&["MISTRALRS_MN_WORKER_ID is not set"])),
        ("MISTRALRS_WORKER_SERVER_ADDR=a:1", CPU, Err(&["MISTRALRS_MN_WORKER_ID is not set"])),
        (
            "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=a",
            CPU,
            Err(&["MISTRALRS_MN_WORKER_SERVER_ADDR=a", "the port is missing"]),
        ),
        (
            "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=a:0",
            CPU,
            Err(&["SERVER_ADDR=a:0", "from 1 to 65535"]),
        ),
        ("MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=http://a:1", CPU, Err(&["the host is malformed"])),
        (
            "MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=::1:1",
            CPU,
            Err(&["the host is malformed", "brackets"]),
        ),
        (
            "MISTRALRS_MN_WORKER_ID=x MISTRALRS_MN_WORKER_SERVER_ADDR=a:1",
            CPU,
            Err(&["MISTRALRS_MN_WORKER_ID=x", "whole number"]),
        ),
        (
            "MISTRALRS_MN_WORKER_ID=3 MISTRALRS_MN_WORKER_SERVER_ADDR=a:1 MISTRALRS_MN_GLOBAL_WORLD_SIZE=32 \
             MISTRALRS_MN_LOCAL_WORLD_SIZE=8",
            CPU,
            Err(&["MISTRALRS_MN_WORKER_ID=3", "32 / 8 - 1 = 3 workers", "below 3"]),
        ),
    ]);
}

#[test]
fn ring_variables_describe_a_group() {
    check(&[
        (
            "RING_PORT=9000 RING_RIGHT=9001 RING_RANK=0 RING_WORLD_SIZE=3",
            CPU,
            Ok("head of (1 + 2) × 1, control 127.0.0.1:0, ring 127.0.0.1:9000 → 127.0.0.1:9001 as 0/3"),
        ),
        (
            "RING_PORT=9000 RING_RIGHT=b:9000 RING_RANK=0 RING_WORLD_SIZE=2 LOCKSTEP_CONTROL_PORT=7000",
            CPU,
            Ok("head of (1 + 1) × 1, control 0.0.0.0:7000, ring 0.0.0.0:9000 → b:9000 as 0/2"),
        ),
        (
            "RING_PORT=9001 RING_RIGHT=[::1]:9000 RING_RANK=1 RING_WORLD_SIZE=2",
            CPU,
            Ok("node 1 with 1 of 2, control by ring, ring [::1]:9001 → [::1]:9000 as 1/2"),
        ),
        (
            "RING_PORT=9000 RING_RIGHT=9001 RING_RANK=0 RING_WORLD_SIZE=2",
            EIGHT_GPUS_NO_NCCL,
            Ok("head of (1 + 1) × 1, control 127.0.0.1:0, ring 127.0.0.1:9000 → 127.0.0.1:9001 as 0/2"),
        ),
        ("RING_RIGHT=9001 RING_RANK=0 RING_WORLD_SIZE=2", CPU, Err(&["RING_PORT is not set", "every rank"])),
        ("RING_PORT=9000 RING_RANK=0 RING_WORLD_SIZE=2", CPU, Err(&["RING_RIGHT is not set"])),
        ("RING_PORT=9000 RING_RIGHT=9001 RING_WORLD_SIZE=2", CPU, Err(&["RING_RANK is not set"])),
        ("RING_PORT=9000 RING_RIGHT=9001 RING_RANK=0", CPU, Err(&["RING_WORLD_SIZE is not set"])),
        (
            "RING_PORT=9000 RING_RIGHT=9001 RING_RANK=2 RING_WORLD_SIZE=2",
            CPU,
            Err(&["RING_RANK=2", "RING_WORLD_SIZE=2", "0 to 1"]),
        ),
        ("RING_PORT=9000 RING_RIGHT=9001 RING_RANK=0 RING_WORLD_SIZE=1", CPU, Err(&["RING_WORLD_SIZE=1", "from 2"])),
        ("RING_PORT=0 RING_RIGHT=9001 RING_RANK=0 RING_WORLD_SIZE=2", CPU, Err(&["RING_PORT=0", "from 1"])),
        (
            "RING_PORT=9000 RING_RIGHT=9000 RING_RANK=0 RING_WORLD_SIZE=2",
            CPU,
            Err(&["RING_RIGHT=9000", "own RING_PORT"]),
        ),
        (
            "RING_PORT=9000 RING_RIGHT=b: RING_RANK=0 RING_WORLD_SIZE=2",
            CPU,
            Err(&["RING_RIGHT=b:", "`port` or `host:port`"]),
        ),
        (
            "RING_PORT=tcp://10.0.0.1:80 RING_RIGHT=1 RING_RANK=0 RING_WORLD_SIZE=2",
            CPU,
            Err(&["RING_PORT=tcp://", "enableServiceLinks"]),
        ),
        (
            "RING_PORT=9000 RING_RIGHT=9001 RING_RANK=0 RING_WORLD_SIZE=2 LOCKSTEP_RING_PORT=1",
            CPU,
            Err(&["LOCKSTEP_RING_PORT and RING_PORT"]),
        ),
        (
            "RING_PORT=9000 RING_RIGHT=9001 RING_RANK=0 RING_WORLD_SIZE=2 LOCKSTEP_CONTROL_PORT=9000",
            CPU,
            Err(&["ring port is 9000", "control port is 9000 too"]),
        ),
    ]);
}

#[test]
fn contradicting_variables_are_refused() {
    check(&[
        (
            "RING_RANK=0 MISTRALRS_MN_LOCAL_WORLD_SIZE=1",
            CPU,
            Err(&["RING_RANK and MISTRALRS_MN_LOCAL_WORLD_SIZE", "unset one"]),
        ),
        ("RING_CONFIG=/x MISTRALRS_MN_WORKER_ID=1", CPU, Err(&["RING_CONFIG and MISTRALRS_MN_WORKER_ID"])),
        ("RING_CONFIG=/x RING_PORT=1", CPU, Err(&["RING_CONFIG and RING_PORT", "unset one"])),
        (
            "MISTRALRS_MN_HEAD_NUM_WORKERS=1 MISTRALRS_MN_WORKER_ID=0",
            CPU,
            Err(&["MISTRALRS_MN_HEAD_NUM_WORKERS and MISTRALRS_MN_WORKER_ID"]),
        ),
        (
            "MISTRALRS_MN_HEAD_PORT=1 MISTRALRS_WORKER_SERVER_ADDR=a:1",
            CPU,
            Err(&["MISTRALRS_MN_HEAD_PORT and MISTRALRS_WORKER_SERVER_ADDR"]),
        ),
        ("MISTRALRS_NO_NCCL=yes", CPU, Err(&["MISTRALRS_NO_NCCL=yes", "1 or 0"])),
        ("MISTRALRS_NO_NCCL=1", EIGHT_GPUS_NO_NCCL, Ok("head of (1 + 0) × 1, control 127.0.0.1:0, ring 127.0.0.1:0")),
        ("MISTRALRS_NO_NCCL=0", EIGHT_GPUS, Ok("head of (1 + 0) × 8, control 127.0.0.1:0, ring 127.0.0.1:0")),
        (
            "MISTRALRS_NO_NCCL=1 MISTRALRS_MN_HEAD_NUM_WORKERS=1",
            EIGHT_GPUS,
            Err(&["MISTRALRS_NO_NCCL and MISTRALRS_MN_HEAD_NUM_WORKERS"]),
        ),
    ]);
}

#[test]
fn devices_can_be_declared() {
    let one = "head of (1 + 0) × 1, control 127.0.0.1:0, ring 127.0.0.1:0";
    let devices = |variables: &str, build| match configure("plain -m builtin://tiny", variables, build).unwrap().role {
        Role::Head(head) => head.common.devices,
        other => panic!("{other:?}"),
    };
    check(&[
        ("LOCKSTEP_PLAIN_DEVICES=1Gi,2Gi MISTRALRS_NO_NCCL=1", CPU, Ok(one)),
        ("LOCKSTEP_PLAIN_DEVICES=1Gi", EIGHT_GPUS, Ok(one)),
        ("LOCKSTEP_PLAIN_DEVICES=1Gi,2Gi", CPU, Err(&["feature `nccl`", "2 CUDA devices"])),
        ("LOCKSTEP_PLAIN_DEVICES=1Gi,50%", CPU, Err(&["LOCKSTEP_PLAIN_DEVICES=1Gi,50%", "such as 512Mi,1Gi"])),
        ("LOCKSTEP_PLAIN_DEVICES=1Gi,", CPU, Err(&["LOCKSTEP_PLAIN_DEVICES=1Gi,", "such as 512Mi,1Gi"])),
    ]);
    let declared = devices("LOCKSTEP_PLAIN_DEVICES=1Ki,2Ki MISTRALRS_NO_NCCL=1", &CPU);
    assert_eq!(declared, DevicesConfig { visible: 2, plain: Some(vec![1024, 2048]), one_rank: true });
    let found = devices("MISTRALRS_NO_NCCL=1", &EIGHT_GPUS);
    assert_eq!(found, DevicesConfig { visible: 8, plain: None, one_rank: true });
    assert_eq!(devices("MISTRALRS_NO_NCCL=1", &CPU), DevicesConfig::default());
}

#[test]
fn ranks_with_devices_need_nccl_or_a_ring() {
    let auto = RingSetup::Auto { listen: "127.0.0.1:0".parse().unwrap(), or_free: false };
    let right = HostPort { host: "a".into(), port: 1 };
    let ring = RingSetup::Ring { listen: "127.0.0.1:1".parse().unwrap(), right, rank: 0, world_size: 2 };
    let with = |visible| DevicesConfig { visible, ..Default::default() };
    for (devices, world_size, ring) in [(with(0), 2, &auto), (with(1), 1, &auto), (with(1), 2, &ring)] {
        devices.check_group(world_size, ring).unwrap();
    }
    let error = with(1).check_group(2, &auto).unwrap_err().to_string();
    for part in ["2 ranks have a device each", "NCCL", "MISTRALRS_NO_NCCL=1", "RING_RANK"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn stages_are_equal_and_do_not_split_nodes() {
    check(&[
        ("MISTRALRS_PIPELINE_PARALLEL=0", CPU, Err(&["MISTRALRS_PIPELINE_PARALLEL=0", "from 1"])),
        ("MISTRALRS_PIPELINE_PARALLEL=65", CPU, Err(&["MISTRALRS_PIPELINE_PARALLEL=65", "64"])),
        ("MISTRALRS_PIPELINE_PARALLEL=1", CPU, Ok("head of (1 + 0) × 1, control 127.0.0.1:0, ring 127.0.0.1:0")),
        (
            "MISTRALRS_PIPELINE_PARALLEL=2",
            CPU,
            Err(&["MISTRALRS_PIPELINE_PARALLEL=2", "1 ranks, and they do not make 2", "MISTRALRS_MN_LOCAL_WORLD_SIZE"]),
        ),
        (
            "MISTRALRS_PIPELINE_PARALLEL=2 MISTRALRS_MN_LOCAL_WORLD_SIZE=4",
            CPU,
            Ok("head of (1 + 0) × 4 in 2 stages, control 127.0.0.1:0, ring 127.0.0.1:0"),
        ),
        (
            "MISTRALRS_PIPELINE_PARALLEL=4",
            EIGHT_GPUS,
            Ok("head of (1 + 0) × 8 in 4 stages, control 127.0.0.1:0, ring 127.0.0.1:0"),
        ),
        (
            "MISTRALRS_PIPELINE_PARALLEL=2 RING_PORT=9000 RING_RIGHT=9001 RING_RANK=0 RING_WORLD_SIZE=4",
            CPU,
            Ok("head of (1 + 3) × 1 in 2 stages, control 127.0.0.1:0, ring 127.0.0.1:9000 → 127.0.0.1:9001 as 0/4"),
        ),
        (
            "MISTRALRS_PIPELINE_PARALLEL=2 RING_PORT=9000 RING_RIGHT=9001 RING_RANK=1 RING_WORLD_SIZE=3",
            CPU,
            Err(&["3 ranks, and they do not make 2 equal stages"]),
        ),
        (
            "MISTRALRS_PIPELINE_PARALLEL=2 MISTRALRS_MN_HEAD_NUM_WORKERS=3 MISTRALRS_MN_LOCAL_WORLD_SIZE=2",
            CPU,
            Ok("head of (1 + 3) × 2 in 2 stages, control 0.0.0.0:1235, ring 0.0.0.0:1236 or free"),
        ),
        (
            "MISTRALRS_PIPELINE_PARALLEL=2 MISTRALRS_MN_HEAD_NUM_WORKERS=2 MISTRALRS_MN_LOCAL_WORLD_SIZE=2",
            CPU,
            Err(&["6 ranks / 2 stages = 3", "nodes have 2 each"]),
        ),
        (
            "MISTRALRS_PIPELINE_PARALLEL=4 MISTRALRS_MN_WORKER_ID=0 MISTRALRS_MN_WORKER_SERVER_ADDR=a:1 \
             MISTRALRS_MN_GLOBAL_WORLD_SIZE=12 MISTRALRS_MN_LOCAL_WORLD_SIZE=4",
            CPU,
            Err(&["12 ranks / 4 stages = 3", "nodes have 4 each"]),
        ),
    ]);
}

#[test]
fn a_setting_without_effect_gives_a_warning() {
    let rows = [
        ("MISTRALRS_NO_NCCL=1", "MISTRALRS_NO_NCCL=1 changes nothing"),
        ("LOCKSTEP_HTPP_PORT=1", "LOCKSTEP_HTPP_PORT has no effect: the agent knows no variable"),
        ("MISTRALRS_NO_MMAP=1", "MISTRALRS_NO_MMAP has no effect"),
        ("LOCKSTEP_CONTROL_PORT=1 MISTRALRS_MN_HEAD_NUM_WORKERS=1", "MISTRALRS_MN_HEAD_PORT sets the head's port"),
        ("LOCKSTEP_CONTROL_PORT=1 RING_PORT=1 RING_RIGHT=2 RING_RANK=1 RING_WORLD_SIZE=2", "only rank 0 reads it"),
    ];
    for (variables, warning) in rows {
        let config = configure("plain -m builtin://tiny", variables, &CPU).unwrap();
        assert_eq!(config.warnings.len(), 1, "of `{variables}`: {:?}", config.warnings);
        assert!(config.warnings[0].contains(warning), "of `{variables}`: {:?}", config.warnings);
    }
    for silent in ["", "LOCKSTEP_SERVICE_HOST=10.0.0.1 LOCKSTEP_PORT_80_TCP=tcp://10.0.0.1:80", "LOCKSTEP_LOG=debug"] {
        assert!(configure("plain -m builtin://tiny", silent, &CPU).unwrap().warnings.is_empty(), "of `{silent}`");
    }
}
