//! Every family in every format at every grid of ranks.
//!
//! Two yardsticks: the reference, which does the same arithmetic in f64 and is therefore near; and what transformers
//! computed with the checkpoint in f32, from which a format is as far as it costs.

use crate::common::{Expected, Ranks, Setup, expected, fixtures};
use crate::parity::plan;
use crate::reference::Reference;
use lockstep_engine::{BlockFormat, DType, Runner, describe, open};
use lockstep_schedule::plan::PlanTokens;

/// Ranks and pipeline stages.
const GRIDS: [(usize, usize); 4] = [(1, 1), (2, 1), (3, 1), (4, 2)];
/// Longest prompt that is computed: windows slide within it.
const LONGEST: usize = 33;
/// Distance from the reference that is no more than the order of sums.
const NEAR: f64 = 1e-4;

/// A format, and how far it may lead.
struct Format {
    dtype: Option<DType>,
    quantization: Option<BlockFormat>,
    /// Share of the rows of logits that must be near the reference. The others are where a number that f32 and f64 put on
    /// two sides of a rounding changed those after it.
    near: f64,
    /// Furthest that a logit may then be from the reference; logits reach about 4.
    far: f64,
    /// Root of the mean square that logits may be from those of transformers in f32, over that of the latter.
    cost: f64,
}

const F32: Format = Format { dtype: Some(DType::F32), quantization: None, near: 1.0, far: NEAR, cost: 1e-5 };

#[test]
fn f32_is_near() {
    check(&F32);
}

/// Keys and values are rounded as they are cached.
#[test]
fn bf16_is_near() {
    check(&Format { dtype: Some(DType::BF16), near: 0.9, far: 0.01, cost: 0.03, ..F32 });
}

#[test]
fn f16_is_near() {
    check(&Format { dtype: Some(DType::F16), near: 0.9, far: 0.002, cost: 0.005, ..F32 });
}

/// Activations are rounded before each product. What the formats cost is much in models so narrow and random.
#[test]
fn q8_0_is_near() {
    check(&Format { quantization: Some(BlockFormat::Q8_0), near: 0.9, far: 0.2, cost: 0.25, ..F32 });
}

#[test]
fn q4_k_is_near() {
    check(&Format { quantization: Some(BlockFormat::Q4K), near: 0.9, far: 0.2, cost: 0.75, ..F32 });
}

/// One format in every family on every grid that it has layers for.
fn check(format: &Format) {
    let (mut near, mut rows) = (0, 0);
    for fixture in fixtures() {
        let cases: Vec<Expected> = expected(fixture).into_iter().filter(|case| case.prompt.len() <= LONGEST).collect();
        for (world_size, stages) in GRIDS {
            let Format { dtype, quantization, .. } = *format;
            let setup = Setup { stages, dtype, quantization, ..Setup::new(fixture, world_size) };
            let (got, reference) = (logits(&cases, &setup), Reference::new(fixture, &setup));
            let mut cost = Sums::default();
            for (case, got) in cases.iter().zip(&got) {
                let exact = reference.logits(&[&case.prompt[..], &case.greedy[..1]].concat());
                for (position, got) in (case.prompt.len() - 1..).zip(got) {
                    let far = furthest(&exact[position], got);
                    assert!(far < format.far, "{setup:?}, {} tokens: {far}", case.prompt.len());
                    near += usize::from(far < NEAR);
                    rows += 1;
                    let known = case.positions.iter().position(|known| *known == position).unwrap();
                    cost.add(&case.logits[known], got);
                }
            }
            assert!(cost.share() < format.cost, "{setup:?}: {}", cost.share());
        }
    }
    println!("{:?}, {:?}: {near} of {rows} rows are near", format.dtype, format.quantization);
    assert!(rows > 0 && near as f64 >= format.near * rows as f64, "{near} of {rows} rows are near");
}

fn furthest(exact: &[f64], got: &[f32]) -> f64 {
    assert_eq!(exact.len(), got.len());
    exact.iter().zip(got).map(|(exact, got)| (exact - f64::from(*got)).abs()).fold(0.0, f64::max)
}

/// Squares of distances, and of what they are distances from.
#[derive(Default)]
struct Sums {
    distances: f64,
    whole: f64,
}

impl Sums {
    fn add(&mut self, from: &[f32], got: &[f32]) {
        self.distances += from.iter().zip(got).map(|(from, got)| f64::from(from - got).powi(2)).sum::<f64>();
        self.whole += from.iter().map(|from| f64::from(*from).powi(2)).sum::<f64>();
    }

    fn share(&self) -> f64 {
        (self.distances / self.whole).sqrt()
    }
}

/// The logits after each prompt, and after one token more.
fn logits(cases: &[Expected], setup: &Setup) -> Vec<[Vec<f32>; 2]> {
    let ranks = Ranks::start(setup);
    let prompts: Vec<_> = cases.iter().map(|case| (0, PlanTokens::Given(case.prompt.clone()))).collect();
    let first = ranks.step(&plan(&ranks, 1, setup, &prompts)).logits;
    let next: Vec<_> = cases.iter().map(|case| (case.prompt.len(), PlanTokens::Given(vec![case.greedy[0]]))).collect();
    let second = ranks.step(&plan(&ranks, 2, setup, &next)).logits;
    first.into_iter().zip(second).map(|(first, second)| [first, second]).collect()
}

#[test]
fn more_ranks_than_there_are_parts_are_refused() {
    for family in fixtures() {
        let model = describe(open(&Setup::new(family, 1).source).unwrap().as_ref()).unwrap();
        let (largest, layers) = (model.largest_world_size, model.config.num_layers);
        let refused = |setup: Setup| Runner::load(setup.config(0), &mut |_, _| {}).unwrap_err().to_string();
        let message = refused(Setup::new(family, largest + 1));
        assert!(message.contains(&format!("the largest world size is {largest}")), "{family}: {message}");
        let message = refused(Setup { stages: layers + 1, ..Setup::new(family, layers + 1) });
        assert!(message.contains(&format!("{layers} layers")), "{family}: {message}");
    }
}

#[test]
fn a_quantized_rank_says_so() {
    for (quantization, dtype, expected) in
        [(Some(BlockFormat::Q8_0), None, "q8_0"), (Some(BlockFormat::Q4K), Some(DType::BF16), "q4_k")]
    {
        let setup = Setup { quantization, dtype, ..Setup::new("qwen3", 2) };
        let runner = Runner::load(setup.config(1), &mut |_, _| {}).unwrap();
        assert_eq!(runner.facts().dtype, expected);
    }
}
