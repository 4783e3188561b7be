//! Conversion of the targets and log-probabilities of prompts. A chunk has many of them, so each list is packed.

use lockstep_proto::node as pb;
use lockstep_schedule::plan::{PromptLogprobs, PromptTargets, PromptToken, TokenLogprobs};

pub(super) fn targets_to_wire(targets: &PromptTargets) -> pb::PromptTargets {
    let PromptTargets { first_row, tokens, top } = targets;
    pb::PromptTargets { first_row: *first_row, tokens: tokens.clone(), top: *top }
}

pub(super) fn targets_from_wire(wire: pb::PromptTargets) -> PromptTargets {
    PromptTargets { first_row: wire.first_row, tokens: wire.tokens, top: wire.top }
}

/// Converts the log-probabilities of prompts to their messages.
pub(crate) fn logprobs_to_wire(prompts: Vec<PromptLogprobs>) -> Vec<pb::PromptLogprobs> {
    let to_wire = |prompt: PromptLogprobs| {
        let mut wire = pb::PromptLogprobs { seq: prompt.seq, ..Default::default() };
        for token in prompt.tokens {
            wire.logprobs.push(token.logprobs.chosen);
            wire.ranks.push(token.rank);
            for (id, logprob) in token.logprobs.top {
                wire.top_ids.push(id);
                wire.top_logprobs.push(logprob);
            }
        }
        wire
    };
    prompts.into_iter().map(to_wire).collect()
}

/// Converts the log-probabilities of one prompt from their message.
pub(super) fn logprobs_from_wire(wire: pb::PromptLogprobs) -> Result<PromptLogprobs, String> {
    let pb::PromptLogprobs { seq, logprobs, ranks, top_ids, top_logprobs } = wire;
    let num_tokens = logprobs.len();
    if ranks.len() != num_tokens {
        return Err(format!("sequence {seq} has {num_tokens} log-probabilities with {} ranks", ranks.len()));
    }
    let top = top_ids.len() / num_tokens.max(1);
    if top_ids.len() != top_logprobs.len() || top_ids.len() != top * num_tokens {
        let (ids, numbers) = (top_ids.len(), top_logprobs.len());
        return Err(format!(
            "sequence {seq} has {ids} likely tokens with {numbers} log-probabilities for {num_tokens} tokens"
        ));
    }
    let mut likely = top_ids.into_iter().zip(top_logprobs);
    let token = |(chosen, rank)| PromptToken {
        logprobs: TokenLogprobs { chosen, top: likely.by_ref().take(top).collect() },
        rank,
    };
    Ok(PromptLogprobs { seq, tokens: logprobs.into_iter().zip(ranks).map(token).collect() })
}
