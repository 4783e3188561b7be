//! The contract between operator and agent: every process of a plan, as a pod and on one machine, is configured without
//! an error or a warning, and as the plan means it. The process reads every variable that the plan sets.

use lockstep_agent::config::{Build, Config, ConfigError, ControlAddress, Environment, Role, parse, resolve};
use lockstep_operator::plan::{self, Addresses, ContainerPlan, GroupPlan, LocalPorts};
use lockstep_operator::reconcile::validate::{Defaults, validate};
use lockstep_operator::resource;
use lockstep_tests::manifests;

const ON_CPU: Build = Build { nccl: false, visible_devices: 0 };

/// Returns the variables of a container by name.
fn variables(container: &ContainerPlan) -> Vec<(&'static str, String)> {
    // The pod's address is the one value that is unknown before the pod exists.
    let value = |variable: &plan::EnvVar| match variable.field {
        Some("status.podIP") => "10.0.0.7".into(),
        _ => variable.value.clone(),
    };
    container.env.iter().map(|variable| (variable.name, value(variable))).collect()
}

fn configure_with(container: &ContainerPlan, variables: &[(&'static str, String)]) -> Result<Config, ConfigError> {
    let variables: Environment = variables.iter().cloned().collect();
    parse(&container.command).and_then(|cli| resolve(&cli, &variables, &ON_CPU))
}

/// Configures an agent from a container's command and environment.
fn configure(container: &ContainerPlan) -> Config {
    let command = &container.command;
    let config =
        configure_with(container, &variables(container)).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(config.warnings.is_empty(), "{command:?}: {:?}", config.warnings);
    config
}

/// Checks that an agent reads every variable of a container. An agent refuses an empty variable, but only if it reads it.
fn check_every_variable_is_read(container: &ContainerPlan) {
    let variables = variables(container);
    for index in 0..variables.len() {
        let mut changed = variables.clone();
        let (name, value) = &mut changed[index];
        value.clear();
        let name = *name;
        match configure_with(container, &changed) {
            Ok(_) => panic!("{:?} does not read {name}, which the operator sets", container.command),
            Err(error) => assert!(error.to_string().starts_with(&format!("{name}=:")), "{name}: {error}"),
        }
    }
}

fn check_group(group: &GroupPlan) {
    let Role::Head(head) = configure(&group.head.containers[0]).role else { panic!("{} is no head", group.head.name) };
    assert_eq!(head.topology.world_size, group.world_size);
    assert_eq!(head.topology.pipeline, group.pipeline_parallel_size);
    assert_eq!(head.topology.num_workers as usize, group.workers.len());
    assert_eq!(head.topology.local_world_size as usize, group.head.ranks.len());
    // All workers have the same variables.
    let pods = [Some(&group.head), group.workers.first()];
    pods.into_iter().flatten().flat_map(|pod| &pod.containers).for_each(check_every_variable_is_read);
    for (index, worker) in group.workers.iter().enumerate() {
        let Role::Node(node) = configure(&worker.containers[0]).role else { panic!("{} is no worker", worker.name) };
        assert_eq!((node.ordinal as usize, node.local_world_size as usize), (index + 1, worker.ranks.len()));
        assert_eq!(node.ordinal * node.local_world_size, worker.ranks[0]);
        assert_eq!((node.world_size, &node.common.cluster_id), (Some(group.world_size), &head.common.cluster_id));
        let ControlAddress::Known(address) = node.control else { panic!("{} knows no head", worker.name) };
        assert_eq!(address.port, head.control.port());
    }
}

fn check(manifest: &str) {
    let cluster = resource::parse(manifest, "test").unwrap_or_else(|error| panic!("{manifest}: {error}"));
    let ports = LocalPorts { grpc: 50051, http: 1234, control: 40000 };
    let mut places = vec![Addresses::Kubernetes];
    // `lockstep up` refuses sources that are volumes in Kubernetes, because one machine has no volumes.
    if plan::model_volume(&cluster.spec.model.source).is_none() {
        places.push(Addresses::Local { host: "127.0.0.1".into(), ports, threads: 1 });
    }
    for addresses in places {
        plan::plan(&cluster, &addresses).groups.iter().for_each(check_group);
    }
}

#[test]
fn the_agent_understands_every_plan() {
    let specs = [
        "{ model: { source: 'builtin://tiny' } }",
        "{ model: { source: 'builtin://tiny' }, workers: 2 }",
        "{ model: { source: 'hf://org/name', revision: refs/pr/1, tokenSecretRef: { name: hf, key: token } }, workers: 1 }",
        "{ model: { source: 'hf://org/name:UD-Q4_K_XL', revision: v1 }, workers: 1 }",
        "{ model: { source: 'hf://org/name/q 8/m-00001-of-00002.gguf' } }",
        "{ model: { source: 'pvc://models/llama/m.gguf' }, workers: 1 }",
        "{ model: { source: 'builtin://tiny', name: 'me:you/1', dtype: f32, quantization: q8_0 }, workers: 3, devicesPerNode: 8 }",
        "{ model: { source: 'file:///models/llama 8b' }, workers: 1, replicas: 2, devicesPerNode: 2 }",
        "{ model: { source: 'builtin://tiny' }, workers: 1, serving: { maxNumSeqs: 1, maxNumBatchedTokens: 1, \
           contextLength: 8192, kvCacheMemory: 512Mi, recoveryTimeout: 2m } }",
        "{ model: { source: 'builtin://tiny' }, workers: 3, devicesPerNode: 2, parallelism: { pipeline: 8 } }",
        "{ model: { source: 'builtin://tiny' }, workers: 1023, serving: { kvCacheMemory: 100% } }",
    ];
    for spec in specs {
        check(&manifests::cluster("llama", spec));
    }
}

/// Returns the samples, as their files have them.
fn samples() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples");
    let samples = std::fs::read_dir(folder).unwrap();
    samples.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_agent_understands_the_samples() {
    assert!(samples().iter().inspect(|sample| check(sample)).count() > 0);
}

/// The operator checks more than the CRD's rules: overlays must be pod templates, and resources must be amounts.
#[test]
fn the_operator_accepts_the_samples() {
    let defaults = Defaults { agent_image: "agent:1".into(), operator_pods: None };
    for sample in samples() {
        let mut cluster = resource::parse(&sample, "sample").unwrap_or_else(|error| panic!("{error}"));
        // The API server would have stored these fields.
        cluster.metadata.namespace = Some("ml".into());
        cluster.metadata.uid = Some("6d1e".into());
        validate(&cluster, &defaults).unwrap_or_else(|error| panic!("{:?}: {error:?}", cluster.metadata.name));
    }
}
