//! Snapshots of built objects, and properties of every cluster's objects.

mod kept;
mod properties;
mod restricted;
mod revisions;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::NodeSelectorRequirement;

use super::{ClusterObjects, GroupObjects, Object, cluster_objects, group_objects};
use crate::objects::annotation;
use crate::reconcile::validate::{Defaults, Invalid, OperatorPods, Validated, resolve};
use crate::resource::testing;

/// Returns the validated cluster with `spec`.
fn cluster(spec: &str) -> Validated {
    validated(spec, "registry.example/agent:1").unwrap()
}

fn validated(spec: &str, agent_image: &str) -> Result<Validated, Invalid> {
    let mut cluster = testing::cluster(spec);
    cluster.metadata.labels = Some(
        [("kueue.x-k8s.io/queue-name", "gpus"), ("team", "a")].map(|(key, value)| (key.into(), value.into())).into(),
    );
    let operator_pods = OperatorPods {
        namespace: "lockstep-system".into(),
        labels: [("app.kubernetes.io/name".to_owned(), "lockstep-operator".to_owned())].into(),
    };
    resolve(&cluster, &Defaults { agent_image: agent_image.into(), operator_pods: Some(operator_pods) })
}

fn all_objects(cluster: &Validated) -> Vec<Object> {
    let shared: ClusterObjects = cluster_objects(cluster, true);
    let groups = (0..cluster.spec.replicas).map(|index| group_objects(cluster, index));
    let groups: Vec<_> = groups.flat_map(|group: GroupObjects| group.objects()).collect();
    shared.objects().into_iter().chain([shared.pod_monitor_object()]).chain(groups).collect()
}

/// Formats objects as YAML documents. Leaves out the template in a StatefulSet's annotation, after a check that it
/// equals the template of the spec.
fn render(objects: &[Object]) -> String {
    let one = |object: &Object| {
        let mut object = object.object.clone();
        if let Some(written) = object.metadata.annotations.as_mut().and_then(|all| all.remove(annotation::TEMPLATE)) {
            let template: serde_json::Value = serde_json::from_str(&written).unwrap();
            assert_eq!(template, object.data["spec"]["template"]);
        }
        serde_yaml::to_string(&object).unwrap()
    };
    objects.iter().map(one).collect::<Vec<_>>().join("---\n")
}

fn pods_only(objects: Vec<Object>) -> Vec<Object> {
    objects.into_iter().filter(|object| object.resource.kind == "StatefulSet").collect()
}

#[test]
fn a_quickstart_on_cpus() {
    let spec =
        "{ model: { source: 'builtin://tiny' }, workers: 2, serving: { maxNumSeqs: 16, maxNumBatchedTokens: 512 } }";
    insta::assert_snapshot!(render(&all_objects(&cluster(spec))));
}

#[test]
fn two_nodes_of_eight_gpus() {
    let spec = "{ model: { source: 'oci://registry.example/models/llama-70b:1' }, backend: Nccl, workers: 1, \
                devicesPerNode: 8, modelCache: { size: 200Gi, storageClassName: fast }, \
                placement: { policy: Pack, topologyKey: topology.kubernetes.io/zone }, \
                resources: { limits: { memory: 900Gi } }, autoscaling: { maxReplicas: 4 }, \
                clients: { from: Namespace }, service: { type: LoadBalancer, annotations: { a: b } } }";
    insta::assert_snapshot!(render(&all_objects(&cluster(spec))));
}

#[test]
fn a_model_of_the_hub_in_a_cache() {
    let spec = "{ model: { source: 'hf://org/name', revision: v1, tokenSecretRef: { name: hf, key: token } }, workers: 1, \
                modelCache: { size: 40Gi, storageClassName: nfs } }";
    insta::assert_snapshot!(render(&pods_only(all_objects(&cluster(spec)))));
}

#[test]
fn secrets_for_clients_reach_only_the_head() {
    let spec = "{ model: { source: 'builtin://tiny' }, workers: 1, serving: { allowedOrigins: [https://a.example], \
                apiKeysSecretRef: { name: keys, key: team }, tlsSecretRef: { name: endpoint } } }";
    let objects = all_objects(&cluster(spec));
    let mut containers = Vec::new();
    for set in pods_only(objects.clone()) {
        let pod = &set.object.data["spec"]["template"]["spec"];
        let secrets: Vec<_> = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|volume| volume["secret"]["secretName"].as_str())
            .collect();
        let is_head = pod["containers"].as_array().unwrap().len() == 2;
        assert_eq!(secrets.contains(&"keys") && secrets.contains(&"endpoint"), is_head, "{secrets:?}");
        containers.extend(pod["containers"].as_array().unwrap().clone());
    }
    for container in containers {
        let text = container.to_string();
        let is_head = container["name"] == "head";
        for part in
            ["LOCKSTEP_API_KEY_FILE", "/etc/lockstep/api-keys/team", "LOCKSTEP_SSL_KEYFILE", "https://a.example"]
        {
            assert_eq!(text.contains(part), is_head, "{part}: {text}");
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let scheme = container[probe]["httpGet"]["scheme"].as_str();
            assert_eq!(scheme, is_head.then_some("HTTPS"), "{probe}: {text}");
        }
    }
    let text = render(&objects);
    assert!(text.contains("scheme: https") && text.contains("appProtocol: https"), "{text}");
}

#[test]
fn overlays() {
    let spec = "
  model: { source: 'pvc://models/llama-8b' }
  workers: 1
  devicesPerNode: 2
  placement: { policy: SpreadStrictly }
  image: registry.example/own:2
  imagePullPolicy: Always
  imagePullSecrets: [{ name: registry }]
  env:
    - { name: HOME, value: /elsewhere }
    - { name: LOCKSTEP_DRAIN_TIMEOUT, value: 10m }
    - { name: FROM_SECRET, valueFrom: { secretKeyRef: { name: s, key: k } } }
  template:
    metadata: { labels: { team: b, lockstep.dev/role: none }, annotations: { note: all } }
    spec:
      priorityClassName: high
      nodeSelector: { pool: ml }
      tolerations:
        - { key: spot, operator: Exists }
        - { key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 60 }
      volumes:
        - { name: rank-tmp, persistentVolumeClaim: { claimName: scratch } }
      containers:
        - { name: head, env: [{ name: ONLY_HEADS, value: '1' }] }
        - { name: rank, env: [{ name: TMPDIR, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }] }
        - { name: sidecar, image: proxy }
  head:
    metadata: { annotations: { note: heads } }
    spec:
      tolerations: [{ key: heads, operator: Exists }]
      containers: [{ name: head, resources: { limits: { memory: 128Mi } } }]
  worker:
    spec:
      runtimeClassName: kata
";
    insta::assert_snapshot!(render(&pods_only(all_objects(&cluster(spec)))));
}

#[test]
fn invalid_overlays_get_a_message() {
    let message_for = |field: &str, overlay: &str| {
        let spec = format!("{{ model: {{ source: 'builtin://tiny' }}, {field}: {overlay} }}");
        match validated(&spec, "a") {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let cases = [
        ("template", "{ spec: { containers: [{ image: a }] } }"),
        ("template", "{ spec: { initContainers: [{ name: '' }] } }"),
        ("template", "{ spec: { tolerationz: [] } }"),
        ("template", "{ spec: { containers: [{ name: rank }, { name: rank, imagePullPolice: Always }] } }"),
        ("template", "{ tolerations: [] }"),
        ("template", "{ spec: { nodeSelector: gpu } }"),
        ("template", "{ spec: { nodeSelector: null, volumes: [{ name: a, emptyDir: {} }] } }"),
        ("worker", "{ spec: { containers: [{ name: head }] } }"),
        ("head", "{ spec: { containers: [{ name: head, resources: { limits: { cpu: 2 } } }] } }"),
        ("resources", "{ limit: { cpu: 1 } }"),
    ];
    let all: Vec<_> =
        cases.iter().map(|(field, overlay)| format!("{field}: {overlay}\n  {}", message_for(field, overlay))).collect();
    insta::assert_snapshot!(all.join("\n"));
}

/// Checks the resources of a worker's `rank` container.
#[test]
fn pods_with_nccl_ask_for_gpus() {
    let resources_with = |more: &str| {
        let cluster =
            cluster(&format!("{{ model: {{ source: 'builtin://tiny' }}, workers: 1, devicesPerNode: 4, {more} }}"));
        let workers = group_objects(&cluster, 0).workers.unwrap();
        let resources =
            workers.spec.unwrap().template.spec.unwrap().containers[0].resources.clone().unwrap_or_default();
        (cluster.collectives.as_str(), serde_json::to_string(&resources).unwrap())
    };
    let four = r#"{"limits":{"nvidia.com/gpu":"4"}}"#;
    let cases = [
        ("backend: Auto", "Ring", "{}"),
        ("backend: Nccl", "Nccl", four),
        ("resources: { limits: { nvidia.com/gpu: 4 } }", "Nccl", four),
        (
            "resources: { requests: { nvidia.com/gpu: 2 } }",
            "Nccl",
            r#"{"limits":{"nvidia.com/gpu":"2"},"requests":{"nvidia.com/gpu":"2"}}"#,
        ),
        (
            "worker: { spec: { containers: [{ name: rank, resources: { limits: { nvidia.com/gpu: 1 } } }] } }",
            "Nccl",
            r#"{"limits":{"nvidia.com/gpu":"1"}}"#,
        ),
        ("backend: Ring, resources: { limits: { cpu: 1 } }", "Ring", r#"{"limits":{"cpu":"1"}}"#),
    ];
    for (more, collectives, resources) in cases {
        assert_eq!(resources_with(more), (collectives, resources.to_owned()), "{more}");
    }
}

/// If the operator runs outside Kubernetes, only mutual TLS protects the control port.
#[test]
fn an_operator_outside_kubernetes_may_connect() {
    let mut cluster = cluster("{ model: { source: 'builtin://tiny' } }");
    cluster.operator_pods = None;
    let rules = group_objects(&cluster, 0).network_policy.spec.unwrap().ingress.unwrap();
    let control = serde_json::to_value(&rules[1]).unwrap();
    let expected = serde_json::json!({
        "from": [{ "namespaceSelector": {} }],
        "ports": [{ "port": 1235, "protocol": "TCP" }],
    });
    assert_eq!(control, expected);
}

/// The preferences of the operator stand beside the user's affinity. The user's list of the same kind replaces them.
#[test]
fn the_affinity_of_the_user_stays_in_force() {
    let affinity = |own: &str| {
        let spec =
            format!("{{ model: {{ source: 'builtin://tiny' }}, template: {{ spec: {{ affinity: {{ {own} }} }} }} }}");
        group_objects(&cluster(&spec), 1).head.spec.unwrap().template.spec.unwrap().affinity.unwrap()
    };
    let ours = affinity("").pod_anti_affinity.unwrap();
    let node = "nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: \
                [{ matchExpressions: [{ key: pool, operator: In, values: [a] }] }] } }";
    let beside = affinity(node);
    assert!(beside.node_affinity.is_some() && beside.pod_anti_affinity.as_ref() == Some(&ours));
    let required = "{ labelSelector: { matchLabels: { a: b } }, topologyKey: zone }";
    let beside =
        affinity(&format!("podAntiAffinity: {{ requiredDuringSchedulingIgnoredDuringExecution: [{required}] }}"));
    let beside = beside.pod_anti_affinity.unwrap();
    assert_eq!(
        beside.preferred_during_scheduling_ignored_during_execution,
        ours.preferred_during_scheduling_ignored_during_execution
    );
    assert_eq!(beside.required_during_scheduling_ignored_during_execution.unwrap().len(), 1);
    let preferred = format!("{{ weight: 1, podAffinityTerm: {required} }}");
    let theirs =
        affinity(&format!("podAntiAffinity: {{ preferredDuringSchedulingIgnoredDuringExecution: [{preferred}] }}"));
    let theirs = theirs.pod_anti_affinity.unwrap().preferred_during_scheduling_ignored_during_execution.unwrap();
    assert_eq!(theirs.iter().map(|term| term.weight).collect::<Vec<_>>(), [1]);
}

/// A group whose machine died avoids it, beside the user's own wishes, and forgets about it afterwards.
#[test]
fn a_silent_kube_node_is_avoided_for_a_while() {
    let spec = "{ model: { source: 'builtin://tiny' }, workers: 1, worker: { spec: { affinity: { nodeAffinity: { \
                requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [ \
                { matchExpressions: [{ key: pool, operator: In, values: [a] }] }, \
                { matchExpressions: [{ key: pool, operator: In, values: [b] }] }] } } } } } }";
    let live = group_objects(&cluster(spec), 0);
    assert_eq!(live.clone().avoid_kube_nodes(&[].into()), live);
    let avoiding = live.clone().avoid_kube_nodes(&["node1".to_owned(), "node2".to_owned()].into());
    let terms = |set: &StatefulSet| {
        let pods = set.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        let nodes = pods.affinity.as_ref().unwrap().node_affinity.as_ref().unwrap();
        nodes.required_during_scheduling_ignored_during_execution.as_ref().unwrap().node_selector_terms.clone()
    };
    let (head, workers) = (terms(&avoiding.head), terms(avoiding.workers.as_ref().unwrap()));
    assert_eq!((head.len(), workers.len()), (1, 2));
    for term in head.iter().chain(&workers) {
        let fields: Vec<_> = term.match_fields.iter().flatten().collect();
        let named = |field: &NodeSelectorRequirement| (field.key.clone(), field.operator.clone(), field.values.clone());
        let avoid = |name: &str| ("metadata.name".to_owned(), "NotIn".to_owned(), Some(vec![name.to_owned()]));
        assert_eq!(fields.into_iter().map(named).collect::<Vec<_>>(), [avoid("node1"), avoid("node2")]);
    }
    let annotations = avoiding.head.spec.as_ref().unwrap().template.metadata.as_ref().unwrap().annotations.as_ref();
    assert_eq!(annotations.unwrap()[annotation::AVOIDS], "node1,node2");
    assert!(workers.iter().all(|term| term.match_expressions.as_ref().is_some_and(|own| own.len() == 1)));
    // The annotation holds the template as it was built.
    assert_eq!(live.clone().keep_pods(Some(&avoiding.head), avoiding.workers.as_ref()), live);
}
