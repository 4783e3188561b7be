//! Paged attention against the plain function, and bit for bit against itself: alone and batched, whole and chunked,
//! over threads and instruction sets.

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{AttentionParams, AttentionSeq, Context, Isa, KvCache, paged_attention, plain, uniform};

/// One attention layer and its random inputs.
struct Case {
    kv_head_of: Vec<usize>,
    kv_heads: usize,
    head_dim: usize,
    block_size: usize,
    dtype: DType,
    window: Option<usize>,
    soft_cap: Option<f32>,
    /// Lengths of the sequences. Each is one request.
    lengths: Vec<usize>,
}

const BASE: Case = Case {
    kv_head_of: Vec::new(),
    kv_heads: 2,
    head_dim: 64,
    block_size: 16,
    dtype: DType::F32,
    window: None,
    soft_cap: None,
    lengths: Vec::new(),
};

fn cases() -> Vec<Case> {
    vec![
        Case { kv_head_of: vec![0, 0, 0, 0, 1, 1, 1, 1], lengths: vec![37, 1, 265], ..BASE },
        Case { kv_head_of: vec![1, 0, 1], head_dim: 20, block_size: 4, lengths: vec![75], ..BASE },
        Case { kv_head_of: vec![0, 1], block_size: 20, lengths: vec![330, 40], ..BASE },
        Case { kv_head_of: vec![0; 5], head_dim: 7, block_size: 1, lengths: vec![33], ..BASE },
        Case {
            kv_head_of: vec![0, 0, 1, 1],
            window: Some(29),
            soft_cap: Some(3.0),
            block_size: 32,
            lengths: vec![265, 12],
            ..BASE
        },
        Case { kv_head_of: vec![0, 1, 1], dtype: DType::BF16, lengths: vec![270], ..BASE },
        Case { kv_head_of: vec![0, 1, 1], head_dim: 33, dtype: DType::BF16, lengths: vec![50], ..BASE },
        Case {
            kv_head_of: vec![0, 0, 1],
            head_dim: 128,
            dtype: DType::F16,
            block_size: 300,
            lengths: vec![310],
            ..BASE
        },
    ]
}

/// One step: the rows `from..to` of each sequence.
type Step = Vec<(usize, usize)>;

impl Case {
    fn params(&self) -> AttentionParams {
        AttentionParams {
            kv_head_of: self.kv_head_of.clone(),
            scale: (self.head_dim as f32).powf(-0.5),
            window: self.window,
            soft_cap: self.soft_cap,
        }
    }

    fn blocks(&self) -> usize {
        self.lengths.iter().map(|length| length.div_ceil(self.block_size)).sum()
    }

    /// Returns block tables that interleave the sequences, last block first.
    fn tables(&self) -> Vec<Vec<u32>> {
        let mut next = self.blocks() as u32;
        let mut tables = vec![Vec::new(); self.lengths.len()];
        while next > 0 {
            for (table, length) in tables.iter_mut().zip(&self.lengths) {
                if table.len() < length.div_ceil(self.block_size) {
                    next -= 1;
                    table.push(next);
                }
            }
        }
        tables
    }

    fn cache(&self, ctx: &Context, plain: bool) -> KvCache {
        let ctx = if plain { &ctx.plain_on(Device::Cpu) } else { ctx };
        KvCache::new(ctx, self.blocks(), self.block_size, self.kv_heads, self.head_dim, self.dtype).unwrap()
    }

    /// Returns numbers that depend on sequence, position and `kind` alone.
    fn rows(&self, kind: u32, heads: usize, step: &Step) -> Tensor {
        let width = heads * self.head_dim;
        let mut rows = Vec::new();
        for (seq, (from, to)) in step.iter().enumerate() {
            for position in *from..*to {
                let number = |i| uniform(kind.into(), seq as u32, position as u32, i) * 4.0 - 2.0;
                rows.extend((0..width as u32).map(number));
            }
        }
        let tokens = rows.len() / width;
        Tensor::from_vec(rows, (tokens, heads, self.head_dim), &Device::Cpu).unwrap()
    }

    /// Runs the steps and returns the output rows of each sequence, in order of position.
    fn run(&self, ctx: &Context, plain: bool, steps: &[Step]) -> Vec<Vec<f32>> {
        let (mut cache, tables) = (self.cache(ctx, plain), self.tables());
        let mut outputs = vec![Vec::new(); self.lengths.len()];
        let attend = if plain { plain::paged_attention } else { paged_attention };
        for step in steps {
            let heads = self.kv_head_of.len();
            let q = self.rows(1, heads, step);
            let (k, v) = (self.rows(2, self.kv_heads, step), self.rows(3, self.kv_heads, step));
            let mut first_row = 0;
            let mut seqs = Vec::new();
            for ((from, to), block_table) in step.iter().zip(&tables) {
                let rows = to - from;
                seqs.push(AttentionSeq { first_row, rows, position: *from, block_table });
                first_row += rows;
            }
            let out = attend(ctx, &q, &k, &v, &mut cache, &seqs, &self.params()).unwrap();
            let out: Vec<f32> = out.flatten_all().unwrap().to_vec1().unwrap();
            let width = heads * self.head_dim;
            for (output, seq) in outputs.iter_mut().zip(&seqs) {
                let end = seq.first_row + seq.rows;
                output.extend_from_slice(&out[seq.first_row * width..end * width]);
            }
        }
        outputs
    }

    fn whole(&self) -> Vec<Step> {
        vec![self.lengths.iter().map(|length| (0, *length)).collect()]
    }

    /// Returns steps that run each sequence by itself, first to last.
    fn alone(&self) -> Vec<Step> {
        let one = |alone: usize| {
            let rows = |(seq, length): (usize, &usize)| (0, if seq == alone { *length } else { 0 });
            self.lengths.iter().enumerate().map(rows).collect()
        };
        (0..self.lengths.len()).map(one).collect()
    }

    /// Returns steps that run all sequences together in chunks of growing size, single rows among them.
    fn chunked(&self) -> Vec<Step> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let (mut steps, mut at, mut size) = (Vec::new(), 0, 1);
        while at < longest {
            let to = at + size;
            steps.push(self.lengths.iter().map(|n| (at.min(*n), to.min(*n))).collect());
            (at, size) = (to, if size > 60 { 1 } else { 2 * size + 1 });
        }
        steps
    }
}

fn contexts() -> Vec<Context> {
    let sets = Isa::available();
    let make = |(i, isa): (usize, &Isa)| Context::cpu(1 + i).unwrap().force_isa(isa.name()).unwrap();
    sets.iter().enumerate().map(make).collect()
}

#[test]
fn attention_matches_the_plain_function() {
    for (index, case) in cases().iter().enumerate() {
        for ctx in contexts() {
            let got = case.run(&ctx, false, &case.whole());
            let expected = case.run(&ctx, true, &case.whole());
            for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
                assert!((got - expected).abs() < 2e-5, "case {index}, {}", ctx.isa());
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_batch() {
    let contexts = contexts();
    for (index, case) in cases().iter().enumerate() {
        let expected = case.run(&contexts[0], false, &case.whole());
        for ctx in &contexts {
            for steps in [case.whole(), case.alone(), case.chunked()] {
                let got = case.run(ctx, false, &steps);
                assert!(got == expected, "case {index}, {}, {} steps", ctx.isa(), steps.len());
            }
        }
    }
}

#[test]
fn bytes_per_block_counts_keys_and_values() {
    let bytes = |block, dim, dtype| KvCache::bytes_per_block(block, 2, dim, dtype);
    assert_eq!(bytes(16, 64, DType::BF16), 2 * 16 * 2 * 64 * 2);
    assert_eq!(bytes(32, 128, DType::F32), 2 * 32 * 2 * 128 * 4);
    // One group of 16 keys of 8 pairs, and four values of 16.
    assert_eq!(bytes(4, 15, DType::BF16), 2 * (16 * 16 + 4 * 16) * 2);
}

#[test]
fn rows_of_no_sequence_stay_zero() {
    let ctx = Context::cpu(1).unwrap();
    let case = Case { kv_head_of: vec![0, 1], lengths: vec![6], ..BASE };
    let (q, k) = (case.rows(1, 2, &vec![(0, 6)]), case.rows(2, 2, &vec![(0, 6)]));
    let table = [0];
    let seqs = [AttentionSeq { first_row: 2, rows: 1, position: 0, block_table: &table }];
    for plain in [false, true] {
        let mut cache = case.cache(&ctx, plain);
        let out = paged_attention(&ctx, &q, &k, &k, &mut cache, &seqs, &case.params()).unwrap();
        let sums = out.abs().unwrap().sum((1, 2)).unwrap().to_vec1::<f32>().unwrap();
        assert!(sums.iter().enumerate().all(|(row, sum)| (*sum == 0.0) == (row != 2)), "{sums:?}");
    }
}

#[test]
fn bad_arguments_are_refused() {
    let ctx = Context::cpu(1).unwrap();
    let case = Case { kv_head_of: vec![0, 0, 1], lengths: vec![32], ..BASE };
    let (q, k) = (case.rows(1, 3, &vec![(0, 4)]), case.rows(2, 2, &vec![(0, 4)]));
    let seq = |first_row, rows, position, block_table| AttentionSeq { first_row, rows, position, block_table };
    let cases: [(Vec<AttentionSeq>, &str); 4] = [
        (vec![seq(0, 5, 0, &[0, 1])], "sequence rows"),
        (vec![seq(0, 2, 0, &[0]), seq(1, 2, 0, &[1])], "sequence rows"),
        (vec![seq(0, 4, 13, &[0])], "block table"),
        (vec![seq(0, 4, 0, &[2])], "block table"),
    ];
    for (seqs, culprit) in cases {
        let mut cache = case.cache(&ctx, false);
        let result = paged_attention(&ctx, &q, &k, &k, &mut cache, &seqs, &case.params());
        let message = result.unwrap_err().to_string();
        assert!(message.contains(culprit), "{message}");
    }
    let zero = KvCache::new(&ctx, 1, 0, 1, 1, DType::F32);
    assert!(zero.unwrap_err().to_string().contains("block_size"));
}
