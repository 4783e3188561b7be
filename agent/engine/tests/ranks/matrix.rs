//! Every family in every format at every grid of ranks.
//!
//! There are two yardsticks. The reference does the same arithmetic in f64, so results are close to it. Transformers
//! computed with the checkpoint in f32, and the distance from its results is the cost of a format.

use crate::builtin;
use crate::common::{ExpectedOutput, GroupSetup, Ranks, fixture_folder, fixtures, load_expected};
use crate::parity::plan;
use crate::reference::Reference;
use lockstep_engine::{BlockFormat, DType, Runner, describe, open};
use lockstep_schedule::plan::PlanTokens;

/// Ranks and pipeline stages.
const GRIDS: [(usize, usize); 4] = [(1, 1), (2, 1), (3, 1), (4, 2)];
/// Most tokens of a prompt that is computed. Windows slide within it.
const MAX_PROMPT_TOKENS: usize = 33;
/// Distance from the reference below which only the order of sums differs.
const CLOSE: f64 = 1e-4;

/// Greatest distance from the reference of a logit of the builtin model, of about 15, if a number is rounded to another side.
const MAX_DISTANCE: f64 = 0.1;

/// A format and its tolerances.
struct Format {
    dtype: Option<DType>,
    quantization: Option<BlockFormat>,
    /// Share of the rows of logits that must be close to the reference. In the other rows, f32 and f64 put a number on
    /// two sides of a rounding, which changed the numbers after it.
    close: f64,
    /// Greatest distance of a logit from the reference in these other rows. Logits reach about 4.
    max_distance: f64,
    /// Greatest root mean square of the distances of logits from those of transformers in f32, divided by the root mean
    /// square of the latter.
    cost: f64,
}

const F32: Format = Format { dtype: Some(DType::F32), quantization: None, close: 1.0, max_distance: CLOSE, cost: 1e-5 };

#[test]
fn f32_is_close_to_the_reference() {
    check(&F32);
}

/// Keys and values are rounded as they are cached.
#[test]
fn bf16_is_close_to_the_reference() {
    check(&Format { dtype: Some(DType::BF16), close: 0.9, max_distance: 0.01, cost: 0.03, ..F32 });
}

#[test]
fn f16_is_close_to_the_reference() {
    check(&Format { dtype: Some(DType::F16), close: 0.9, max_distance: 0.002, cost: 0.005, ..F32 });
}

/// Activations are rounded before each product. The formats cost much in models that are so narrow and random.
#[test]
fn q8_0_is_close_to_the_reference() {
    check(&Format { quantization: Some(BlockFormat::Q8_0), close: 0.9, max_distance: 0.2, cost: 0.25, ..F32 });
}

/// Rows that fill no block of 256 go to Q5_0.
#[test]
fn narrow_q4_k_is_close_to_the_reference() {
    check(&Format { quantization: Some(BlockFormat::Q4K), close: 0.9, max_distance: 0.2, cost: 0.5, ..F32 });
}

/// The builtin model has rows of 256 and 512 numbers, which fill blocks of every format.
#[test]
fn every_format_made_while_loading_is_close_to_the_reference() {
    let (prompt, mut close, mut count) = (&builtin::conversations()[2].prompt, 0, 0);
    for format in BlockFormat::ALL.into_iter().filter(|format| format.is_encodable()) {
        let setup = GroupSetup { quantization: Some(format), ..builtin::setup(1) };
        let mut reference = Reference::new(&builtin::folder(), &setup);
        for (world_size, stages) in [(1, 1), (3, 1), (4, 2)] {
            let setup = GroupSetup { world_size, stages, ..setup.clone() };
            let ranks = Ranks::start(&setup);
            let rows = [(0, PlanTokens::Given(prompt.clone()))];
            let got = ranks.step(&plan(&ranks, 1, &setup, &rows)).logits;
            reference = reference.on_grid_of(&setup);
            let distance = distance(&reference.logits(prompt)[prompt.len() - 1], &got[0]);
            println!("{} at {world_size} ranks in {stages} stages: {distance}", format.name());
            assert!(distance < MAX_DISTANCE, "{setup:?}: {distance}");
            close += usize::from(distance < CLOSE);
            count += 1;
        }
    }
    assert!(close * 10 >= count * 9, "{close} of {count} are close");
}

/// Checks one format in every family on every grid that the family has layers for.
fn check(format: &Format) {
    let (mut close, mut rows, mut most) = (0, 0, 0f64);
    for fixture in fixtures() {
        let cases: Vec<ExpectedOutput> =
            load_expected(fixture).into_iter().filter(|case| case.prompt.len() <= MAX_PROMPT_TOKENS).collect();
        for (world_size, stages) in GRIDS {
            let Format { dtype, quantization, .. } = *format;
            let setup = GroupSetup { stages, dtype, quantization, ..GroupSetup::new(fixture, world_size) };
            let (got, reference) = (logits(&cases, &setup), Reference::new(&fixture_folder(fixture), &setup));
            let mut cost = SquareSums::default();
            for (case, got) in cases.iter().zip(&got) {
                let exact = reference.logits(&[&case.prompt[..], &case.greedy[..1]].concat());
                for (position, got) in (case.prompt.len() - 1..).zip(got) {
                    let distance = distance(&exact[position], got);
                    assert!(distance < format.max_distance, "{setup:?}, {} tokens: {distance}", case.prompt.len());
                    close += usize::from(distance < CLOSE);
                    rows += 1;
                    let known = case.positions.iter().position(|known| *known == position).unwrap();
                    cost.add(&case.logits[known], got);
                }
            }
            assert!(cost.share() < format.cost, "{setup:?}: {}", cost.share());
            most = most.max(cost.share());
        }
    }
    println!("{:?}, {:?}: {close} of {rows} rows are close, errors up to {most}", format.dtype, format.quantization);
    assert!(rows > 0 && close as f64 >= format.close * rows as f64, "{close} of {rows} rows are close");
}

fn distance(exact: &[f64], got: &[f32]) -> f64 {
    assert_eq!(exact.len(), got.len());
    exact.iter().zip(got).map(|(exact, got)| (exact - f64::from(*got)).abs()).fold(0.0, f64::max)
}

/// Sums of squares: of distances, and of the values that they are distances from.
#[derive(Default)]
struct SquareSums {
    distances: f64,
    whole: f64,
}

impl SquareSums {
    fn add(&mut self, from: &[f32], got: &[f32]) {
        self.distances += from.iter().zip(got).map(|(from, got)| f64::from(from - got).powi(2)).sum::<f64>();
        self.whole += from.iter().map(|from| f64::from(*from).powi(2)).sum::<f64>();
    }

    fn share(&self) -> f64 {
        (self.distances / self.whole).sqrt()
    }
}

/// Returns the logits after each prompt, and after one token more.
fn logits(cases: &[ExpectedOutput], setup: &GroupSetup) -> Vec<[Vec<f32>; 2]> {
    let ranks = Ranks::start(setup);
    let prompts: Vec<_> = cases.iter().map(|case| (0, PlanTokens::Given(case.prompt.clone()))).collect();
    let first = ranks.step(&plan(&ranks, 1, setup, &prompts)).logits;
    let next: Vec<_> = cases.iter().map(|case| (case.prompt.len(), PlanTokens::Given(vec![case.greedy[0]]))).collect();
    let second = ranks.step(&plan(&ranks, 2, setup, &next)).logits;
    first.into_iter().zip(second).map(|(first, second)| [first, second]).collect()
}

#[test]
fn more_ranks_or_stages_than_the_model_allows_are_refused() {
    for family in fixtures() {
        let model = describe(open(&GroupSetup::new(family, 1).source).unwrap().as_ref()).unwrap();
        let (largest, layers) = (model.largest_world_size, model.config.num_layers);
        let refused = |setup: GroupSetup| Runner::load(setup.config(0), &mut |_, _| {}).unwrap_err().to_string();
        let message = refused(GroupSetup::new(family, largest + 1));
        assert!(message.contains(&format!("the largest world size is {largest}")), "{family}: {message}");
        let message = refused(GroupSetup { stages: layers + 1, ..GroupSetup::new(family, layers + 1) });
        assert!(message.contains(&format!("{layers} layers")), "{family}: {message}");
    }
}

#[test]
fn the_facts_of_a_quantized_rank_name_its_format() {
    for (quantization, dtype, expected) in
        [(Some(BlockFormat::Q8_0), None, "q8_0"), (Some(BlockFormat::Q4K), Some(DType::BF16), "q4_k")]
    {
        let setup = GroupSetup { quantization, dtype, ..GroupSetup::new("qwen3", 2) };
        let runner = Runner::load(setup.config(1), &mut |_, _| {}).unwrap();
        assert_eq!(runner.facts().dtype, expected);
    }
}
