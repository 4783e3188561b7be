//! The measurement of one batch: all requests are submitted at once and followed to their ends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use lockstep_api::{Event, Inference, Submission};
use lockstep_proto::v1::ClusterStatus;
use lockstep_schedule::plan::SamplingParams;

use crate::config::BLOCK_SIZE;

/// Number of first tokens in which prompts differ. It suffices for the prompts of all rounds.
const SEED_TOKENS: u32 = 8;

/// Sequences of a batch, and the tokens of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLoad {
    pub batch: u32,
    pub prompt: u32,
    pub answer: u32,
}

impl BatchLoad {
    /// Checks that the batch fits the group.
    ///
    /// # Errors
    /// A sequence is longer than the context, or the KV cache does not hold all sequences at once.
    pub(super) fn check(self, status: &ClusterStatus) -> anyhow::Result<()> {
        let Self { batch, prompt, answer } = self;
        let (each, context) = (prompt + answer, status.model_info.as_ref().map_or(0, |model| model.context_length));
        if each > context {
            bail!(
                "{prompt} tokens of prompt and {answer} of answer do not fit into a context of {context}: ask for fewer tokens"
            );
        }
        let (needed, total) = (batch * each.div_ceil(BLOCK_SIZE), status.kv_blocks_total);
        if needed > total {
            bail!(
                "{batch} sequences of {each} tokens take {needed} blocks of the KV cache, and it has {total}: enlarge it with \
                 --kv-cache-memory, or ask for smaller batches"
            );
        }
        Ok(())
    }
}

/// Times at which a batch's tokens arrived.
#[derive(Debug)]
pub(super) struct BatchTimes {
    /// Tokens of all prompts.
    prompt_tokens: u32,
    submitted: Instant,
    /// Times of each sequence's tokens, at least one for each sequence.
    tokens: Vec<Vec<Instant>>,
}

impl BatchTimes {
    /// Returns the tokens of prompts per second, until the last sequence has its first token.
    pub(super) fn prefill_rate(&self) -> f64 {
        per_second(self.prompt_tokens as usize, self.all_run_from() - self.submitted)
    }

    /// Returns the tokens per second while all sequences decode, or `None` if the first sequence ended before the last began.
    pub(super) fn decode_rate(&self) -> Option<f64> {
        let all_run = self.all_run_from();
        let first_end = self.tokens.iter().filter_map(|times| times.last()).min().copied()?;
        if first_end <= all_run {
            return None;
        }
        let within = |time: &&Instant| (all_run..=first_end).contains(*time);
        let counted: usize = self.tokens.iter().map(|times| times.iter().filter(within).count()).sum();
        // The first token of each sequence in this interval was computed before the interval.
        Some(per_second(counted.saturating_sub(self.tokens.len()), first_end - all_run))
    }

    /// Returns the time from which all sequences run.
    fn all_run_from(&self) -> Instant {
        self.tokens.iter().filter_map(|times| times.first()).max().copied().unwrap_or(self.submitted)
    }
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// Runs one batch. Each `seed` gives other prompts.
///
/// # Errors
/// A request is refused or fails, or a prompt was in the prefix cache.
pub(super) async fn run(inference: &Inference, load: BatchLoad, seed: u64) -> anyhow::Result<BatchTimes> {
    let vocabulary = inference.status().borrow().model_info.as_ref().map_or(0, |model| model.vocab_size).max(1);
    let submitted = Instant::now();
    let follow_one = |sequence: u32| {
        let prompt = make_prompt(seed * u64::from(load.batch) + u64::from(sequence), load.prompt, vocabulary);
        follow_request(inference, prompt, load.answer)
    };
    let tokens = try_join_all((0..load.batch).map(follow_one)).await?;
    Ok(BatchTimes { prompt_tokens: load.batch * load.prompt, submitted, tokens })
}

/// Returns a prompt whose first tokens encode `number`.
fn make_prompt(number: u64, tokens: u32, vocabulary: u32) -> Vec<u32> {
    let base = u64::from(vocabulary);
    let token = |at: u32| match at {
        0..SEED_TOKENS => number / base.saturating_pow(at) % base,
        _ => (u64::from(at) * 7 + number * 31) % base,
    };
    (0..tokens).map(|at| token(at) as u32).collect()
}

async fn follow_request(inference: &Inference, prompt: Vec<u32>, answer: u32) -> anyhow::Result<Vec<Instant>> {
    let submission = Submission {
        request_id: "bench".into(),
        prompt,
        priority: 0,
        cache_salt: String::new(),
        sampling: SamplingParams::default(),
        max_tokens: answer,
        stop_token_ids: Vec::new(),
        deadline: None,
        guide: None,
        prompt_logprobs: None,
    };
    let mut events = inference.submit(submission).await.context("submit a request")?;
    let mut times = Vec::with_capacity(answer as usize);
    while let Some(event) = events.recv().await {
        match event {
            Event::Started { cached_tokens: 0 } => {}
            Event::Started { cached_tokens } => bail!("{cached_tokens} tokens of a random prompt were cached"),
            Event::Prompt { .. } => {}
            Event::Token { .. } => times.push(Instant::now()),
            Event::Finished(_) if times.len() == answer as usize => return Ok(times),
            Event::Finished(reason) => bail!("an answer ended after {} of {answer} tokens: {reason:?}", times.len()),
            Event::Cancelled => bail!("an answer was cancelled after {} of {answer} tokens", times.len()),
            Event::Failed(error) => return Err(error).context("follow a request"),
        }
    }
    bail!("the head ended during the measurement: its log gives the reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_within_their_first_block() {
        let heads: std::collections::BTreeSet<Vec<u32>> =
            (0..10_000).map(|number| make_prompt(number, 20, 288)[..16].to_vec()).collect();
        assert_eq!(heads.len(), 10_000);
        assert!(heads.iter().flatten().all(|token| *token < 288));
        assert_eq!(make_prompt(5, 3, 2), [1, 0, 1]);
    }

    #[test]
    fn the_rates_count_only_tokens_within_their_interval() {
        let submitted = Instant::now();
        let at = |tenths: &[u64]| tenths.iter().map(|time| submitted + Duration::from_millis(time * 100)).collect();
        let times =
            BatchTimes { prompt_tokens: 40, submitted, tokens: vec![at(&[5, 20, 30, 40, 50]), at(&[20, 30, 40, 50])] };
        assert_eq!(times.prefill_rate(), 20.0);
        assert_eq!(times.decode_rate(), Some(2.0));
        let apart = BatchTimes { prompt_tokens: 40, submitted, tokens: vec![at(&[5, 20]), at(&[20, 30])] };
        assert_eq!(apart.decode_rate(), None);
    }

    #[test]
    fn a_batch_that_does_not_fit_is_refused() {
        let model = lockstep_proto::v1::ModelInfo { context_length: 100, ..Default::default() };
        let status = ClusterStatus { kv_blocks_total: 10, model_info: Some(model), ..Default::default() };
        let load =
            |batch, prompt| BatchLoad { batch, prompt, answer: 8 }.check(&status).map_err(|error| error.to_string());
        assert_eq!(load(2, 72), Ok(()));
        assert!(load(3, 72).unwrap_err().contains("take 15 blocks"));
        assert!(load(1, 93).unwrap_err().contains("a context of 100"));
    }
}
