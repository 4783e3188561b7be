//! Texts that users write: command lines, variables, `RING_CONFIG`, an InferenceCluster, a conversation.

use lockstep_agent::config::{Build, Environment, parse, resolve};
use lockstep_operator::plan::{self, Addresses};
use lockstep_operator::reconcile::build::{cluster_objects, group_objects};
use lockstep_operator::reconcile::validate::{Defaults, validate};
use lockstep_operator::resource::InferenceCluster;
use lockstep_proto::chat::{self, Input};
use lockstep_proto::choices::Quantization;

const ON_CPU: Build = Build { nccl: false, visible_devices: 0 };

/// Parses words of a command line. Words such as `NAME=value` before the first other word are variables.
pub fn arguments(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.split(|c: char| c.is_whitespace()).filter(|word| !word.is_empty()).peekable();
    let mut variables = Vec::new();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        variables.push((name.to_owned(), value.to_owned()));
        words.next();
    }
    if let Ok(cli) = parse(std::iter::once("lockstep-agent").chain(words)) {
        // Another target tests the file that the words may name.
        let variables: Environment = variables.into_iter().filter(|(name, _)| name != "RING_CONFIG").collect();
        if let Err(error) = resolve(&cli, &variables, &ON_CPU) {
            assert!(error.to_string().len() < 4096, "an error of {} bytes", error.to_string().len());
        }
    }
}

/// Parses the value of `--isq`: one of its few formats in any spelling, or an error that repeats the value.
pub fn quantization(bytes: &[u8]) {
    let Ok(word) = std::str::from_utf8(bytes) else { return };
    match word.parse::<Quantization>() {
        Ok(format) => assert_eq!(word.to_uppercase().parse::<Quantization>().ok(), Some(format)),
        Err(error) => assert!(error.to_string().contains(word)),
    }
}

/// Reads the file of `RING_CONFIG`.
pub fn ring_config(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), bytes).expect("write");
    let variables = [("RING_CONFIG", file.path().to_str().expect("UTF-8"))].into_iter().collect();
    let cli = parse(["lockstep-agent", "plain", "-m", "builtin://tiny"]).expect("a command line");
    resolve(&cli, &variables, &ON_CPU).ok();
}

/// Reads an InferenceCluster in YAML, and builds the objects of it.
pub fn cluster(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(mut cluster) = lockstep_operator::resource::parse(text, "fuzz") else { return };
    // The API server sets the uid.
    cluster.metadata.uid = Some("6d1e".into());
    build_objects(&cluster);
    cluster.spec.replicas = cluster.spec.replicas.min(1);
    cluster.spec.workers = cluster.spec.workers.min(2);
    let plan = plan::plan(&cluster, &Addresses::Kubernetes);
    assert!(!plan::format_plan(&plan).is_empty());
}

/// Builds the objects of a cluster that the API server has stored.
pub fn build_objects(cluster: &InferenceCluster) {
    let defaults = Defaults { agent_image: "agent:1".into(), operator_pods: None };
    if let Ok(valid) = validate(cluster, &defaults) {
        let objects = [cluster_objects(&valid, true).objects(), group_objects(&valid, 0).objects()].concat();
        assert!(objects.iter().all(|made| made.object.metadata.name.is_some()));
    }
}

/// Parses the input of a conversation.
pub fn typed(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    chat::is_complete(&text);
    if let Input::Say(message) = Input::parse(&text) {
        assert!(!message.trim().is_empty() && message.len() <= text.len());
    }
}
