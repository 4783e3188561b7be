//! Perplexity of a Llama over a text, in every format that matrices can be kept in.
//!
//! `cargo run --release -p lockstep-engine --example perplexity -- [SOURCE] [TEXT-FILE] [WINDOW]`. SOURCE is a Llama
//! whose weights are one file `model.safetensors`. Default: `builtin://tiny`. The text is cut into windows of WINDOW
//! tokens. Default: 64. The first token of each window is given, and the others are predicted. Without TEXT-FILE the
//! text is made from the builtin model's corpus: see [`conversations`].

mod gguf;

use std::collections::VecDeque;

use candle_core::quantized::GgmlDType;
use lockstep_collectives::RankGroup;
use lockstep_collectives::solo::Solo;
use lockstep_engine::{BlockFormat, DType, Devices, EngineError, Runner, RunnerConfig, describe, open};
use lockstep_schedule::plan::{Admission, PlanEntry, PlanTokens, SamplingParams, SeqId, StepPlan};

const BLOCK_SIZE: u32 = 16;
/// Windows that are computed at once.
const BATCH: usize = 32;

fn usage(error: impl std::fmt::Display) -> EngineError {
    EngineError::Usage(error.to_string())
}

/// One way to keep the matrices.
enum Format {
    /// Floating-point numbers.
    Kept(DType),
    /// Blocks that are made while loading.
    Quantized(BlockFormat),
    /// Numbers or blocks of a GGUF file, which this program writes with candle's encoder.
    File(GgmlDType),
}

fn main() -> Result<(), EngineError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let source = arguments.first().map_or("builtin://tiny", String::as_str);
    let window = arguments.get(2).map_or(Ok(64), |window| window.parse().map_err(usage))?;
    let text = match arguments.get(1) {
        Some(file) => std::fs::read_to_string(file).map_err(usage)?,
        None => conversations()?,
    };
    let checkpoint = open(source)?;
    let model = describe(checkpoint.as_ref())?;
    let tokenizer = tokenizers::Tokenizer::from_bytes(&model.tokenizer_json).map_err(usage)?;
    let ids = tokenizer.encode(text, false).map_err(usage)?.get_ids().to_vec();
    let kept = [DType::F32, DType::BF16, DType::F16].map(Format::Kept);
    let made = BlockFormat::ALL.into_iter().filter(|format| format.is_encodable()).map(Format::Quantized);
    let files = [GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q8_0, GgmlDType::Q4_0].map(Format::File);
    let folder = tempfile::tempdir().map_err(usage)?;
    let path = folder.path().join("model.gguf");
    for format in kept.into_iter().chain(made).chain(files) {
        let likelihood = |dtype, quantization| negative_log_likelihood(source, &ids, window, dtype, quantization);
        let (name, (sum, count)) = match format {
            Format::Kept(dtype) => (format!("{dtype:?}"), likelihood(Some(dtype), None)?),
            Format::Quantized(to) => {
                (format!("{} made while loading", to.name()), likelihood(Some(DType::F32), Some(to))?)
            }
            Format::File(format) => {
                gguf::write(checkpoint.as_ref(), &model.config, format, &path)?;
                let path = path.display().to_string();
                let likelihood = negative_log_likelihood(&path, &ids, window, Some(DType::F32), None)?;
                (format!("{format:?} from a GGUF file"), likelihood)
            }
        };
        println!("{name}: {:.4} over {count} tokens", (sum / count as f64).exp());
    }
    Ok(())
}

/// Returns the corpus as conversations in the model's template. Questions and answers with alternatives (`{a|b}`) are
/// left out. Each answer follows the first remaining question of its topic.
fn conversations() -> Result<String, EngineError> {
    let mut text = String::new();
    for file in ["use", "parts", "failure", "inside"] {
        let path = format!("{}/builtin/corpus/{file}.txt", env!("CARGO_MANIFEST_DIR"));
        let corpus = std::fs::read_to_string(path).map_err(usage)?;
        let mut question = None;
        for line in corpus.lines().filter(|line| !line.contains(['{', '|'])) {
            match line.split_once(' ') {
                Some(("==", _)) => question = None,
                Some(("q:", asked)) => _ = question.get_or_insert(asked),
                Some(("a:", answer)) => {
                    let Some(question) = question else { continue };
                    text += &format!("<s><|user|>{question}<|end|><|assistant|>{answer}<|end|>");
                }
                _ => {}
            }
        }
    }
    Ok(text)
}

/// Returns the sum over the predicted tokens, and the number of these tokens.
fn negative_log_likelihood(
    source: &str,
    ids: &[u32],
    window: usize,
    dtype: Option<DType>,
    quantization: Option<BlockFormat>,
) -> Result<(f64, usize), EngineError> {
    let blocks = u32::try_from(window).map_err(usage)?.div_ceil(BLOCK_SIZE);
    let config = RunnerConfig {
        files: open(source)?,
        dtype,
        quantization,
        grid: RankGroup::solo().into(),
        block_size: BLOCK_SIZE,
        context_length: None,
        max_num_batched_tokens: BATCH as u32,
        max_num_seqs: BATCH as u32,
        threads: 2,
        oversubscribed: false,
        isa: None,
        devices: Devices::default(),
        progress: std::sync::Arc::default(),
    };
    let mut runner = Runner::load(config, &mut |_, _| {})?;
    let mut windows: VecDeque<&[u32]> = ids.chunks_exact(window).collect();
    let (mut sum, mut count, mut epoch) = (0.0, 0, 0);
    while !windows.is_empty() {
        let batch: Vec<&[u32]> = windows.drain(..windows.len().min(BATCH)).collect();
        epoch += 1;
        runner.start_epoch(epoch, Solo::new()?, blocks * BATCH as u32)?;
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

/// Builds the plan of the step that computes the token at `position` of every window.
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
        prompt_targets: None,
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
