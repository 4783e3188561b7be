//! Keys and certificates for clients come from Secrets.

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::certificates::Authority;
use lockstep_tests::cluster::{Namespace, eventually, helm};
use lockstep_tests::manifests::path;

use super::steps::{LONGEST_WAIT, lockstep};

/// The cluster's name.
const NAME: &str = "secured";

/// Returns a Secret.
fn secret(name: &str, entries: &[(&str, &str)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(key, text)| format!("{key}: {}", serde_json::json!(text))).collect();
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{}}}\n", entries.join(", "))
}

pub fn keys_and_certificates_come_from_secrets() -> Result<()> {
    let namespace = Namespace::new("access")?;
    let authority = Authority::new();
    let host = format!("{NAME}.{}.svc", namespace.name());
    let (certificate, key) = authority.issue(&host);
    namespace.apply(&secret("endpoint", &[("tls.crt", &certificate), ("tls.key", &key)]))?;
    namespace.apply(&secret("keys", &[("team", "# of the team\nfirst\n")]))?;
    install(&namespace)?;

    let forwarded = |more: &[&str]| {
        lockstep(&[&["generate", "-n", namespace.name(), NAME, "Once upon a time", "--max-tokens", "4"], more].concat())
    };
    expect("without a key", &forwarded(&[])?, "give it with --api-key")?;
    expect("with a foreign key", &forwarded(&["--api-key", "another"])?, "none of this server's")?;
    expect_answer("through the API server", &forwarded(&["--api-key", "first"])?)?;

    let folder = tempfile::tempdir().context("make a folder")?;
    let trusted = folder.path().join("ca.crt");
    std::fs::write(&trusted, authority.pem())?;
    let trusted = trusted.to_str().context("the path of the authority")?;
    let direct = |scheme: &str, more: &[&str]| {
        let endpoint = format!("{scheme}://{host}:50051");
        let ask = ["generate", "--endpoint", &endpoint, "--api-key", "first", "Once upon a time", "--max-tokens", "4"];
        lockstep(&[&ask, more].concat())
    };
    expect_answer("with the authority", &direct("https", &["--ca-file", trusted])?)?;
    expect_answer("with any certificate", &direct("https", &["--insecure-skip-tls-verify"])?)?;
    expect("without the authority", &direct("https", &[])?, "--ca-file")?;
    expect("in plain text", &direct("http", &[])?, "https://")?;

    namespace.apply(&secret("keys", &[("team", "second\n")]))?;
    // The kubelet looks at a Secret once a minute, and when something of the pod changes.
    namespace.kubectl(&["annotate", "pod", "secured-0-head-0", "looked=now"])?;
    eventually("the new key to count", LONGEST_WAIT, || {
        expect_answer("with the new key", &forwarded(&["--api-key", "second"])?)?;
        expect("with the old key", &forwarded(&["--api-key", "first"])?, "none of this server's")
    })?;
    let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let restarts = namespace.kubectl(&["get", "pods", "-o", restarts])?;
    ensure!(restarts.split_whitespace().all(|count| count == "0"), "containers restarted: {restarts}");
    helm(&["uninstall", NAME, "-n", namespace.name(), "--wait"]).map(drop)
}

/// Installs the cluster by its chart, and has the chart's own test ask for an answer.
fn install(namespace: &Namespace) -> Result<()> {
    let chart = path("charts/inference-cluster");
    let chart = chart.to_str().context("the chart's path")?;
    let image = "test.image.repository=lockstep/operator,test.image.tag=dev";
    let keys = "spec.serving.apiKeysSecretRef.name=keys,spec.serving.apiKeysSecretRef.key=team";
    let small = "spec.workers=0,spec.serving.tlsSecretRef.name=endpoint";
    helm(&["install", NAME, chart, "-n", namespace.name(), "--set", image, "--set", keys, "--set", small])?;
    helm(&["test", NAME, "-n", namespace.name(), "--timeout", "180s"]).map(drop)
}

fn expect(what: &str, output: &str, words: &str) -> Result<()> {
    ensure!(output.contains("error:") && output.contains(words), "{what}, not `{words}`: {output}");
    Ok(())
}

fn expect_answer(what: &str, output: &str) -> Result<()> {
    ensure!(!output.contains("error:"), "{what}: {output}");
    Ok(())
}
