//! Manifests of the charts and of `deploy/`, as text: for tests that need no cluster, and for those that send them to
//! an API server.
//!
//! The value sets of a chart are the files in its folder `ci/`. The samples are those of `deploy/samples`. Helm and
//! kubectl are the test cluster's own, or those on the path.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of the charts.
pub const CHARTS: [&str; 2] = ["lockstep", "inference-cluster"];

/// Namespace of the operator's releases in the rendered manifests.
pub const NAMESPACE: &str = "lockstep-system";

/// Other namespaces in the rendered manifests. An API server accepts objects only into namespaces that exist.
pub const WATCHED: [&str; 2] = ["team-a", "team-b"];

/// Overlays of `deploy/overlays`.
pub const OVERLAYS: [&str; 2] = ["cluster-wide", "namespaced"];

/// Manifests, and the source that they were made from.
pub struct Rendered {
    pub name: String,
    pub yaml: String,
}

/// Returns the manifest of an InferenceCluster. `spec` is YAML: a flow mapping, or an indented block after a newline.
#[must_use]
pub fn cluster(name: &str, spec: &str) -> String {
    format!("apiVersion: lockstep.dev/v1alpha1\nkind: InferenceCluster\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

/// Returns a path below the repository's root.
#[must_use]
pub fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(below)
}

/// Finds the program `name`: the test cluster's, if it was compiled before, else the one on the path. In CI a missing
/// program is compiled.
///
/// # Errors
/// The way to get the program, if there is none. In CI the error fails the test, elsewhere it is a reason to skip the
/// test.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let found = compiled(name).or_else(|| {
        let folders = std::env::var_os("PATH")?;
        std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|program| program.is_file())
    });
    match found {
        Some(program) => Ok(program),
        None if std::env::var_os("CI").is_some() => {
            let output = run(Command::new(path("tests/cluster/build")))?;
            Ok(Path::new(output.trim()).join(name))
        }
        None => Err(format!("there is no {name}: run tests/cluster/build, or install it")),
    }
}

/// Returns the newest program `name` that `tests/cluster/build` made.
fn compiled(name: &str) -> Option<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(&std::env::var_os("HOME")?).join(".cache"),
    };
    let folders = std::fs::read_dir(cache.join("lockstep/cluster/programs")).ok()?;
    let programs = folders.filter_map(|folder| {
        let program = folder.ok()?.path().join(name);
        Some((program.metadata().ok()?.modified().ok()?, program))
    });
    programs.max().map(|(_, program)| program)
}

/// Runs a command that must succeed, and returns its output.
fn run(mut command: Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)),
    }
}

/// Runs Helm.
///
/// # Errors
/// Helm's message, if it fails or is missing.
pub fn helm(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program("helm")?);
    // Helm sees nothing of the user who runs the tests: no plugins, no repositories, no cluster.
    command.args(arguments).env("HELM_CONFIG_HOME", "/nonexistent").env("KUBECONFIG", "/dev/null");
    run(command)
}

/// Renders `chart` as release `lockstep` in [`NAMESPACE`], with more arguments of `helm template`.
///
/// # Errors
/// Helm's message, if it fails or is missing.
pub fn template(chart: &str, arguments: &[&str]) -> Result<String, String> {
    let chart = path("charts").join(chart);
    let chart = chart.to_string_lossy();
    helm(&[&["template", "lockstep", &*chart, "--namespace", NAMESPACE], arguments].concat())
}

/// Returns the value sets of `chart`: name and path.
///
/// # Panics
/// If the chart has no folder `ci/`.
#[must_use]
pub fn value_sets(chart: &str) -> Vec<(String, PathBuf)> {
    files(&format!("charts/{chart}/ci"))
}

/// Returns the files of a folder, sorted by name.
fn files(folder: &str) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap_or_else(|error| panic!("{folder}: {error}")).path())
        .map(|path| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path))
        .collect();
    files.sort();
    files
}

/// Renders an overlay with kustomize.
///
/// # Errors
/// kubectl's message, if it fails or is missing.
pub fn kustomize(overlay: &str) -> Result<String, String> {
    let mut command = Command::new(program("kubectl")?);
    command.arg("kustomize").arg(path("deploy/overlays").join(overlay)).env("KUBECONFIG", "/dev/null");
    run(command)
}

/// Renders every manifest that users can put into a cluster, for an API server to judge: each chart with each of its
/// value sets, each overlay, each sample. The kinds of the Prometheus operator are left out, because a bare API server
/// does not know them.
///
/// # Errors
/// Helm's or kubectl's message, if they fail or are missing.
pub fn all() -> Result<Vec<Rendered>, String> {
    let mut all = Vec::new();
    for chart in CHARTS {
        for (set, values) in value_sets(chart) {
            let yaml = template(chart, &["--values", &values.to_string_lossy()])?;
            all.push(Rendered { name: format!("chart {chart}, {set}"), yaml: without_monitoring(&yaml) });
        }
    }
    for overlay in OVERLAYS {
        all.push(Rendered { name: format!("overlay {overlay}"), yaml: kustomize(overlay)? });
    }
    for (sample, path) in files("deploy/samples") {
        let yaml = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        all.push(Rendered { name: format!("sample {sample}"), yaml });
    }
    Ok(all)
}

fn without_monitoring(yaml: &str) -> String {
    let documents = yaml.split("\n---\n").filter(|document| !document.contains("\napiVersion: monitoring.coreos.com/"));
    documents.collect::<Vec<_>>().join("\n---\n")
}
