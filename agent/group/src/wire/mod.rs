//! Conversion of plans and their results to messages of the control stream, and back.
//!
//! This module checks everything that a message alone shows, such as the ranges of numbers. A rank's runner checks the
//! rest, such as block numbers, because that depends on the rank's state.

mod mask;
mod prompts;

use lockstep_proto::node as pb;
use lockstep_schedule::plan::{
    Admission, Penalties, PlanEntry, PlanTokens, Sampled, SamplingParams, StepOutput, StepPlan, TokenHistory,
    TokenLogprobs,
};

/// Largest message that either end of a control stream accepts, in bytes. The largest messages are the plan of a full
/// prefill, to a node, and the Hello, to the head.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Error for a message of the control stream with invalid content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message}: {reason}")]
pub struct Malformed {
    message: &'static str,
    reason: String,
}

/// Returns the number of ranks that compute the layers of a pipeline stage together.
pub(crate) fn tensor_size(assignment: &pb::Assignment) -> u32 {
    assignment.world_size / assignment.pipeline_parallel_size.max(1)
}

/// Returns the rank whose node reports the sampled tokens: the first rank of the last pipeline stage.
pub(crate) fn reporting_rank(assignment: &pb::Assignment) -> u32 {
    assignment.world_size - tensor_size(assignment)
}

/// Converts a plan to its message, without the time at which the head sends it.
pub fn plan_to_wire(plan: &StepPlan) -> pb::StepPlan {
    pb::StepPlan {
        epoch: plan.epoch,
        step: plan.step,
        forget: plan.forget.clone(),
        admit: plan.admit.iter().map(admission_to_wire).collect(),
        entries: plan.entries.iter().map(entry_to_wire).collect(),
        sent_nanos: 0,
    }
}

fn admission_to_wire(admission: &Admission) -> pb::Admit {
    let params = &admission.sampling;
    let (bias_ids, biases) = params.logit_bias.iter().copied().unzip();
    let TokenHistory { prompt, answer } = admission.history.clone().unwrap_or_default();
    pb::Admit {
        seq: admission.seq,
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        repetition_penalty: params.penalties.repetition,
        presence_penalty: params.penalties.presence,
        frequency_penalty: params.penalties.frequency,
        bias_ids,
        biases,
        suppressed: params.suppressed.clone(),
        suppressed_until: params.suppressed_until,
        prompt,
        answer,
        seed: params.seed,
        choice: params.choice,
        logprobs: params.logprobs,
    }
}

/// Converts the admission of a sequence from its message. Checks that all sampling parameters are in range.
fn admission_from_wire(wire: pb::Admit) -> Result<Admission, String> {
    let seq = wire.seq;
    let unit_interval = 0.0..=1.0;
    let in_range = wire.temperature.is_finite()
        && wire.temperature >= 0.0
        && wire.top_p > 0.0
        && unit_interval.contains(&wire.top_p)
        && unit_interval.contains(&wire.min_p);
    if !in_range {
        let (temperature, top_p, min_p) = (wire.temperature, wire.top_p, wire.min_p);
        return Err(format!("sequence {seq} has temperature {temperature}, top_p {top_p} and min_p {min_p}"));
    }
    let penalties = Penalties {
        repetition: wire.repetition_penalty,
        presence: wire.presence_penalty,
        frequency: wire.frequency_penalty,
    };
    let are_finite = penalties.repetition > 0.0
        && [penalties.repetition, penalties.presence, penalties.frequency]
            .iter()
            .chain(&wire.biases)
            .all(|number| number.is_finite());
    if !are_finite || wire.bias_ids.len() != wire.biases.len() {
        let (ids, biases) = (wire.bias_ids.len(), wire.biases.len());
        return Err(format!("sequence {seq} has {penalties:?}, and {biases} biases for {ids} tokens, not all numbers"));
    }
    let sampling = SamplingParams {
        temperature: wire.temperature,
        top_k: wire.top_k,
        top_p: wire.top_p,
        min_p: wire.min_p,
        penalties,
        logit_bias: wire.bias_ids.into_iter().zip(wire.biases).collect(),
        suppressed: wire.suppressed,
        suppressed_until: wire.suppressed_until,
        seed: wire.seed,
        choice: wire.choice,
        logprobs: wire.logprobs,
    };
    let history = penalties.is_active().then_some(TokenHistory { prompt: wire.prompt, answer: wire.answer });
    Ok(Admission { seq, sampling, history })
}

fn entry_to_wire(entry: &PlanEntry) -> pb::PlanEntry {
    let tokens = match &entry.tokens {
        PlanTokens::Given(ids) => ids.clone(),
        PlanTokens::LastSampled => Vec::new(),
    };
    pb::PlanEntry {
        seq: entry.seq,
        position: entry.position,
        tokens,
        new_blocks: entry.new_blocks.clone(),
        sample: entry.sample,
        allowed: entry.allowed.as_ref().map(mask::to_wire),
        prompt_targets: entry.prompt_targets.as_ref().map(prompts::targets_to_wire),
    }
}

/// Converts a plan from its message.
///
/// # Errors
/// Fails if a sampling parameter is out of range or a set of tokens is malformed. The rank's runner checks the rest,
/// such as block numbers, because that depends on the rank's state.
pub fn plan_from_wire(wire: pb::StepPlan) -> Result<StepPlan, Malformed> {
    let malformed = |reason: String| Malformed { message: "step plan", reason };
    let admit = wire.admit.into_iter().map(admission_from_wire).collect::<Result<_, _>>().map_err(malformed)?;
    let entries = wire.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>().map_err(malformed)?;
    Ok(StepPlan { epoch: wire.epoch, step: wire.step, forget: wire.forget, admit, entries })
}

fn entry_from_wire(wire: pb::PlanEntry) -> Result<PlanEntry, String> {
    let tokens = if wire.tokens.is_empty() { PlanTokens::LastSampled } else { PlanTokens::Given(wire.tokens) };
    let allowed = wire.allowed.map(mask::from_wire).transpose();
    Ok(PlanEntry {
        seq: wire.seq,
        position: wire.position,
        tokens,
        new_blocks: wire.new_blocks,
        sample: wire.sample,
        allowed: allowed.map_err(|reason| format!("sequence {}: {reason}", wire.seq))?,
        prompt_targets: wire.prompt_targets.map(prompts::targets_from_wire),
    })
}

pub(crate) use prompts::logprobs_to_wire;

/// Converts the sampled tokens of a step to their messages.
pub(crate) fn sampled_to_wire(sampled: Vec<Sampled>) -> Vec<pb::Sampled> {
    sampled
        .into_iter()
        .map(|sampled| {
            let (logprob, top) =
                sampled.logprobs.map_or((None, Vec::new()), |logprobs| (Some(logprobs.chosen), logprobs.top));
            let (top_ids, top_logprobs) = top.into_iter().unzip();
            pb::Sampled { seq: sampled.seq, token: sampled.token, logprob, top_ids, top_logprobs }
        })
        .collect()
}

/// Converts the output of a step from the message of the reporting node.
///
/// # Errors
/// Fails if lists that belong together have different lengths.
pub fn output_from_wire(wire: pb::StepDone) -> Result<StepOutput, Malformed> {
    let mut sampled = Vec::with_capacity(wire.sampled.len());
    for token in wire.sampled {
        if token.top_ids.len() != token.top_logprobs.len() {
            let reason = format!("{} ids with {} log-probabilities", token.top_ids.len(), token.top_logprobs.len());
            return Err(Malformed { message: "step result", reason });
        }
        let top = token.top_ids.into_iter().zip(token.top_logprobs).collect();
        let logprobs = token.logprob.map(|chosen| TokenLogprobs { chosen, top });
        sampled.push(Sampled { seq: token.seq, token: token.token, logprobs });
    }
    let prompts = wire.prompts.into_iter().map(prompts::logprobs_from_wire).collect::<Result<_, _>>();
    let prompts = prompts.map_err(|reason| Malformed { message: "step result", reason })?;
    Ok(StepOutput { epoch: wire.epoch, step: wire.step, sampled, prompts })
}

#[cfg(test)]
mod tests {
    use lockstep_schedule::plan::{PromptLogprobs, PromptTargets, PromptToken, TokenMask};

    use super::*;

    #[test]
    fn a_plan_is_unchanged_by_the_wire() {
        let plan = StepPlan {
            epoch: 3,
            step: 9,
            forget: vec![1, 2],
            admit: vec![
                Admission::new(4, SamplingParams { temperature: 0.5, top_k: 3, seed: 7, ..Default::default() }),
                Admission {
                    seq: 5,
                    sampling: SamplingParams {
                        min_p: 0.25,
                        penalties: Penalties { repetition: 1.5, presence: -1.0, frequency: 0.5 },
                        logit_bias: vec![(3, -1.0), (8, 2.5)],
                        suppressed: vec![1],
                        suppressed_until: 9,
                        ..Default::default()
                    },
                    history: Some(TokenHistory { prompt: vec![1, 2], answer: vec![3] }),
                },
            ],
            entries: vec![
                PlanEntry {
                    seq: 4,
                    position: 0,
                    tokens: PlanTokens::Given(vec![5, 6]),
                    new_blocks: vec![0],
                    sample: true,
                    allowed: Some(TokenMask::new(vec![7, 0, 1 << 9])),
                    prompt_targets: Some(PromptTargets { first_row: 1, tokens: vec![7], top: 2 }),
                },
                PlanEntry {
                    seq: 5,
                    position: 8,
                    tokens: PlanTokens::LastSampled,
                    new_blocks: vec![],
                    sample: true,
                    allowed: None,
                    prompt_targets: None,
                },
            ],
        };
        assert_eq!(plan_from_wire(plan_to_wire(&plan)), Ok(plan));
    }

    #[test]
    fn results_are_unchanged_by_the_wire() {
        let top = vec![(1, -0.5), (2, -1.5)];
        let sampled = vec![
            Sampled { seq: 4, token: 2, logprobs: Some(TokenLogprobs { chosen: -1.5, top }) },
            Sampled { seq: 5, token: 3, logprobs: None },
        ];
        let token = |rank, top| PromptToken { logprobs: TokenLogprobs { chosen: -2.5, top }, rank };
        let prompts = vec![
            PromptLogprobs {
                seq: 4,
                tokens: vec![token(1, vec![(1, -0.5), (2, -1.5)]), token(9, vec![(3, -0.25), (4, -2.0)])],
            },
            PromptLogprobs { seq: 5, tokens: vec![token(3, Vec::new()), token(2, Vec::new())] },
        ];
        let wire = pb::StepDone {
            epoch: 1,
            step: 2,
            sampled: sampled_to_wire(sampled.clone()),
            prompts: logprobs_to_wire(prompts.clone()),
            ..Default::default()
        };
        assert_eq!(output_from_wire(wire), Ok(StepOutput { epoch: 1, step: 2, sampled, prompts }));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let plain = admission_to_wire(&Admission::new(1, SamplingParams::default()));
        let admissions = [
            (pb::Admit { temperature: f32::NAN, ..plain.clone() }, "sequence 1 has temperature NaN"),
            (pb::Admit { min_p: 1.5, ..plain.clone() }, "min_p 1.5"),
            (pb::Admit { repetition_penalty: 0.0, ..plain.clone() }, "repetition: 0.0"),
            (pb::Admit { biases: vec![f32::INFINITY], bias_ids: vec![1], ..plain.clone() }, "not all numbers"),
            (pb::Admit { bias_ids: vec![1], ..plain }, "0 biases for 1 tokens"),
        ];
        for (admit, expected) in admissions {
            let refused = plan_from_wire(pb::StepPlan { admit: vec![admit], ..Default::default() }).unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
        }
        let sampled = vec![pb::Sampled { top_ids: vec![1], ..Default::default() }];
        let refused = output_from_wire(pb::StepDone { sampled, ..Default::default() });
        assert_eq!(refused.unwrap_err().to_string(), "malformed step result: 1 ids with 0 log-probabilities");
        let prompt = |ranks, top_ids: &[u32], top_logprobs: &[f32]| pb::PromptLogprobs {
            seq: 3,
            logprobs: vec![-1.0; 2],
            ranks,
            top_ids: top_ids.into(),
            top_logprobs: top_logprobs.into(),
        };
        for (prompt, expected) in [
            (prompt(vec![1], &[], &[]), "sequence 3 has 2 log-probabilities with 1 ranks"),
            (prompt(vec![1, 2], &[1, 2, 3], &[0.0; 3]), "3 likely tokens with 3 log-probabilities for 2 tokens"),
            (prompt(vec![1, 2], &[1, 2], &[0.0]), "2 likely tokens with 1 log-probabilities for 2 tokens"),
        ] {
            let refused = output_from_wire(pb::StepDone { prompts: vec![prompt], ..Default::default() }).unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }
}
