//! The command lines that mistral.rs's users type, each as written after the program's name. A group of processes talks
//! on the head's standard input and output, and answers like one process. `bench` starts in the same way.

use std::process::Command;
use std::sync::OnceLock;

use lockstep_tests::group::{agent, fixture};
use lockstep_tests::process::{Process, free_port};

/// Lines of a conversation, the same for every command line. Sampling is greedy, so that there is one right answer.
const TYPED: &[&str] = &[
    "/temperature 0",
    "/max-tokens 24",
    "What is a ring?",
    "Two \\",
    "lines.",
    "\"\"\"",
    "fn text() {",
    "}",
    "\"\"\"",
    "/nonsense",
    "/max-tokens 5",
    "And then?",
];

/// Number of questions in `TYPED`.
const ANSWERS: usize = 4;

/// Returns a model with eight query heads, in f32: its tokens are the same over any number of ranks.
fn model() -> String {
    fixture("llama3-sharded")
}

/// Makes the command of a line as a shell would read it: variables, the program's name, arguments.
fn parse_line(line: &str) -> Command {
    let (variables, arguments) = line.split_once("lockstep-agent").expect("the program's name");
    let mut command = agent();
    let pairs = variables.split_whitespace().map(|word| word.split_once('=').expect("NAME=value"));
    command.envs(pairs).args(arguments.split_whitespace().map(|word| word.replace("PATH", &model())));
    command.env("HOME", "/nowhere");
    command
}

/// Types all lines to a head and waits until it has ended by itself.
fn talk_to_head(mut head: Process) -> Process {
    TYPED.iter().for_each(|line| head.write_line(line));
    head.hang_up();
    assert!(head.wait().success(), "{}", head.all_output());
    head
}

/// Returns the answers of one process.
fn answers_of_one_process() -> &'static str {
    static ANSWERS_OF_ONE: OnceLock<String> = OnceLock::new();
    ANSWERS_OF_ONE
        .get_or_init(|| talk_to_head(Process::start("alone", parse_line("lockstep-agent -i plain -m PATH"))).stdout())
}

/// Starts every line. The head must answer like one process, and the other processes must end with it.
fn check(lines: &[String]) {
    let (head, others) = lines.split_first().expect("a head");
    let mut others: Vec<Process> = others.iter().map(|line| Process::start("worker", parse_line(line))).collect();
    // A worker does not read its standard input: neither text nor its end changes anything.
    for other in &mut others {
        other.write_line("/quit");
        other.hang_up();
    }
    let process = talk_to_head(Process::start("head", parse_line(head)));
    assert!(answers_of_one_process().len() > ANSWERS, "{}", answers_of_one_process());
    assert_eq!(process.stdout(), answers_of_one_process(), "of {head}");
    let counted = if head.contains("--throughput") { ANSWERS } else { 0 };
    assert_eq!(process.all_output().matches("tokens/s after the first").count(), counted, "{}", process.all_output());
    assert!(process.all_output().contains("there is no command /nonsense"), "{}", process.all_output());
    for other in &mut others {
        assert!(other.wait().success(), "{}", other.all_output());
        assert_eq!(other.stdout(), "");
    }
}

fn ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| free_port())
}

fn ring<const N: usize>() {
    let port: [u16; N] = ports();
    let line = |rank: usize| {
        let (own, right) = (port[rank], port[(rank + 1) % N]);
        format!(
            "RING_PORT={own} RING_RIGHT={right} RING_RANK={rank} RING_WORLD_SIZE={N} lockstep-agent -i --throughput plain \
             -m PATH"
        )
    };
    check(&(0..N).map(line).collect::<Vec<_>>());
}

fn ring_of_files<const N: usize>() {
    let port: [u16; N] = ports();
    let (folder, master) = (tempfile::tempdir().expect("a folder"), free_port());
    let line = |rank: usize| {
        let path = folder.path().join(format!("ring-{rank}.json"));
        let config = serde_json::json!({
            "master_ip": "127.0.0.1", "master_port": master, "port": port[rank], "right_port": port[(rank + 1) % N],
            "rank": rank, "world_size": N,
        });
        std::fs::write(&path, config.to_string()).expect("write RING_CONFIG");
        format!("RING_CONFIG={} lockstep-agent -i --throughput plain -m PATH", path.display())
    };
    check(&(0..N).map(line).collect::<Vec<_>>());
}

#[test]
fn rings_start_from_variables() {
    ring::<2>();
    ring::<3>();
    ring::<4>();
}

#[test]
fn rings_start_from_files() {
    ring_of_files::<2>();
    ring_of_files::<3>();
    ring_of_files::<4>();
}

/// Both processes run on one machine: the first one takes the default ring port, and the second one takes a free port.
#[test]
fn a_head_and_a_worker_talk() {
    for address in ["MISTRALRS_MN_WORKER_SERVER_ADDR", "MISTRALRS_WORKER_SERVER_ADDR"] {
        let [port] = ports();
        check(&[
            format!(
                "MISTRALRS_MN_GLOBAL_WORLD_SIZE=2 MISTRALRS_MN_HEAD_NUM_WORKERS=1 MISTRALRS_MN_HEAD_PORT={port} \
                 lockstep-agent -i plain -m PATH"
            ),
            format!(
                "MISTRALRS_MN_GLOBAL_WORLD_SIZE=2 MISTRALRS_MN_WORKER_ID=0 {address}=127.0.0.1:{port} lockstep-agent -i \
                 plain -m PATH"
            ),
        ]);
    }
}

/// The line is the example that names one worker of three.
#[test]
fn thirty_two_ranks_add_up() {
    let line = "MISTRALRS_MN_GLOBAL_WORLD_SIZE=32 MISTRALRS_MN_LOCAL_WORLD_SIZE=8 MISTRALRS_MN_HEAD_NUM_WORKERS=1 \
                MISTRALRS_MN_HEAD_PORT=1235 lockstep-agent -i plain -m PATH";
    let mut head = Process::start("head", parse_line(line));
    assert!(!head.wait().success());
    let output = head.all_output();
    assert!(output.contains("(1 + 1 workers) × 8 = 16") && output.contains("32 / 8 - 1 = 3 workers"), "{output}");
}

#[test]
fn a_conversation_remembers_until_it_is_cleared() {
    let mut head = Process::start("head", parse_line("lockstep-agent -i --throughput plain -m builtin://tiny"));
    let typed = ["/max-tokens 8", "Who are you?", "Who are you?", "/clear", "Who are you?", "/system be brief", "Who?"];
    typed.iter().for_each(|line| head.write_line(line));
    head.write_line("/quit");
    assert!(head.wait().success(), "{}", head.all_output());
    let output = head.all_output();
    let prompts = output.split("prompt of ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok());
    let [first, second, third, _] = prompts.collect::<Vec<u32>>()[..] else { panic!("{output}") };
    assert_eq!(first, third, "{output}");
    assert!(second > first, "{output}");
}

/// Every process is started with the same line. The head prints its measurements.
#[test]
fn bench_measures_a_ring() {
    let port: [u16; 2] = ports();
    let start = |rank: usize| {
        let (own, right) = (port[rank], port[1 - rank]);
        let line = format!(
            "RING_PORT={own} RING_RIGHT={right} RING_RANK={rank} RING_WORLD_SIZE=2 lockstep-agent bench -m PATH \
             --batch-sizes 1,3 --prompt-tokens 40 --answer-tokens 200 --rounds 2 --json"
        );
        Process::start(format!("rank-{rank}"), parse_line(&line))
    };
    let (mut worker, mut head) = (start(1), start(0));
    assert!(head.wait().success() && worker.wait().success(), "{}\n{}", head.all_output(), worker.all_output());
    let report: serde_json::Value = serde_json::from_str(&head.stdout()).expect("JSON alone on standard output");
    assert_eq!(
        (&report["world_size"], &report["backend"], &report["format"]),
        (&2.into(), &"ring".into(), &"f32".into())
    );
    assert!(report["devices"][1].as_str().is_some_and(|device| device.starts_with("cpu (")), "{report}");
    for (index, batch) in [1, 3].into_iter().enumerate() {
        let row = &report["results"][index];
        assert_eq!(row["batch"], batch);
        for what in ["prefill", "decode"] {
            assert!(row[what]["least"].as_f64().is_some_and(|rate| rate > 0.0), "{what} of {batch}: {report}");
            assert_eq!(row[what]["rounds"].as_array().map(Vec::len), Some(2));
        }
    }
}

#[test]
fn a_port_serves_beside_the_conversation() {
    let [port] = ports();
    let line = format!("lockstep-agent -i --port {port} --host 127.0.0.1 --max-seqs 2 plain -m PATH");
    let mut head = Process::start("head", parse_line(&line));
    head.write_line("/help");
    head.await_output("/system TEXT");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    head.hang_up();
    assert!(head.wait().success(), "{}", head.all_output());
}
