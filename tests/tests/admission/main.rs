//! The CRD on a real API server. The server accepts the CRD, and the CRD's rules and bounds refuse bad objects with
//! their own messages. The program's own judge reaches the same verdicts, and the server accepts all that the charts
//! and `deploy/` hold.

mod bounds;
mod cases;
mod judges;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use lockstep_tests::cluster::{Namespace, Needs, apply, async_trial, eventually, kubectl, main as run_inside, trial};
use lockstep_tests::manifests;
use serde_json::Value;

use bounds::{list_bounds, list_incomplete_fields, replace_field};
use cases::{CASES, Case, base_manifest, whole_manifest};
use judges::{
    Messages, Server, Verdict, crd_schema, has_message, judge_locally, list_rules, merge_patch, parse_yaml,
    require_agreement, strip_indexes,
};

/// Size of the largest object that `kubectl apply` accepts: it keeps the whole object in an annotation.
const MAX_APPLIED_BYTES: usize = 262_144;

/// Longest time until the API server serves a new kind.
const SERVED_TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let trials = vec![
        trial("kubectl_apply_accepts_the_crd", kubectl_apply_accepts_the_crd),
        async_trial("every_rule_accepts_the_good_and_refuses_the_bad", every_rule_accepts_the_good_and_refuses_the_bad),
        async_trial("every_bound_is_kept", every_bound_is_kept),
        trial("every_field_is_described_and_bounded", every_field_is_described_and_bounded),
        trial("an_unknown_field_is_refused", an_unknown_field_is_refused),
        trial("tables_show_why_a_cluster_does_not_serve", tables_show_why_a_cluster_does_not_serve),
        trial("kubectl_scale_and_explain_know_the_kind", kubectl_scale_and_explain_know_the_kind),
        trial("kubectl_apply_accepts_the_samples", kubectl_apply_accepts_the_samples),
        trial("charts_and_overlays_are_accepted", charts_and_overlays_are_accepted),
    ];
    run_inside(Needs::nodes(1), trials)
}

/// Applies `deploy/crd` as users do, and waits until the kind is served.
fn install() -> Result<()> {
    kubectl(&["apply", "-k", &manifests::path("deploy/crd").to_string_lossy()])?;
    kubectl(&["wait", "--for=condition=Established", "crd/inferenceclusters.lockstep.dev", "--timeout=30s"])?;
    eventually("the kind to be served", SERVED_TIMEOUT, || kubectl(&["get", "icl", "--all-namespaces"]).map(drop))
}

fn kubectl_apply_accepts_the_crd() -> Result<()> {
    install()?;
    let kept = kubectl(&[
        "get",
        "crd",
        "inferenceclusters.lockstep.dev",
        "-o",
        r"jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}",
    ])?;
    ensure!(kept.contains("openAPIV3Schema"), "kubectl kept no copy: {kept}");
    ensure!(kept.len() < MAX_APPLIED_BYTES / 2, "the CRD has {} bytes: half of what fits is used", kept.len());
    let output = kubectl(&[
        "get",
        "crd",
        "inferenceclusters.lockstep.dev",
        "-o",
        r#"jsonpath={.status.conditions[?(@.type=="NonStructuralSchema")].message}"#,
    ])?;
    ensure!(output.is_empty(), "the schema is not structural: {output}");
    Ok(())
}

/// Returns the verdict of both judges on the object that `change` makes.
async fn judge_with_both(server: &Server, case: &Case, change: &str) -> Result<Verdict> {
    let (base, schema) = (parse_yaml(&base_manifest())?, crd_schema()?);
    let object = merge_patch(&base, &parse_yaml(change)?);
    let Some(old) = case.old else {
        return require_agreement(
            case.name,
            server.judge(&object, false).await?,
            judge_locally(&schema, &object, None),
        );
    };
    let old = merge_patch(&base, &parse_yaml(old)?);
    let with_defaults =
        judge_locally(&schema, &old, None).map_err(|messages| anyhow!("the old object is refused: {messages:?}"))?;
    server.store(&old).await?;
    let theirs = server.judge(&object, true).await?;
    server.remove(&old).await?;
    require_agreement(case.name, theirs, judge_locally(&schema, &object, Some(&with_defaults)))
}

async fn every_rule_accepts_the_good_and_refuses_the_bad() -> Result<()> {
    install()?;
    let namespace = Namespace::new("rules")?;
    let server = Server::new(namespace.name()).await?;
    let mut seen = Messages::new();
    for case in CASES {
        let good = judge_with_both(&server, case, case.good).await?;
        ensure!(good.is_ok(), "{}: the good object is refused: {good:?}", case.name);
        let bad = judge_with_both(&server, case, case.bad).await?;
        let Err(messages) = bad else { anyhow::bail!("{}: the bad object is accepted", case.name) };
        ensure!(
            has_message(&messages, case.field, case.message),
            "{}: {:?} is not named in: {messages:?}",
            case.name,
            case.field
        );
        seen.extend(messages.into_iter().map(|(field, message)| (strip_indexes(&field), message)));
    }
    let all = list_rules(&crd_schema()?, "");
    ensure!(all.len() > 20, "only {} rules were found in the CRD", all.len());
    let untried: Vec<_> = all.difference(&seen).collect();
    ensure!(untried.is_empty(), "no case in cases.rs breaks these rules: {untried:#?}");
    Ok(())
}

async fn every_bound_is_kept() -> Result<()> {
    install()?;
    let namespace = Namespace::new("bounds")?;
    let server = Server::new(namespace.name()).await?;
    let (schema, whole) = (crd_schema()?, parse_yaml(&whole_manifest())?);
    let all = list_bounds(&schema["properties"]["spec"], "spec", &whole["spec"]);
    ensure!(all.len() > 60, "only {} bounds were found in the CRD", all.len());
    for bound in all {
        let on = replace_field(&whole, &bound.field, &bound.on);
        let what = format!("{} on its bound, {}", bound.field, shorten(&bound.on));
        require_agreement(&what, server.judge(&on, false).await?, judge_locally(&schema, &on, None)).map(drop)?;
        let beyond = replace_field(&whole, &bound.field, &bound.beyond);
        let what = format!("{} beyond its bound, {}", bound.field, shorten(&bound.beyond));
        for (judge, verdict) in [
            ("the server", server.judge(&beyond, false).await?),
            ("the program", judge_locally(&schema, &beyond, None)),
        ] {
            let Err(messages) = verdict else { anyhow::bail!("{judge} accepts {what}") };
            ensure!(
                messages.iter().any(|(field, _)| field.starts_with(&bound.field)),
                "{judge} tells of {what}: {messages:?}"
            );
        }
    }
    Ok(())
}

fn shorten(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

fn every_field_is_described_and_bounded() -> Result<()> {
    let schema = crd_schema()?;
    let mut all = list_incomplete_fields(&schema["properties"]["spec"], "spec", true);
    all.extend(list_incomplete_fields(&schema["properties"]["status"], "status", false));
    // The status needs no bounds: it holds types of Kubernetes, and Kubernetes does not bound their texts.
    ensure!(all.is_empty(), "{all:#?}");
    Ok(())
}

fn an_unknown_field_is_refused() -> Result<()> {
    install()?;
    let namespace = Namespace::new("unknown")?;
    let output =
        namespace.apply(&base_manifest().replace("spec: {", "spec: { wokers: 3,")).err().context("it was accepted")?;
    ensure!(output.to_string().contains("unknown field \"spec.wokers\""), "{output}");
    Ok(())
}

/// Status that an operator could write for a cluster that does not serve.
const STATUS: &str = r#"{"status": {
    "replicas": 2, "readyReplicas": 1, "selector": "lockstep.dev/role=head", "backend": "Ring",
    "endpoint": "tiny.default.svc:50051",
    "summary": {"groups": "1/2", "ranks": "3/4", "message": "group 1 waits for 1 of 2 ranks"},
    "conditions": [{"type": "Ready", "status": "False", "reason": "Loading", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;

fn tables_show_why_a_cluster_does_not_serve() -> Result<()> {
    install()?;
    let namespace = Namespace::new("tables")?;
    namespace.apply(&base_manifest())?;
    namespace.kubectl(&["patch", "icl", "tiny", "--subresource=status", "--type=merge", "-p", STATUS])?;
    let table = namespace.kubectl(&["get", "icl"])?;
    let words: Vec<&str> = table.lines().flat_map(str::split_whitespace).collect();
    let columns = ["NAME", "READY", "GROUPS", "RANKS", "REASON", "MESSAGE", "AGE", "tiny", "False", "1/2", "3/4"];
    ensure!(words.starts_with(&columns), "{table}");
    ensure!(table.contains("Loading") && table.contains("group 1 waits for 1 of 2 ranks"), "{table}");
    let wide = namespace.kubectl(&["get", "icl", "-o", "wide"])?;
    for word in ["MODEL", "ENDPOINT", "BACKEND", "builtin://tiny", "tiny.default.svc:50051", "Ring"] {
        ensure!(wide.contains(word), "{word} is not in\n{wide}");
    }
    for category in ["all", "lockstep"] {
        let listed = namespace.kubectl(&["get", category, "-o", "name"])?;
        ensure!(listed.contains("inferencecluster.lockstep.dev/tiny"), "`kubectl get {category}`: {listed}");
    }
    Ok(())
}

fn kubectl_scale_and_explain_know_the_kind() -> Result<()> {
    install()?;
    let namespace = Namespace::new("scale")?;
    namespace.apply(&base_manifest())?;
    namespace.kubectl(&["patch", "icl", "tiny", "--subresource=status", "--type=merge", "-p", STATUS])?;
    namespace.kubectl(&["scale", "icl", "tiny", "--replicas=3", "--current-replicas=1"])?;
    let url = format!("/apis/lockstep.dev/v1alpha1/namespaces/{}/inferenceclusters/tiny/scale", namespace.name());
    let scale: Value = serde_json::from_str(&kubectl(&["get", "--raw", &url])?)?;
    ensure!(scale["spec"]["replicas"] == 3, "{scale}");
    ensure!(scale["status"]["replicas"] == 2 && scale["status"]["selector"] == "lockstep.dev/role=head", "{scale}");
    let output =
        namespace.kubectl(&["scale", "icl", "tiny", "--replicas=257"]).err().context("257 groups were taken")?;
    ensure!(output.to_string().contains("spec.replicas"), "{output}");
    for (field, word) in [("spec.serving", "recoveryTimeout"), ("spec.model.source", "builtin://tiny")] {
        let explained = eventually("kubectl to learn the schema", SERVED_TIMEOUT, || {
            let explained = kubectl(&["explain", &format!("icl.{field}")])?;
            ensure!(explained.contains("DESCRIPTION"), "{explained}");
            Ok(explained)
        })?;
        ensure!(explained.contains(word), "{explained}");
    }
    Ok(())
}

fn kubectl_apply_accepts_the_samples() -> Result<()> {
    install()?;
    let namespace = Namespace::new("samples")?;
    let folder = manifests::path("deploy/samples");
    namespace.kubectl(&["apply", "-f", &folder.to_string_lossy()])?;
    let listed = namespace.kubectl(&["get", "icl", "-o", "name"])?;
    let files = std::fs::read_dir(&folder)?.count();
    ensure!(files > 0 && listed.lines().count() == files, "{files} files made\n{listed}");
    // The second `apply` changes nothing, and keeps all objects.
    let again = namespace.kubectl(&["apply", "-f", &folder.to_string_lossy()])?;
    ensure!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
    Ok(())
}

fn charts_and_overlays_are_accepted() -> Result<()> {
    install()?;
    for namespace in manifests::WATCHED.into_iter().chain([manifests::NAMESPACE]) {
        apply("default", &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {namespace} }}"))?;
    }
    let all = manifests::all().map_err(|error| anyhow!(error))?;
    let mut refused = BTreeSet::new();
    for rendered in &all {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), &rendered.yaml)?;
        let file = file.path().to_string_lossy();
        let arguments =
            ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", &*file];
        if let Err(error) = kubectl(&arguments) {
            refused.insert(format!("{}: {error:#}", rendered.name));
        }
    }
    ensure!(refused.is_empty(), "{refused:#?}");
    ensure!(all.iter().any(|rendered| rendered.yaml.contains("kind: CustomResourceDefinition")), "no CRD is rendered");
    Ok(())
}
