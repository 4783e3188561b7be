//! Loading: the bytes that are read, the progress that is reported, and a clear error for everything that can be wrong
//! with a model folder.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::common::{GroupSetup, fixture_folder, fixtures, parity_names};
use lockstep_collectives::solo::Solo;
use lockstep_collectives::{Grid, RankGroup};
use lockstep_engine::config::Architecture;
use lockstep_engine::{Runner, RunnerConfig, describe, open, resolve, verify};
use lockstep_schedule::plan::{Admission, PlanEntry, PlanTokens, SamplingParams, StepPlan};

const FIXTURE: &str = "awkward-gqa";

/// Returns a copy of a fixture that may be damaged.
fn copy(fixture: &str) -> (tempfile::TempDir, GroupSetup) {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture_folder(fixture)).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let source = copy.path().display().to_string();
    (copy, GroupSetup { source, dtype: None, ..GroupSetup::new(fixture, 1) })
}

fn load(config: RunnerConfig) -> Result<Runner, String> {
    Runner::load(config, &mut |_, _| {}).map_err(|error| error.to_string())
}

#[test]
fn a_rank_reads_its_own_part_and_reports_it() {
    let size = std::fs::metadata(fixture_folder(FIXTURE).join("model.safetensors")).unwrap().len();
    let mut sum = 0;
    for rank in 0..3 {
        let mut reports = Vec::new();
        let config = GroupSetup::new(FIXTURE, 3).config(rank);
        let runner = Runner::load(config, &mut |read, total| reports.push((read, total))).unwrap();
        assert!(reports.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{reports:?}");
        assert!(reports.iter().all(|(read, total)| read <= total), "{reports:?}");
        assert_eq!(*reports.last().unwrap(), (runner.bytes_read(), runner.bytes_read()));
        sum += runner.bytes_read();
        let facts = runner.facts();
        assert_eq!((facts.architecture, facts.dtype, facts.vocab_size), ("LlamaForCausalLM", "f32", 269));
        assert_eq!((facts.context_length, facts.num_layers, facts.layers.clone()), (256, 3, 0..3));
        assert_eq!(facts.parameters * 4, size - header(FIXTURE));
        // A block has three layers, keys and values, at least one KV head of 10 in f32, and 8 positions. Kernels may
        // pad it.
        assert!(runner.bytes_per_block() >= 3 * 2 * 8 * 10 * 4, "{}", runner.bytes_per_block());
    }
    // Ranks read some bytes more than once: KV heads that two ranks share, norms, and the gaps in short rows.
    assert!(sum > size * 9 / 10 && sum < size * 2, "{sum} of {size}");
}

#[test]
fn a_stage_reads_its_own_layers_alone() {
    let bytes = |rank, stages| {
        let config = GroupSetup { stages, ..GroupSetup::new(FIXTURE, stages) }.config(rank);
        let runner = load(config).unwrap();
        assert_eq!(runner.facts().layers.len(), if stages == 1 { 3 } else { 2 - rank });
        (runner.bytes_read(), runner.bytes_per_block())
    };
    let (whole, whole_block) = bytes(0, 1);
    let (first, first_block) = bytes(0, 2);
    let (last, last_block) = bytes(1, 2);
    // This model's output projection is the embedding, and both end stages have a copy of it.
    assert_eq!(first + last, whole + 269 * 54 * 4);
    assert_eq!((first_block, last_block), (whole_block / 3 * 2, whole_block / 3), "two layers and one");
}

/// Returns the bytes before the first tensor.
fn header(fixture: &str) -> u64 {
    let bytes = std::fs::read(fixture_folder(fixture).join("model.safetensors")).unwrap();
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

#[test]
fn progress_increases_with_every_layer() {
    let config = GroupSetup::new(FIXTURE, 1).config(0);
    let progress = Arc::clone(&config.progress);
    let mut runner = load(config).unwrap();
    runner.start_epoch(1, Solo::new().unwrap(), 4).unwrap();
    let entry = PlanEntry {
        seq: 1,
        position: 0,
        tokens: PlanTokens::Given(vec![1]),
        new_blocks: vec![0],
        sample: true,
        allowed: None,
        prompt_targets: None,
    };
    let admit = vec![Admission::new(1, SamplingParams::default())];
    let before = progress.load(Ordering::Relaxed);
    runner.step(&StepPlan { epoch: 1, step: 1, forget: vec![], admit, entries: vec![entry] }).unwrap();
    assert!(progress.load(Ordering::Relaxed) >= before + 3 * 4);
}

/// Name of a damage, the function that does it to a folder, and a part of the error of loading the folder.
type Damage = (&'static str, fn(&Path), &'static str);

fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(folder.join(file), text.replace(from, to)).unwrap();
}

#[test]
fn damaged_models_are_refused_by_name() {
    let damages: &[Damage] = &[
        ("no configuration", |at| std::fs::remove_file(at.join("config.json")).unwrap(), "config.json is missing in"),
        (
            "no weights",
            |at| std::fs::remove_file(at.join("model.safetensors")).unwrap(),
            "model.safetensors is missing",
        ),
        ("not JSON", |at| std::fs::write(at.join("config.json"), "{").unwrap(), "config.json: EOF"),
        (
            "another family",
            |at| edit(at, "config.json", "LlamaForCausalLM", "MambaForCausalLM"),
            "architecture `MambaForCausalLM` is not supported; supported: LlamaForCausalLM, MistralForCausalLM, ",
        ),
        (
            "another shape",
            |at| edit(at, "config.json", "\"vocab_size\": 269", "\"vocab_size\": 270"),
            "tensor `model.embed_tokens.weight` in model.safetensors has shape [269, 54], config.json asks for [270, 54]",
        ),
        (
            "a layer too many",
            |at| edit(at, "config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"),
            "tensor `model.layers.3.",
        ),
        (
            "cut short",
            |at| {
                let file = std::fs::OpenOptions::new().write(true).open(at.join("model.safetensors")).unwrap();
                file.set_len(100_000).unwrap();
            },
            "model.safetensors is cut short: it has 100000 bytes",
        ),
    ];
    for (label, damage, expected) in damages {
        let (folder, setup) = copy(FIXTURE);
        damage(folder.path());
        let message = load(setup.config(0)).expect_err(label);
        assert!(message.contains(expected), "{label}: {message}");
    }
    let (folder, setup) = copy("llama3-sharded");
    std::fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    let message = load(setup.config(0)).unwrap_err();
    assert!(message.contains("model-00002-of-00003.safetensors is missing"), "{message}");
}

#[test]
fn wrong_choices_are_refused_with_the_remedy() {
    let config = || GroupSetup::new(FIXTURE, 1).config(0);
    let cases = [
        (RunnerConfig { grid: RankGroup::new(6, 7).unwrap().into(), ..config() }, "the largest world size is 6"),
        (RunnerConfig { grid: Grid::new(3, 4, 4).unwrap(), ..config() }, "a model of 3 layers cannot be split into 4"),
        (RunnerConfig { context_length: Some(513), ..config() }, "the model was made for 512 positions"),
        (RunnerConfig { context_length: Some(0), ..config() }, "context_length is 0"),
        (RunnerConfig { block_size: 0, ..config() }, "block_size is 0"),
        (RunnerConfig { threads: 0, ..config() }, "threads is 0"),
        (RunnerConfig { isa: Some("mmx".into()), ..config() }, "mmx"),
    ];
    for (config, expected) in cases {
        let message = load(config).expect_err(expected);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_model_is_resolved_once_and_verified_everywhere() {
    let (folder, setup) = copy("llama3-sharded");
    let resolved = resolve(open(&setup.source).unwrap().as_ref()).unwrap();
    assert_eq!(resolved.len(), 5, "configuration, index, three shards");
    verify(open(&setup.source).unwrap().as_ref(), &resolved).unwrap();
    edit(folder.path(), "config.json", "\"rope_theta\"", "\"rope_thetb\"");
    let message = verify(open(&setup.source).unwrap().as_ref(), &resolved).unwrap_err().to_string();
    assert!(message.starts_with("config.json is not the file that the head resolved"), "{message}");
}

#[test]
fn every_fixture_is_described() {
    for name in fixtures() {
        let described = describe(open(&fixture_folder(name).display().to_string()).unwrap().as_ref()).unwrap();
        assert!(described.context_length >= 256 && described.largest_world_size >= 4, "{name}");
        assert_eq!(described.generation.eos_token_ids, [2], "{name}");
        assert!(!described.tokenizer_json.is_empty());
    }
}

#[test]
fn every_family_has_a_fixture_a_gguf_file_and_a_place_in_the_readme() {
    let describe_file = |path: String| describe(open(&path).unwrap().as_ref()).unwrap().architecture;
    let fixtures: Vec<_> = fixtures().map(|name| describe_file(GroupSetup::new(name, 1).source)).collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/gguf");
    let files = parity_names("gguf").into_iter().filter(|name| name.ends_with(".gguf"));
    let files: Vec<_> = files.map(|name| describe_file(format!("{folder}/{name}"))).collect();
    let letters = |text: &str| text.replace(|letter: char| !letter.is_alphanumeric(), "").to_lowercase();
    let short = |family: &Architecture| letters(family.name().strip_suffix("ForCausalLM").unwrap_or(family.name()));
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"));
    let row = readme.lines().find_map(|line| line.strip_prefix("| Models |")).unwrap();
    // Of `gemma` and `gemma2`, the item `Gemma 2` lists the second.
    let listed = row.split([',', ';']).map(letters).filter_map(|item| {
        let families = Architecture::ALL.iter().map(short).filter(|short| item.starts_with(short.as_str()));
        families.max_by_key(String::len)
    });
    let listed: Vec<_> = listed.collect();
    let mut missing = Vec::new();
    for family in Architecture::ALL {
        let name = family.name();
        if !listed.contains(&short(family)) {
            missing.push(format!("{name} in the README's row of models"));
        }
        if !fixtures.contains(&name) {
            missing.push(format!("a fixture of {name}, in tests/parity/families.py"));
        }
        match (files.contains(&name), family.has_gguf_files()) {
            (false, true) => missing.push(format!("a GGUF file of {name}, in tests/parity/families.py")),
            (true, false) => missing.push(format!("llama.cpp's name in the facts of {name}, which has a GGUF file")),
            _ => {}
        }
    }
    assert!(missing.is_empty(), "missing: {missing:#?}");
}
