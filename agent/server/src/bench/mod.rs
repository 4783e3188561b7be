//! `lockstep-agent bench`: the measurement of prefill and decode of the whole group.
//!
//! The head submits batches of random prompts as token ids to its own schedule. Plans, ranks, kernels and ring are the same
//! as in serving. A worker is started with the same command line as the head.

mod measure;
mod report;

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, bail};
use lockstep_api::Inference;
use lockstep_proto::v1::ClusterStatus;

use crate::config::BenchConfig;
use crate::progress;
use measure::BatchLoad;
use report::{BenchReport, Row};

/// Tokens of a prompt in the measurement of decode. It is short, so that a step reads little besides the weights.
const DECODE_PROMPT: u32 = 32;

/// Waits until the group serves, measures, and prints the report to standard output.
///
/// # Errors
/// A batch does not fit the group, a request fails, or the group loses a rank during the measurement.
pub(crate) async fn run(inference: Inference, config: BenchConfig) -> anyhow::Result<()> {
    progress::wait_until_served(inference.status(), io::stderr().is_terminal()).await?;
    let before = inference.status().borrow().clone();
    let rows = measure_rows(&inference, &config, &before).await?;
    let after = inference.status().borrow().clone();
    if (after.epoch, after.recoveries) != (before.epoch, before.recoveries) {
        bail!("the group formed again during the measurement, so the figures are wrong: run it again");
    }
    let report = BenchReport::new(&config, &after, rows);
    crate::chat::print(&if config.json { report.json()? } else { report.text() })?;
    Ok(())
}

async fn measure_rows(inference: &Inference, config: &BenchConfig, status: &ClusterStatus) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut seed = 0;
    for batch in config.batch_sizes.iter().copied() {
        let prefill = BatchLoad { batch, prompt: config.prompt_tokens, answer: 1 };
        let decode = BatchLoad { batch, prompt: DECODE_PROMPT, answer: config.answer_tokens };
        let mut row = Row { batch, prefill: Vec::new(), decode: Vec::new() };
        for load in [prefill, decode] {
            load.check(status)?;
        }
        // The first round warms up the caches, and its times do not count.
        for round in 0..=config.rounds {
            let times =
                [measure::run(inference, prefill, seed).await?, measure::run(inference, decode, seed + 1).await?];
            seed += 2;
            if round > 0 {
                row.prefill.push(times[0].prefill_rate());
                row.decode.push(times[1].decode_rate().with_context(|| describe_short_decode(decode))?);
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

fn describe_short_decode(decode: BatchLoad) -> String {
    let BatchLoad { batch, answer, .. } = decode;
    format!(
        "the first of {batch} answers of {answer} tokens ended before the last began, so they never ran all at once: ask \
         for longer answers with --answer-tokens"
    )
}
