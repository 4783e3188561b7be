//! Configurations from the metadata of GGUF files, family by family. The tests write the files with candle.

use std::io::Cursor;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use lockstep_engine::config::{Architecture, ModelConfig, RopeScaling};
use lockstep_engine::{describe, gguf, open};

/// Writes a GGUF file with the metadata that every architecture needs, and with `own`. A key in `own` replaces the
/// usual value.
fn file(arch: &str, own: &[(&str, Value)], tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let usual = [
        ("embedding_length", Value::U32(64)),
        ("feed_forward_length", Value::U32(32)),
        ("block_count", Value::U32(3)),
        ("attention.head_count", Value::U32(4)),
        ("attention.head_count_kv", Value::U32(2)),
        ("context_length", Value::U32(512)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(arch.into())),
        ("tokenizer.ggml.model".to_owned(), Value::String("llama".into())),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(vec![Value::String("a".into())])),
        ("tokenizer.ggml.scores".to_owned(), Value::Array(vec![Value::F32(0.0)])),
    ];
    let kept = usual.into_iter().filter(|(name, _)| own.iter().all(|(other, _)| other != name));
    let all = kept.chain(own.iter().map(|(name, value)| (*name, value.clone())));
    metadata.extend(all.map(|(name, value)| (format!("{arch}.{name}"), value)));
    let metadata: Vec<_> = metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let ones = |shape: &[usize]| {
        QTensor::quantize(&Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap()
    };
    let mut all = vec![("token_embd.weight", ones(&[7, 64]))];
    all.extend(tensors.iter().map(|(name, shape)| (*name, ones(shape))));
    let all: Vec<_> = all.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut bytes = Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &all).unwrap();
    bytes.into_inner()
}

fn read(arch: &str, own: &[(&str, Value)], tensors: &[(&str, &[usize])]) -> ModelConfig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, file(arch, own, tensors)).unwrap();
    describe(open(&path.display().to_string()).unwrap().as_ref()).unwrap().config
}

fn refused(arch: &str, own: &[(&str, Value)], tensors: &[(&str, &[usize])]) -> String {
    gguf::check_bytes(&file(arch, own, tensors)).unwrap_err().to_string()
}

fn windows(config: &ModelConfig) -> Vec<Option<usize>> {
    config.layers.iter().map(|layer| layer.window).collect()
}

#[test]
fn a_llama_with_experts_is_a_mixtral() {
    let counts = [("expert_count", Value::U32(4)), ("expert_used_count", Value::U32(2))];
    let config = read("llama", &counts, &[]);
    let moe = config.moe.unwrap();
    assert_eq!(config.architecture, Architecture::Mixtral);
    assert_eq!((moe.num_experts, moe.experts_per_token, moe.intermediate_size), (4, 2, 32));
    assert_eq!(read("llama", &[("expert_count", Value::U32(0))], &[]).architecture, Architecture::Llama);
}

#[test]
fn experts_are_a_stack_of_matrices() {
    let counts = [
        ("expert_count", Value::U32(3)),
        ("expert_used_count", Value::U32(2)),
        ("expert_feed_forward_length", Value::U32(5)),
    ];
    let name = "blk.1.ffn_down_exps.weight";
    gguf::check_bytes(&file("qwen3moe", &counts, &[(name, &[3, 64, 5])])).unwrap();
    let wrong: [&[usize]; 2] = [&[64, 5], &[5000, 1, 1]];
    for shape in wrong {
        let message = refused("qwen3moe", &counts, &[(name, shape)]);
        assert!(message.contains(&format!("`{name}`: its shape {shape:?} is no stack of matrices")), "{message}");
    }
    // Converters write factors of whole matrices beside NVFP4: one for each expert.
    let factors: [(&str, &[usize]); 2] = [("blk.1.ffn_down_exps.scale", &[3]), ("blk.1.ffn_up_exps.input_scale", &[3])];
    gguf::check_bytes(&file("qwen3moe", &counts, &factors)).unwrap();
    let factors: [(&str, &[usize]); 2] = [("blk.1.attn_q.scale", &[1]), ("blk.1.attn_k.input_scale", &[1])];
    gguf::check_bytes(&file("llama", &[], &factors)).unwrap();
    let message = refused("qwen3moe", &counts[..2], &[]);
    assert!(message.contains("`qwen3moe.expert_feed_forward_length`: it is missing"), "{message}");
}

#[test]
fn gemmas_have_their_offset_and_scale() {
    let window = ("attention.sliding_window", Value::U32(16));
    let head = ("attention.key_length", Value::U32(8));
    let gemma2 = |layers| read("gemma2", &[window.clone(), head.clone(), ("block_count", Value::U32(layers))], &[]);
    let small = gemma2(3);
    assert_eq!((small.norm_offset, small.attention_scale), (0.0, 1.0 / 8f32.sqrt()));
    assert_eq!((small.attention_soft_cap, small.logit_soft_cap), (Some(50.0), Some(30.0)));
    assert_eq!(windows(&small), [Some(16), None, Some(16)]);
    // Gemma 2 27B, which has 46 layers, divides by the square root of hidden size over heads.
    assert_eq!(gemma2(46).attention_scale, 0.25);
    let caps = [("attn_logit_softcapping", Value::F32(2.0)), ("final_logit_softcapping", Value::F32(3.0))];
    let capped = read("gemma2", &caps, &[]);
    assert_eq!((capped.attention_soft_cap, capped.logit_soft_cap), (Some(2.0), Some(3.0)));
}

#[test]
fn gemma3_says_which_layers_slide() {
    let window = ("attention.sliding_window", Value::U32(16));
    let scaled = [
        window.clone(),
        ("block_count", Value::U32(6)),
        ("rope.freq_base", Value::F32(1e6)),
        ("rope.scaling.type", Value::String("linear".into())),
        ("rope.scaling.factor", Value::F32(8.0)),
    ];
    let config = read("gemma3", &scaled, &[]);
    assert_eq!(windows(&config), [Some(16), Some(16), Some(16), Some(16), Some(16), None]);
    let [global, local] = &config.ropes[..] else { panic!("{:?}", config.ropes) };
    assert_eq!((global.theta, &global.scaling), (1e6, &RopeScaling::Linear { factor: 8.0 }));
    assert_eq!((local.theta, &local.scaling), (1e4, &RopeScaling::None));
    assert_eq!(windows(&read("gemma3", &[], &[])), [None; 3]);
    let pattern = |value| ("attention.sliding_window_pattern", value);
    let every = read("gemma3", &[window.clone(), pattern(Value::U32(2))], &[]);
    assert_eq!(windows(&every), [Some(16), None, Some(16)]);
    let each = Value::Array([false, true, true].map(Value::Bool).to_vec());
    assert_eq!(windows(&read("gemma3", &[window, pattern(each)], &[])), [None, Some(16), Some(16)]);
}

#[test]
fn phi3_has_its_divisors_and_no_window_of_0() {
    let own = [
        ("attention.sliding_window", Value::U32(0)),
        ("rope.dimension_count", Value::U32(12)),
        ("rope.scaling.original_context_length", Value::U32(128)),
        ("rope.scaling.attn_factor", Value::F32(1.5)),
    ];
    let factors: [(&str, &[usize]); 2] = [("rope_factors_short.weight", &[6]), ("rope_factors_long.weight", &[6])];
    let config = read("phi3", &own, &factors);
    assert_eq!(windows(&config), [None; 3]);
    let RopeScaling::LongRope(long) = &config.ropes[0].scaling else { panic!("{:?}", config.ropes) };
    assert_eq!((config.ropes[0].rotary_dim, long.original_context_length, long.attention_factor), (12, 128, 1.5));
    assert_eq!((long.short.len(), long.long.len()), (6, 6));
    assert_eq!(windows(&read("phi3", &[("attention.sliding_window", Value::U32(9))], &[])), [Some(9); 3]);
    // As many dimensions turn as the file says, whatever share of the head that is.
    for (head, rotary) in [(44, 30), (90, 26), (96, 36)] {
        let own = [("attention.key_length", Value::U32(head)), ("rope.dimension_count", Value::U32(rotary))];
        assert_eq!(read("phi3", &own, &[]).ropes[0].rotary_dim, rotary as usize);
    }
}
