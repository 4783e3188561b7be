//! Pipeline stages over real processes, in each way that nodes and stages can overlap: the answers equal those of one
//! process. The head reports where the layers went, if the program chose their places.

use lockstep_proto::v1::grammar::Kind;
use lockstep_proto::v1::{GenerateRequest, Grammar, Limits, Sampling};
use lockstep_tests::client::{Answer, greedy, sampled};
use lockstep_tests::group::{Group, Spec, Way, agent, fixture};
use lockstep_tests::process::Process;

/// Model of four layers.
const MODEL: &str = "builtin://tiny";
const TOKENS: u32 = 40;
/// Schema of a list that is longer than the answers, however text is cut into tokens.
const LIST: &str = r#"{"type": "array", "items": {"enum": [true, false]}, "minItems": 100}"#;

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|at| 300 + (at * 13 + length * 29) % 900).collect()
}

/// Returns requests of every kind: those that run ahead of their tokens, those that count tokens, and one that waits
/// for each token.
fn requests() -> Vec<GenerateRequest> {
    let penalized = sampled(&prompt(30), TOKENS, 4);
    let sampling = Sampling {
        repetition_penalty: Some(1.3),
        frequency_penalty: Some(0.5),
        logit_bias: [(400, 3.0)].into(),
        ..penalized.sampling.clone().unwrap_or_default()
    };
    let formed = GenerateRequest {
        limits: Some(Limits { max_tokens: Some(TOKENS), ..Default::default() }),
        grammar: Some(Grammar { kind: Some(Kind::JsonSchema(LIST.into())) }),
        ..sampled(&prompt(7), TOKENS, 5)
    };
    vec![
        greedy(&prompt(3), TOKENS),
        greedy(&prompt(90), TOKENS),
        sampled(&prompt(1), TOKENS, 2),
        sampled(&prompt(55), TOKENS, 3),
        GenerateRequest { sampling: Some(sampling), ..penalized },
        formed,
    ]
}

/// Returns the answers of a group of `nodes` nodes, with `local` ranks on each, to all requests at once.
async fn answers(nodes: usize, local: usize, stages: usize) -> Vec<Answer> {
    let world_size = nodes * local;
    let mut spec = Spec::new(Way::MultiNode, nodes, MODEL).with("LOCKSTEP_DTYPE", "f32");
    spec = spec.with("MISTRALRS_MN_LOCAL_WORLD_SIZE", local).with("MISTRALRS_PIPELINE_PARALLEL", stages);
    let mut group = Group::start(spec.with("MISTRALRS_MN_GLOBAL_WORLD_SIZE", world_size));
    let status = group.ready().await;
    let sizes = [status.world_size, status.pipeline_parallel_size, status.tensor_parallel_size];
    assert_eq!(sizes.map(|size| size as usize), [world_size, stages, world_size / stages]);
    let client = group.client().await;
    let all = requests().into_iter().map(|request| {
        let mut client = client.clone();
        async move { client.generate(request).await.expect("an answer") }
    });
    futures::future::join_all(all).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_and_nodes_overlap_in_any_way() {
    let expected = answers(1, 1, 1).await;
    assert!(expected.iter().all(|answer| answer.tokens.len() == TOKENS as usize), "{expected:?}");
    for (nodes, local, stages, what) in
        [(2, 2, 2, "each node is a stage"), (2, 2, 4, "each rank is a stage"), (1, 4, 2, "two stages on one node")]
    {
        assert_eq!(answers(nodes, local, stages).await, expected, "{what}");
    }
}

/// Returns the answers of a conversation on one node, and all of the node's output.
fn conversation(model: &str, variables: &[(&str, &str)], lines: &[&str]) -> (String, String) {
    let mut command = agent();
    command.args(["-i", "plain", "-m", model]).env("HOME", "/nowhere").envs(variables.iter().copied());
    let mut head = Process::start("head", command);
    lines.iter().for_each(|line| head.write_line(line));
    head.hang_up();
    assert!(head.wait().success(), "{}", head.all_output());
    assert!(!head.stdout().is_empty(), "{}", head.all_output());
    (head.stdout(), head.all_output())
}

fn placement_output(variables: &[(&str, &str)]) -> String {
    conversation(&fixture("awkward-gqa"), variables, &["/max-tokens 2", "Hm?"]).1
}

#[test]
fn the_head_reports_the_placement() {
    let output = placement_output(&[("MISTRALRS_NO_NCCL", "1")]);
    let parts = ["MISTRALRS_NO_NCCL=1 changes nothing", "all layers on the CPU", "placed layers", "layers=0..3 of=3"];
    for part in parts.into_iter().chain(["device=\"cpu (", "free_bytes="]) {
        assert!(output.contains(part), "no `{part}` in {output}");
    }
    let two = [("MISTRALRS_PIPELINE_PARALLEL", "2"), ("MISTRALRS_MN_LOCAL_WORLD_SIZE", "2")];
    let output = placement_output(&[two[0], two[1], ("MISTRALRS_NO_NCCL", "1")]);
    for part in ["rank=0 stage=0 layers=0..2 of=3", "rank=1 stage=1 layers=2..3 of=3"] {
        assert!(output.contains(part), "no `{part}` in {output}");
    }
    assert!(!placement_output(&two).contains("placed layers"), "the placement is logged without a request");
}

/// The devices are other views of the CPU: one rank has its layers on two of them, or on one with the rest on the CPU.
#[test]
fn layers_over_several_devices_answer_as_one_process_does() {
    let lines = ["/temperature 0", "/max-tokens 24", "What happens when a worker dies?"];
    let common = [("LOCKSTEP_DTYPE", "f32"), ("LOCKSTEP_MAX_NUM_BATCHED_TOKENS", "128")];
    let (alone, _) = conversation(MODEL, &common, &lines);
    let places = [
        ("64Mi,64Mi", ["layers=0..2 of=4 device=\"cpu (plain)\"", "layers=2..4 of=4 device=\"cpu (plain)\""]),
        ("32Mi", ["layers=0..2 of=4 device=\"cpu (plain)\"", "layers=2..4 of=4 device=\"cpu (avx"]),
    ];
    for (devices, placed) in places {
        let variables = [common[0], common[1], ("MISTRALRS_NO_NCCL", "1"), ("LOCKSTEP_PLAIN_DEVICES", devices)];
        let (answer, output) = conversation(MODEL, &variables, &lines);
        assert_eq!(answer, alone, "{devices}: {output}");
        for run in placed {
            assert!(output.contains(run), "no `{run}` in {output}");
        }
    }
}

#[test]
fn devices_that_cannot_be_used_end_the_conversation() {
    for (devices, reason) in [("64Mi,64Mi", "feature `nccl`"), ("1Mi", "0 of 4 layers fit on this rank's devices")] {
        let mut command = agent();
        command.args(["-i", "plain", "-m", MODEL]).env("HOME", "/nowhere").env("LOCKSTEP_PLAIN_DEVICES", devices);
        let mut head = Process::start("head", command);
        assert!(!head.wait().success());
        let output = head.all_output();
        let last = output.lines().last().unwrap_or_default();
        assert!(last.contains(reason) && last.contains("MISTRALRS_NO_NCCL=1"), "{output}");
    }
}
