//! `lockstep-agent bench`: prefill and decode of the whole group, measured where its clients begin.
//!
//! The head submits batches of random prompts as token ids to its own schedule; plans, ranks, kernels and ring are those
//! of serving. A worker's line is the head's.

mod measure;
mod report;

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, bail};
use lockstep_api::Inference;
use lockstep_proto::v1::ClusterStatus;

use crate::config::BenchConfig;
use crate::progress;
use measure::Load;
use report::{Report, Row};

/// Tokens before the first one of a measured decode: short, so that little but the weights is read.
const DECODE_PROMPT: u32 = 32;

/// Waits until the group serves, measures, and prints the report to standard output.
///
/// # Errors
/// The batch does not fit the group, a request fails, or the group lost a rank meanwhile.
pub async fn run(inference: Inference, config: BenchConfig) -> anyhow::Result<()> {
    progress::wait_until_served(inference.status(), io::stderr().is_terminal()).await?;
    let before = inference.status().borrow().clone();
    let rows = rows(&inference, &config, &before).await?;
    let after = inference.status().borrow().clone();
    if (after.epoch, after.recoveries) != (before.epoch, before.recoveries) {
        bail!("the group formed anew while it was measured: the figures mean nothing; run it again");
    }
    let report = Report::new(&config, &after, rows);
    crate::chat::print(&if config.json { report.json()? } else { report.text() })?;
    Ok(())
}

async fn rows(inference: &Inference, config: &BenchConfig, status: &ClusterStatus) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut seed = 0;
    for batch in config.batch_sizes.iter().copied() {
        let prefill = Load { batch, prompt: config.prompt_tokens, answer: 1 };
        let decode = Load { batch, prompt: DECODE_PROMPT, answer: config.answer_tokens };
        let mut row = Row { batch, prefill: Vec::new(), decode: Vec::new() };
        for load in [prefill, decode] {
            load.check(status)?;
        }
        // The first round warms caches up and counts for nothing.
        for round in 0..=config.rounds {
            let times =
                [measure::run(inference, prefill, seed).await?, measure::run(inference, decode, seed + 1).await?];
            seed += 2;
            if round > 0 {
                row.prefill.push(times[0].prefill_rate());
                row.decode.push(times[1].decode_rate().with_context(|| too_short(decode))?);
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

fn too_short(decode: Load) -> String {
    let Load { batch, answer, .. } = decode;
    format!(
        "the first of {batch} answers of {answer} tokens ended before the last began, so that no time has all of them: \
         ask for longer ones with --answer-tokens"
    )
}
