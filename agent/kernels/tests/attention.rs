//! Paged attention: whole against chunked and batched, and its refusals.

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{AttentionParams, AttentionSeq, Context, KvCache, paged_attention};

const HEADS: usize = 3;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 20;
const BLOCK: usize = 4;

fn params() -> AttentionParams {
    AttentionParams { kv_head_of: vec![0, 0, 1], scale: 0.3, window: None, soft_cap: None }
}

fn cache(ctx: &Context) -> KvCache {
    KvCache::new(ctx, 8, BLOCK, KV_HEADS, HEAD_DIM, DType::F32, &Device::Cpu).unwrap()
}

fn random(tokens: usize, heads: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (tokens, heads, HEAD_DIM), &Device::Cpu).unwrap()
}

#[test]
fn chunks_give_what_the_whole_gives() {
    let ctx = Context::cpu(2).unwrap();
    let tokens = 11;
    let (q, k, v) = (random(tokens, HEADS), random(tokens, KV_HEADS), random(tokens, KV_HEADS));
    let run = |cache: &mut KvCache, start: usize, rows: usize| {
        let seq = AttentionSeq { first_row: 0, rows, position: start, block_table: &[5, 0, 2] };
        let part = |t: &Tensor| t.narrow(0, start, rows).unwrap().contiguous().unwrap();
        paged_attention(&ctx, &part(&q), &part(&k), &part(&v), cache, &[seq], &params()).unwrap()
    };
    let whole = run(&mut cache(&ctx), 0, tokens);
    let mut cache = cache(&ctx);
    let chunks = [run(&mut cache, 0, 3), run(&mut cache, 3, 1), run(&mut cache, 4, 7)];
    let chunked = Tensor::cat(&chunks, 0).unwrap();
    let difference = (whole - chunked).unwrap().abs().unwrap().flatten_all().unwrap();
    let difference = difference.max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn bad_arguments_are_refused() {
    let ctx = Context::cpu(1).unwrap();
    let (q, k) = (random(4, HEADS), random(4, KV_HEADS));
    let seq = |first_row, rows, position, block_table| AttentionSeq { first_row, rows, position, block_table };
    let cases: [(Vec<AttentionSeq>, &str); 4] = [
        (vec![seq(0, 5, 0, &[0, 1])], "sequence rows"),
        (vec![seq(0, 2, 0, &[0]), seq(1, 2, 0, &[1])], "sequence rows"),
        (vec![seq(0, 4, 1, &[0])], "block table"),
        (vec![seq(0, 4, 0, &[8])], "block table"),
    ];
    for (seqs, culprit) in cases {
        let result = paged_attention(&ctx, &q, &k, &k, &mut cache(&ctx), &seqs, &params());
        let message = result.unwrap_err().to_string();
        assert!(message.contains(culprit), "{message}");
    }
}
