//! The charts and `deploy/`: the manifests that they make, the values that they refuse, and that generated files follow
//! their source.
//!
//! Other tests send the manifests to a real API server.

use std::collections::BTreeSet;
use std::time::Duration;

use lockstep_api::{Metrics, Outcome};
use lockstep_operator::metrics::GroupSample;
use lockstep_operator::objects::kinds::owned_kinds;
use lockstep_operator::resource::{self, InferenceClusterStatus};
use lockstep_proto::v1::{ClusterStatus, RankStatus};
use lockstep_tests::manifests::{self, CHARTS, OVERLAYS, helm, kustomize, path, program, template, value_sets};
use serde_yaml::Value;

/// Returns true if the program `name` exists. In CI and for generating files it must exist. One line reports a skipped
/// test.
fn has_program(name: &str) -> bool {
    match program(name) {
        Ok(_) => true,
        Err(why) => {
            assert!(["CI", "LOCKSTEP_REGENERATE"].iter().all(|needs| std::env::var_os(needs).is_none()), "{why}");
            eprintln!("skipped: {why}");
            false
        }
    }
}

fn documents(yaml: &str) -> Vec<Value> {
    let read = |text: &str| serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let documents = yaml.split("\n---\n").map(|text| read(text.trim_start_matches("---\n")));
    documents.filter(|document: &Value| !document.is_null()).collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// Returns the kinds of a manifest, sorted, each as often as it occurs.
fn kinds(documents: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn helm_lints_every_value_set() {
    if !has_program("helm") {
        return;
    }
    for chart in CHARTS {
        for (set, values) in value_sets(chart) {
            let folder = path("charts").join(chart);
            let linted = helm(&["lint", "--strict", &folder.to_string_lossy(), "--values", &values.to_string_lossy()]);
            linted.unwrap_or_else(|message| panic!("{chart} with {set}: {message}"));
        }
    }
}

#[test]
fn values_reach_the_manifests() {
    if !has_program("helm") {
        return;
    }
    let make = |chart: &str, set: &str| {
        let values = path(&format!("charts/{chart}/ci/{set}-values.yaml"));
        documents(&template(chart, &["--no-hooks", "--values", &values.to_string_lossy()]).unwrap())
    };
    let default = make("lockstep", "default");
    let cluster_wide = [
        "ClusterRole",
        "ClusterRole",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds(&default), cluster_wide);
    assert_eq!(
        of_kind(&default, "CustomResourceDefinition")[0]["metadata"]["annotations"]["helm.sh/resource-policy"],
        "keep"
    );

    let replicated = make("lockstep", "replicated");
    assert_eq!(of_kind(&replicated, "PodDisruptionBudget").len(), 1);
    let container = &of_kind(&replicated, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let image = format!("registry.example:5000/lockstep/operator@sha256:{}", "0".repeat(64));
    assert_eq!(container["image"], image.as_str());

    let namespaced = make("lockstep", "namespaced");
    let namespaced_kinds = [
        "Deployment",
        "Role",
        "Role",
        "Role",
        "RoleBinding",
        "RoleBinding",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds(&namespaced), namespaced_kinds);
    assert_eq!(kinds(&make("lockstep", "monitored")), ["CustomResourceDefinition", "Deployment", "PodMonitor"]);
}

/// The other chart makes an InferenceCluster that meets the CRD's own rules.
#[test]
fn the_charts_clusters_are_valid() {
    if !has_program("helm") {
        return;
    }
    for (set, values) in value_sets("inference-cluster") {
        let yaml = template("inference-cluster", &["--no-hooks", "--values", &values.to_string_lossy()]).unwrap();
        let cluster = resource::parse(&yaml, &set).unwrap_or_else(|error| panic!("{error}"));
        if set.starts_with("whole") {
            assert_eq!((cluster.spec.workers, cluster.spec.replicas, cluster.spec.restart_budget), (3, 2, 5));
        }
    }
}

/// A field that a new version of the CRD has, and the whole value set lacks, would never reach an API server in a test.
#[test]
fn the_whole_value_set_has_every_field_of_a_spec() {
    let read = |file: &str| -> Value {
        let text = std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    let crd = read("deploy/crd/inferenceclusters.lockstep.dev.yaml");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let values = read("charts/inference-cluster/ci/whole-values.yaml");
    assert!(schema["properties"].is_mapping(), "the CRD has no schema of a spec");
    assert_eq!(missing_fields(schema, &[&values["spec"]], "spec"), Vec::<String>::new());
}

/// Returns the fields of a schema that none of the samples has.
fn missing_fields(schema: &Value, samples: &[&Value], field: &str) -> Vec<String> {
    if samples.is_empty() {
        return vec![field.to_owned()];
    }
    let properties = schema["properties"].as_mapping().into_iter().flatten();
    let mut missing: Vec<String> = properties
        .flat_map(|(name, below)| {
            let values: Vec<_> = samples.iter().filter_map(|sample| sample.get(name)).collect();
            missing_fields(below, &values, &format!("{field}.{}", name.as_str().unwrap_or_default()))
        })
        .collect();
    if let Some(items) = schema.get("items") {
        let entries: Vec<_> = samples.iter().flat_map(|sample| sample.as_sequence().into_iter().flatten()).collect();
        missing.extend(missing_fields(items, &entries, &format!("{field}[]")));
    }
    missing
}

#[test]
fn wrong_values_are_refused_by_name() {
    if !has_program("helm") {
        return;
    }
    let cases = [
        ("lockstep", "replicas=two", "/replicas"),
        ("lockstep", "replica=2", "'replica' not allowed"),
        ("lockstep", "image.tag=a/b", "/image/tag"),
        ("lockstep", "agentImage.repository=", "/agentImage/repository"),
        ("lockstep", "watchNamespaces={Team}", "/watchNamespaces/0"),
        ("lockstep", "logFormat=xml", "/logFormat"),
        ("lockstep", "metrics.podMonitor.interval=soon", "/metrics/podMonitor/interval"),
        ("inference-cluster", "spec.worker=3", "/spec/worker"),
        ("inference-cluster", "spec.wokers=3", "'wokers' not allowed"),
        ("inference-cluster", "spec.workers=-1", "/spec/workers"),
        ("inference-cluster", "spec.model.source=null", "'source'"),
        ("inference-cluster", "spec.backend=MPI", "/spec/backend"),
        ("inference-cluster", "spec.serving.maxNumSeqs=0", "/spec/serving/maxNumSeqs"),
        ("inference-cluster", "name=Llama", "/name"),
        ("inference-cluster", "name=a-name-with-more-than-the-forty-characters", "/name"),
        ("inference-cluster", "test.timeoutSeconds=1", "/test/timeoutSeconds"),
    ];
    for (chart, values, named) in cases {
        let message = template(chart, &["--set", values]).map(drop);
        let message = message.expect_err(&format!("{chart} took {values}"));
        assert!(message.contains(named), "{chart} with {values}: {message}");
    }
    let nameless = path("charts/inference-cluster");
    let message = helm(&["template", "0llama", &nameless.to_string_lossy()]).unwrap_err();
    assert!(message.contains("--set name=NAME"), "{message}");
}

/// The operator has the least privilege: it may make and delete the kinds that clusters own, and no others.
#[test]
fn the_operator_may_make_only_the_kinds_that_clusters_own() {
    if !has_program("helm") {
        return;
    }
    let made = documents(&template("lockstep", &["--show-only=templates/rbac.yaml"]).unwrap());
    let role = of_kind(&made, "ClusterRole").into_iter().find(|role| role["metadata"]["name"] == "lockstep-operator");
    let texts = |list: &Value| -> Vec<String> { serde_yaml::from_value(list.clone()).unwrap() };
    let mut allowed = BTreeSet::new();
    for rule in role.unwrap()["rules"].as_sequence().unwrap() {
        let verbs = texts(&rule["verbs"]);
        assert!(!verbs.iter().any(|verb| verb == "*"), "{rule:?}");
        if verbs.iter().any(|verb| verb == "create") && verbs.iter().any(|verb| verb == "delete") {
            for verb in ["get", "list", "watch", "patch"] {
                assert!(verbs.iter().any(|known| known == verb), "{rule:?} lacks {verb}");
            }
            allowed.insert((texts(&rule["apiGroups"])[0].clone(), texts(&rule["resources"])[0].clone()));
        }
    }
    let owned = owned_kinds(true).into_iter().map(|kind| (kind.group, kind.plural));
    let owned: BTreeSet<_> = owned.chain([("apps".into(), "statefulsets".into())]).collect();
    assert_eq!(allowed, owned);
}

/// Parts of the operator's chart that make one file of `deploy/`.
struct Copied {
    file: &'static str,
    templates: &'static [&'static str],
    values: &'static [&'static str],
}

/// Files of `deploy/` that are made from the chart, so that every role and the Deployment have one source.
const COPIED: [Copied; 3] = [
    Copied {
        file: "deploy/base/operator.yaml",
        templates: &["serviceaccount", "leases", "metrics", "deployment"],
        values: &[],
    },
    Copied { file: "deploy/overlays/cluster-wide/rbac.yaml", templates: &["rbac"], values: &[] },
    Copied {
        file: "deploy/overlays/namespaced/rbac.yaml",
        templates: &["rbac"],
        values: &["--set", "watchNamespaces={lockstep-system}"],
    },
];

/// Returns a manifest of the chart without the lines that Helm adds.
fn without_helm(yaml: &str) -> String {
    let ours = |line: &&str| {
        let line = line.trim_start();
        !["# Source:", "helm.sh/chart:", "app.kubernetes.io/managed-by:"].iter().any(|start| line.starts_with(start))
    };
    let lines: Vec<_> = yaml.lines().filter(|line| !line.trim().is_empty()).filter(ours).collect();
    lines.join("\n") + "\n"
}

/// The test compares by meaning, because versions of Helm may write differently. `LOCKSTEP_REGENERATE=1` writes the
/// files.
#[test]
fn deploy_follows_the_chart() {
    if !has_program("helm") {
        return;
    }
    for Copied { file, templates, values } in COPIED {
        let shown: Vec<_> = templates.iter().map(|name| format!("--show-only=templates/{name}.yaml")).collect();
        let arguments: Vec<_> = shown.iter().map(String::as_str).chain(values.iter().copied()).collect();
        let made = without_helm(&template("lockstep", &arguments).unwrap());
        if std::env::var_os("LOCKSTEP_REGENERATE").is_some() {
            let head = "# Made from charts/lockstep by `make generate`. Do not edit: a test compares.";
            std::fs::write(path(file), format!("{head}\n{made}")).unwrap();
        }
        let kept = documents(&std::fs::read_to_string(path(file)).unwrap());
        assert!(kept == documents(&made), "{file} is not what charts/lockstep makes: run `make generate`");
    }
}

#[test]
fn overlays_give_the_rights_that_they_name() {
    if !has_program("kubectl") {
        return;
    }
    let all: Vec<_> = OVERLAYS.iter().map(|overlay| documents(&kustomize(overlay).unwrap())).collect();
    for made in &all {
        assert_eq!(of_kind(made, "CustomResourceDefinition").len(), 1);
        let variables = &of_kind(made, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["env"];
        let names: BTreeSet<_> =
            variables.as_sequence().unwrap().iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        let namespaced = of_kind(made, "ClusterRole").is_empty();
        assert_eq!(names.contains("LOCKSTEP_WATCH_NAMESPACES"), namespaced, "{names:?}");
    }
    assert!(!of_kind(&all[0], "ClusterRole").is_empty());
    // Only the CRD belongs to the whole cluster.
    let outside = all[1].iter().filter(|object| object["metadata"]["namespace"] != "lockstep-system");
    assert_eq!(
        outside.map(|object| object["kind"].as_str().unwrap()).collect::<Vec<_>>(),
        ["CustomResourceDefinition"]
    );
}

#[test]
fn everything_for_an_api_server_is_listed() {
    if !has_program("helm") || !has_program("kubectl") {
        return;
    }
    let all = manifests::all().unwrap();
    for part in [
        "chart lockstep, replicated-values",
        "chart inference-cluster, whole-values",
        "overlay namespaced",
        "sample spot",
    ] {
        assert!(all.iter().any(|rendered| rendered.name == part), "{part} is missing");
    }
    for rendered in &all {
        assert!(!documents(&rendered.yaml).is_empty(), "{} is empty", rendered.name);
        assert!(!rendered.yaml.contains("kind: PodMonitor"), "{}", rendered.name);
    }
}

/// Returns the series that the head exports.
fn series_of_heads() -> BTreeSet<String> {
    let metrics = Metrics::new();
    metrics.observe_step(0, Duration::ZERO);
    metrics.count_outcome(Outcome::Stop);
    let status = ClusterStatus { ranks: vec![RankStatus::default()], ..ClusterStatus::default() };
    series(&metrics.render(&status).unwrap())
}

/// Returns the series that the operator exports.
fn series_of_operators() -> BTreeSet<String> {
    let metrics = lockstep_operator::metrics::Metrics::default();
    metrics.record_end(Duration::ZERO, None);
    let ready = serde_json::json!({
        "type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status: InferenceClusterStatus = serde_json::from_value(serde_json::json!({ "conditions": [ready] })).unwrap();
    metrics.record_status("ml", "llama", &status);
    let sample = GroupSample { group: 0, epoch: 1, recoveries: 0, serves: true, head_answers: true };
    metrics.record_groups("ml", "llama", &[sample]);
    series(&metrics.to_text().unwrap())
}

/// Returns the series of a page of metrics, from its `# TYPE` lines.
fn series(page: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let endings: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        all.extend(endings.iter().map(|ending| format!("{name}{ending}")));
    }
    all
}

/// Label that begins like our series: the PodMonitors add it for the cluster.
const CLUSTER_LABEL: &str = "lockstep_dev_cluster";

/// Returns the series that an expression of PromQL names.
fn series_of_expression(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("lockstep_") && *word != CLUSTER_LABEL).map(str::to_owned).collect()
}

/// Returns the expressions of the alerts, each with the alert's name.
fn alerts() -> Vec<(String, String)> {
    let rules = &documents(&std::fs::read_to_string(path("deploy/alerts/lockstep.yaml")).unwrap())[0];
    let groups = rules["spec"]["groups"].as_sequence().unwrap();
    let alerts = groups.iter().flat_map(|group| group["rules"].as_sequence().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    alerts
        .map(|alert| {
            for name in ["summary", "description", "runbook"] {
                assert!(alert["annotations"][name].is_string(), "{alert:?} has no {name}");
            }
            assert!(["page", "ticket"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{alert:?}");
            (text(&alert["alert"]), text(&alert["expr"]))
        })
        .collect()
}

/// Returns the expressions of the dashboard's panels, each with the panel's title.
fn panels() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path("deploy/dashboards/lockstep.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push((panel["title"].as_str().unwrap().to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    all
}

/// Each alert and each panel names at least one series, and all of them are exported.
#[test]
fn alerts_and_dashboards_use_exported_series() {
    let known: BTreeSet<_> = series_of_heads().union(&series_of_operators()).cloned().collect();
    let (alerts, panels) = (alerts(), panels());
    assert!(!alerts.is_empty() && !panels.is_empty());
    for (name, expression) in alerts.iter().chain(&panels) {
        let asked = series_of_expression(expression);
        assert!(!asked.is_empty(), "{name}: {expression}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{name} asks for {unknown:?}, which nothing exports");
    }
}
