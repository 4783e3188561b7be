//! The official Python client against the HTTP endpoint.

use std::process::Stdio;

use crate::common::start;

/// Python with `tests/clients/requirements.txt` installed.
const PYTHON: &str = "LOCKSTEP_TEST_PYTHON";

#[tokio::test]
#[ignore = "needs a Python with the openai package, named by LOCKSTEP_TEST_PYTHON"]
async fn the_official_python_client_works() {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| panic!("set {PYTHON} to a Python with the openai package"));
    let endpoint = start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/clients/openai_client.py");
    let output = tokio::process::Command::new(python)
        .args([script, "--exact", "--base-url", &format!("http://{}/v1", endpoint.http)])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}
