//! The model inside the binary answers as transformers does with its files, at every world size.

use std::collections::HashMap;
use std::path::PathBuf;

use lockstep_engine::{DType, describe, open};
use lockstep_schedule::plan::{SamplingParams, SeqId};

use crate::common::{ExpectedOutput, GroupSetup, Ranks, request, run_to_end, scheduler};

const SOURCE: &str = "builtin://tiny";

/// Returns the setup of a group that runs the model in f32.
pub fn setup(world_size: usize) -> GroupSetup {
    GroupSetup { source: SOURCE.into(), dtype: Some(DType::F32), ..GroupSetup::new("", world_size) }
}

/// Returns the folder whose files are in the binary.
pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/builtin/tiny"))
}

pub fn conversations() -> Vec<ExpectedOutput> {
    let json: serde_json::Value = serde_json::from_str(include_str!("../../builtin/expected.json")).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let read = |conversation: &serde_json::Value| ExpectedOutput {
        prompt: numbers(&conversation["prompt"]),
        greedy: numbers(&conversation["greedy"]),
        positions: Vec::new(),
        logits: Vec::new(),
    };
    json["conversations"].as_array().unwrap().iter().map(read).collect()
}

#[test]
fn the_builtin_model_answers_as_in_transformers() {
    let conversations = conversations();
    assert!(!conversations.is_empty());
    for world_size in 1..=4 {
        let setup = setup(world_size);
        let ranks = Ranks::start(&setup);
        let mut scheduler = scheduler(&setup, |_| {});
        scheduler.start_epoch(ranks.epoch(), setup.num_blocks, 0);
        for (index, conversation) in conversations.iter().enumerate() {
            scheduler.submit(request(index as SeqId, conversation, SamplingParams::default()), 0).unwrap();
        }
        let mut tokens = HashMap::new();
        run_to_end(&mut scheduler, &ranks, &mut tokens);
        for (index, conversation) in conversations.iter().enumerate() {
            assert_eq!(tokens[&(index as SeqId)], conversation.greedy, "{world_size} ranks, conversation {index}");
        }
    }
}

#[test]
fn the_builtin_model_has_the_files_that_a_head_needs() {
    let described = describe(open(SOURCE).unwrap().as_ref()).unwrap();
    assert!(described.chat_template.is_some_and(|template| template.contains("<|user|>")));
    assert!(!described.generation.eos_token_ids.is_empty());
    assert!(described.largest_world_size >= 4);
}
