//! A new head compares its files with those that the nodes of the group have in memory.

use std::path::Path;

use lockstep_tests::client::greedy;
use lockstep_tests::group::{Group, Spec, Way, fixture};
use serde_json::{Value, json};

/// Bytes of a tensor without use, before the model's own and after them. So the file is digested by its ends and samples.
const PADDING: usize = 12 << 20;
/// Stretch of the padding that changes together with the weights: samples find it whatever their places.
const CHANGED: usize = 1 << 20;
const WEIGHTS: &str = "model.safetensors";

/// Writes a copy of a small model whose weights are in the middle of a large file. Returns the place of the weights in it.
fn write_model(folder: &Path) -> std::ops::Range<usize> {
    for file in std::fs::read_dir(fixture("llama2")).expect("a fixture") {
        let file = file.expect("a file").path();
        std::fs::copy(&file, folder.join(file.file_name().expect("a name"))).expect("copy");
    }
    let bytes = std::fs::read(folder.join(WEIGHTS)).expect("read");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    let data = &bytes[8 + length..];
    for tensor in header.as_object_mut().expect("tensors").values_mut() {
        for offset in tensor.get_mut("data_offsets").and_then(Value::as_array_mut).into_iter().flatten() {
            *offset = json!(offset.as_u64().expect("an offset") as usize + PADDING);
        }
    }
    for (name, begin) in [("padding.before", 0), ("padding.after", PADDING + data.len())] {
        header[name] = json!({"dtype": "U8", "shape": [PADDING], "data_offsets": [begin, begin + PADDING]});
    }
    let header = header.to_string().into_bytes();
    let begin = 8 + header.len() + PADDING;
    let padding = vec![0; PADDING];
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &padding, data, &padding].concat();
    std::fs::write(folder.join(WEIGHTS), file).expect("write");
    begin..begin + data.len()
}

/// Gives each number of the weights, which are f32, the other sign, and changes some of the padding. The file keeps its size
/// and its ends.
fn change_model(folder: &Path, weights: std::ops::Range<usize>) {
    let mut bytes = std::fs::read(folder.join(WEIGHTS)).expect("read");
    bytes[weights.clone()].iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= 0x80);
    bytes[weights.end..weights.end + CHANGED].fill(1);
    std::fs::write(folder.join(WEIGHTS), bytes).expect("write");
}

/// A worker that outlives its head has read its weights from files that may have changed since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_head_does_not_take_weights_that_have_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = write_model(folder.path());
    let model = folder.path().display().to_string();
    let mut group = Group::start(Spec::new(Way::MultiNode, 2, &model).with("LOCKSTEP_DTYPE", "f32"));
    let first = group.ready().await;
    let before = group.client().await.generate(greedy(&[20, 30], 12)).await.expect("an answer");
    let replace_head = |group: &mut Group| {
        group.nodes[0].as_mut().expect("a head").kill();
        group.start_node(0);
    };
    // Nothing has changed: the worker keeps its weights.
    replace_head(&mut group);
    let second = group.ready().await;
    assert_eq!((second.ranks[1].pid, second.ranks[1].bytes_read), (first.ranks[1].pid, first.ranks[1].bytes_read));
    assert_eq!(group.client().await.generate(greedy(&[20, 30], 12)).await.expect("an answer"), before);
    // The files have changed: the worker reads them again, and the group computes as a new one does.
    change_model(folder.path(), weights);
    replace_head(&mut group);
    let third = group.ready().await;
    assert_eq!(third.ranks[1].pid, first.ranks[1].pid);
    let after = group.client().await.generate(greedy(&[20, 30], 12)).await.expect("an answer");
    let worker = group.nodes[1].as_ref().expect("a worker").all_output();
    assert!(worker.contains("the model's files have changed since the ranks loaded them"), "{worker}");
    let mut fresh = Group::start(Spec::new(Way::MultiNode, 2, &model).with("LOCKSTEP_DTYPE", "f32"));
    fresh.ready().await;
    let expected = fresh.client().await.generate(greedy(&[20, 30], 12)).await.expect("an answer");
    assert_eq!(after, expected);
    assert_ne!(after, before, "the weights are others");
}
