//! Perplexity of a model over a text, in f32 and in each format that matrices can be quantized to.
//!
//! `cargo run --release -p lockstep-engine --example perplexity -- SOURCE TEXT-FILE [WINDOW]`. The text is cut into windows
//! of so many tokens; the first token of each is given.

use std::collections::VecDeque;

use lockstep_collectives::Group;
use lockstep_collectives::solo::Solo;
use lockstep_engine::{DTypeChoice, EngineError, Quantization, Runner, RunnerConfig, describe, open};
use lockstep_schedule::plan::{Admission, PlanEntry, PlanTokens, SamplingParams, SeqId, StepPlan};

const BLOCK_SIZE: u32 = 16;
/// Windows that are computed at once.
const BATCH: usize = 32;

fn usage(error: impl std::fmt::Display) -> EngineError {
    EngineError::Usage(error.to_string())
}

fn main() -> Result<(), EngineError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, text, ..] = arguments.as_slice() else { return Err(usage("give SOURCE and TEXT-FILE")) };
    let window = arguments.get(2).map_or(Ok(64), |window| window.parse().map_err(usage))?;
    let tokenizer =
        tokenizers::Tokenizer::from_bytes(describe(open(source)?.as_ref())?.tokenizer_json).map_err(usage)?;
    let text = std::fs::read_to_string(text).map_err(usage)?;
    let ids = tokenizer.encode(text, false).map_err(usage)?.get_ids().to_vec();
    let choices = [
        (DTypeChoice::F32, Quantization::None),
        (DTypeChoice::Bf16, Quantization::None),
        (DTypeChoice::F32, Quantization::Q8_0),
        (DTypeChoice::F32, Quantization::Q4K),
    ];
    for (dtype, quantization) in choices {
        let (sum, count) = negative_log_likelihood(source, &ids, window, dtype, quantization)?;
        println!("{dtype:?}, {quantization}: {:.4} over {count} tokens", (sum / count as f64).exp());
    }
    Ok(())
}

/// The sum over the tokens that are predicted, and how many those are.
fn negative_log_likelihood(
    source: &str,
    ids: &[u32],
    window: usize,
    dtype: DTypeChoice,
    quantization: Quantization,
) -> Result<(f64, usize), EngineError> {
    let blocks = u32::try_from(window).map_err(usage)?.div_ceil(BLOCK_SIZE);
    let config = RunnerConfig {
        files: open(source)?,
        dtype,
        quantization,
        grid: Group::solo().into(),
        block_size: BLOCK_SIZE,
        context_length: None,
        max_num_batched_tokens: BATCH as u32,
        max_num_seqs: BATCH as u32,
        threads: 2,
        oversubscribed: false,
        isa: None,
        progress: std::sync::Arc::default(),
    };
    let mut runner = Runner::load(config, &mut |_, _| {})?;
    let mut windows: VecDeque<&[u32]> = ids.chunks_exact(window).collect();
    let (mut sum, mut count, mut epoch) = (0.0, 0, 0);
    while !windows.is_empty() {
        let batch: Vec<&[u32]> = windows.drain(..windows.len().min(BATCH)).collect();
        epoch += 1;
        runner.form(epoch, Solo::new()?, blocks * BATCH as u32)?;
        for position in 0..window - 1 {
            let step = runner.step_with_logits(&plan(epoch, position, &batch, blocks))?;
            for (logits, ids) in step.logits.iter().zip(&batch) {
                sum -= log_probability(logits, ids[position + 1] as usize);
                count += 1;
            }
        }
    }
    Ok((sum, count))
}

/// The token at `position` of every window.
fn plan(epoch: u64, position: usize, batch: &[&[u32]], blocks: u32) -> StepPlan {
    let entry = |(index, ids): (usize, &&[u32])| PlanEntry {
        seq: index as SeqId,
        position: position as u32,
        tokens: PlanTokens::Given(vec![ids[position]]),
        new_blocks: if position == 0 {
            (index as u32 * blocks..(index as u32 + 1) * blocks).collect()
        } else {
            Vec::new()
        },
        sample: true,
        allowed: None,
    };
    let admit = (0..batch.len())
        .filter(|_| position == 0)
        .map(|index| Admission::new(index as SeqId, SamplingParams::default()));
    let entries = batch.iter().enumerate().map(entry).collect();
    StepPlan { epoch, step: position as u64 + 1, forget: Vec::new(), admit: admit.collect(), entries }
}

fn log_probability(logits: &[f32], id: usize) -> f64 {
    let greatest = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
    f64::from(logits[id] - greatest) - sum.ln()
}
