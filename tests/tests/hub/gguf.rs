//! GGUF files of a hub: the files that a source names are fetched and served, and no others.

use std::path::Path;
use std::process::Command;

use lockstep_tests::group::{Group, Spec, Way, agent};
use lockstep_tests::hub::{COMMIT, Hub};
use lockstep_tests::manifests;
use lockstep_tests::process::{Process, program};

use crate::group::{answer, spec};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/parity/gguf/llama.gguf");
const WHOLE: &str = "X-Q4_K_M.gguf";
const PARTS: [&str; 2] = ["parts/X-Q8_0-00001-of-00002.gguf", "parts/X-Q8_0-00002-of-00002.gguf"];

/// Starts a hub that has one model twice, in one file and in two parts, and files that belong to no model.
async fn start_hub() -> Hub {
    let empty = tempfile::tempdir().unwrap();
    let hub = Hub::start("org/name", empty.path()).await;
    let model = std::fs::read(MODEL).unwrap();
    // The last part has neither tensors nor values.
    let last = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &[0; 16]].concat();
    hub.add(PARTS[0], model.clone());
    hub.add(PARTS[1], last);
    hub.add(WHOLE, model);
    for name in ["mmproj-X-f16.gguf", "imatrix.gguf", "config.json", "tokenizer.json", "README.md"] {
        hub.add(name, name.as_bytes().to_vec());
    }
    hub
}

/// Returns the paths of all files below a folder, in order.
fn list_files(folder: &Path, below: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join(below)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        match folder.join(&path).is_dir() {
            true => found.extend(list_files(folder, &path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ranks_serve_the_file_that_the_source_names() {
    let local = Spec::new(Way::MultiNode, 2, format!("file://{MODEL}")).with("LOCKSTEP_DTYPE", "f32");
    let expected = answer(&mut Group::start(local)).await;
    let hub = start_hub().await;
    let by_name = format!("hf://org/name/{}", PARTS[0]);
    let cases =
        [("org/name:q4_k_m", "name:q4_k_m", &[WHOLE][..]), (&by_name, "X-Q8_0-00001-of-00002.gguf", &PARTS[..])];
    let mut homes = Vec::new();
    for (source, name, files) in cases {
        let home = tempfile::tempdir().unwrap();
        hub.asked();
        let mut group = Group::start(spec(2, source, &hub, home.path()));
        assert_eq!(answer(&mut group).await, expected, "{source}");
        assert_eq!(group.ready().await.model, name);
        let fetched = home.path().join("hub/models--org--name/snapshots").join(COMMIT);
        assert_eq!(list_files(&fetched, ""), files, "{source}");
        for asked in hub.asked() {
            let is_expected = asked.path.starts_with("/api/") || files.iter().any(|file| asked.path.ends_with(file));
            assert!(is_expected, "{source}: {asked:?}");
        }
        homes.push(home);
    }

    // Offline, the cache's files are the repository. Without a tag, a usual one is looked for.
    let offline = spec(2, "hf://org/name", &hub, homes[0].path()).with("HF_HUB_OFFLINE", 1);
    let offline = offline.with("LOCKSTEP_MODEL_REVISION", COMMIT);
    assert_eq!(answer(&mut Group::start(offline)).await, expected);
    assert_eq!(hub.asked(), []);
}

/// Runs an agent that ends by itself. Returns its exit status and its output.
fn run_agent(arguments: &[&str], hub: &Hub) -> (Option<i32>, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = agent();
    command.args(arguments).env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", home.path());
    let mut process = Process::start("an agent", command);
    let status = process.wait();
    (status.code(), process.all_output())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_names_no_model_is_refused_with_the_list() {
    let hub = start_hub().await;
    for (source, reason) in [
        ("org/name:X", "model source `hf://org/name:X`: several GGUF files have the tag X"),
        ("hf://org/name:Q2_K", "no GGUF file has the tag Q2_K"),
        ("hf://org/name/mmproj-X-f16.gguf", "mmproj-X-f16.gguf accompanies a model and is none"),
        ("hf://org/name/X-Q2_K.gguf", "it has no GGUF file X-Q2_K.gguf"),
    ] {
        let (code, output) = run_agent(&["plain", "-m", source], &hub);
        assert_eq!(code, Some(2), "{output}");
        for part in
            [reason, "it offers Q4_K_M (", " kB, X-Q4_K_M.gguf), Q8_0 (", &format!(" kB in 2 parts, {})", PARTS[0])]
        {
            assert!(output.contains(part), "{source}: no `{part}` in:\n{output}");
        }
    }
    let (code, output) = run_agent(&["plain", "-m", "org/name", "--list-files"], &hub);
    assert_eq!(code, Some(0), "{output}");
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
    let kilobytes = std::fs::metadata(MODEL).unwrap().len().div_ceil(1000).to_string();
    assert_eq!(lines[0], ["hf://org/name", "at", "main,", COMMIT]);
    assert_eq!(lines[1], ["TAG", "SIZE", "PARTS", "FILE"]);
    assert_eq!(lines[2], ["Q4_K_M", &kilobytes, "kB", "1", WHOLE]);
    assert_eq!(lines[3][0], "Q8_0");
    assert_eq!(lines[3][3..], ["2", PARTS[0]]);
    assert_eq!(lines[4], ["without", "a", "tag:", WHOLE]);
    assert_eq!(lines.len(), 5, "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lockstep_up_takes_a_gguf_file_of_the_hub() {
    let hub = start_hub().await;
    let home = tempfile::tempdir().unwrap();
    let manifest = home.path().join("cluster.yaml");
    let spec = "{ model: { source: 'hf://org/name:Q8_0', revision: main }, workers: 1 }";
    std::fs::write(&manifest, manifests::cluster("small", spec)).unwrap();
    let mut command = Command::new(program("lockstep"));
    command.arg("up").arg(&manifest).env("LOCKSTEP_AGENT", program("lockstep-agent"));
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", home.path()).env_remove("HF_HUB_OFFLINE");
    Process::start("lockstep up", command).await_output("name:Q8_0 serves on 2 ranks");
}
