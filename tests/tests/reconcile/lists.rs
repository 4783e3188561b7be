//! An operator that starts and cannot list every kind of object yet.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::kubectl;
use serde_json::{Value, json};

use crate::world::{Operator, World};

/// Groups and resources that the operator may do everything with, beside the withheld right.
const RESOURCES: [(&str, &str); 13] = [
    ("lockstep.dev", "inferenceclusters"),
    ("lockstep.dev", "inferenceclusters/status"),
    ("lockstep.dev", "inferenceclusters/finalizers"),
    ("apps", "statefulsets"),
    ("", "pods"),
    ("", "services"),
    ("", "secrets"),
    ("", "persistentvolumeclaims"),
    ("", "events"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("events.k8s.io", "events"),
];

/// Time for which the operator is watched while it lacks a list. It reconciles within a second otherwise.
const WATCHED: Duration = Duration::from_secs(5);

/// A spec changes while no operator runs, and the partition keeps the group as it is. The next operator cannot list one
/// kind for a while. It must not take the group for one that does not exist: it would make it anew from the changed
/// spec. Nor may it report that the group does not serve.
pub fn nothing_is_decided_before_everything_is_listed() -> Result<()> {
    for (number, (group, resource)) in [("apps", "statefulsets"), ("", "pods"), ("", "secrets")].into_iter().enumerate()
    {
        let mut world = World::new("lists")?;
        world.apply("a", "workers: 1, updateStrategy: { drainTimeout: 1s, partition: 1 }")?;
        world.await_settled("a")?;
        let (pods, before) = (world.pods("a")?, decided(&world)?);
        world.operator.kill();
        world.change("a", r#"{"spec": {"env": [{"name": "A", "value": "1"}]}}"#)?;
        let kubeconfig = write_kubeconfig(&world, &format!("lister-{number}"))?;
        world.namespace.apply(&rights(&world, &format!("lister-{number}"), (group, resource)).to_string())?;
        world.operator = Operator::start_as(world.namespace.name(), &kubeconfig);
        world.eventually("all lists but one", || {
            let incomplete = world.operator.metric("lockstep_operator_incomplete_watches")?;
            ensure!((incomplete - 1.0).abs() < 0.5, "{incomplete} watches are incomplete");
            Ok(())
        })?;
        std::thread::sleep(WATCHED);
        let requests = world.operator.metric("lockstep_operator_api_requests_total")?;
        ensure!(requests < 0.5, "{requests} requests without a list of {resource}");
        ensure!(decided(&world)? == before, "without a list of {resource}:\n{}\nnot\n{before}", decided(&world)?);
        let verb = ["--verb=list".to_owned(), format!("--resource={resource}.{group}")];
        world.kubectl(&["create", "role", "list", &verb[0], verb[1].trim_end_matches('.')])?;
        world.kubectl(&["create", "rolebinding", "list", "--role=list", &format!("--user=lister-{number}")])?;
        world.await_settled("a").with_context(|| format!("with a list of {resource}"))?;
        ensure!(world.pods("a")? == pods, "pods were replaced: {pods:?} by {:?}", world.pods("a")?);
        let now = decided(&world)?;
        ensure!(now["sets"] == before["sets"], "the sets were changed: {now}");
    }
    Ok(())
}

/// Returns what the operator has decided: the StatefulSets' pod templates, and the conditions of the cluster.
fn decided(world: &World) -> Result<Value> {
    let set = |name| Ok::<_, anyhow::Error>(world.get("statefulset", name)?["spec"]["template"].clone());
    let status = world.get("icl", "a")?["status"]["conditions"].clone();
    Ok(json!({ "sets": [set("a-0-head")?, set("a-0-worker")?], "conditions": status }))
}

/// Writes a kubeconfig with which the admin acts as `user`.
fn write_kubeconfig(world: &World, user: &str) -> Result<PathBuf> {
    let view = kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"])?;
    let mut config: Value = serde_json::from_str(&view)?;
    config["users"][0]["user"]["as"] = json!(user);
    let path = std::env::temp_dir().join(format!("{}.kubeconfig", world.namespace.name()));
    std::fs::write(&path, config.to_string()).context("write a kubeconfig")?;
    Ok(path)
}

/// Returns a role that may do all that the operator does, except list `withheld`, bound to `user`.
fn rights(world: &World, user: &str, withheld: (&str, &str)) -> Value {
    let rule = |(group, resource): (&str, &str)| {
        let list = if (group, resource) == withheld { None } else { Some("list") };
        let verbs: Vec<_> = ["get", "watch", "create", "patch", "update", "delete"].into_iter().chain(list).collect();
        json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs })
    };
    let api = "rbac.authorization.k8s.io";
    let metadata = json!({ "name": "operator", "namespace": world.namespace.name() });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": metadata,
          "rules": RESOURCES.map(rule) },
        { "apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": metadata,
          "roleRef": { "apiGroup": api, "kind": "Role", "name": "operator" },
          "subjects": [{ "kind": "User", "name": user, "apiGroup": api }] },
    ] })
}
