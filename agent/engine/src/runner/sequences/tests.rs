//! Plans that fit are applied, and contradictory ones are refused.

use super::*;
use lockstep_schedule::plan::PromptTargets;

const LIMITS: PlanLimits = PlanLimits {
    num_blocks: 4,
    block_size: 2,
    context_length: 6,
    vocab_size: 10,
    max_num_batched_tokens: 5,
    max_num_seqs: 2,
};

fn entry(seq: SeqId, position: u32, ids: &[u32], new_blocks: &[u32]) -> PlanEntry {
    let tokens = PlanTokens::Given(ids.into());
    PlanEntry {
        seq,
        position,
        tokens,
        new_blocks: new_blocks.into(),
        sample: true,
        allowed: None,
        prompt_targets: None,
    }
}

fn last(seq: SeqId, position: u32, new_blocks: &[u32]) -> PlanEntry {
    PlanEntry { tokens: PlanTokens::LastSampled, ..entry(seq, position, &[], new_blocks) }
}

fn plan(forget: &[SeqId], admit: &[SeqId], entries: Vec<PlanEntry>) -> StepPlan {
    let admit = admit.iter().map(|seq| Admission::new(*seq, SamplingParams::default())).collect();
    StepPlan { epoch: 1, step: 1, forget: forget.into(), admit, entries }
}

/// Returns a rank that holds sequence 1 with positions 0 to 2 in blocks 0 and 1, and sequence 2, which was admitted
/// and nothing more.
fn rank() -> Sequences {
    let mut sequences = Sequences::default();
    let first = plan(&[], &[1, 2], vec![entry(1, 0, &[3, 4, 5], &[0, 1])]);
    sequences.check(&first, &LIMITS).unwrap();
    sequences.apply(&first);
    sequences.finish(&first, [7].into_iter());
    sequences
}

fn guided(word: u32) -> PlanEntry {
    PlanEntry { allowed: Some(TokenMask::new(vec![word])), ..last(1, 3, &[]) }
}

fn with_targets(first_row: u32, tokens: &[u32]) -> PlanEntry {
    let targets = PromptTargets { first_row, tokens: tokens.into(), top: 0 };
    PlanEntry { prompt_targets: Some(targets), ..entry(1, 3, &[1], &[]) }
}

#[test]
fn plans_that_fit_are_applied() {
    let fitting = [
        plan(&[], &[], vec![]),
        plan(&[], &[], vec![last(1, 3, &[])]),
        plan(&[], &[], vec![entry(1, 3, &[9, 9], &[2])]),
        plan(&[], &[], vec![entry(2, 2, &[1], &[0, 3])]),
        plan(&[1], &[1], vec![entry(1, 0, &[1], &[0])]),
        plan(&[1, 2], &[], vec![]),
        plan(&[], &[], vec![guided(1 << 9)]),
        plan(&[], &[], vec![with_targets(0, &[9])]),
    ];
    for plan in fitting {
        let mut sequences = rank();
        sequences.check(&plan, &LIMITS).unwrap();
        sequences.apply(&plan);
        sequences.finish(&plan, [8].into_iter());
    }
}

#[test]
fn a_late_token_belongs_to_the_step_that_sampled_it() {
    let mut sequences = rank();
    let token = |sequences: &Sequences| sequences.get(1).unwrap().last_sampled.unwrap().token;
    let next = StepPlan { step: 2, ..plan(&[], &[], vec![last(1, 3, &[])]) };
    sequences.check(&next, &LIMITS).unwrap();
    sequences.apply(&next);
    sequences.finish(&next, std::iter::empty());
    assert_eq!(token(&sequences), None);
    sequences.record_sampled(1, 1, 8);
    sequences.record_sampled(9, 2, 8);
    assert_eq!(token(&sequences), None);
    sequences.record_sampled(1, 2, 9);
    assert_eq!(token(&sequences), Some(9));
}

#[test]
fn contradictory_plans_are_refused() {
    let refused = [
        (plan(&[], &[], vec![entry(3, 0, &[1], &[2])]), "steps sequence 3, which is not held"),
        (plan(&[3], &[], vec![]), "forgets sequence 3, which is not held"),
        (plan(&[], &[1], vec![]), "admits sequence 1, which is held already"),
        (plan(&[], &[3, 3], vec![]), "admits sequence 3, which is held already"),
        (plan(&[1], &[], vec![last(1, 3, &[])]), "steps sequence 1, which it forgets"),
        (plan(&[], &[], vec![last(1, 3, &[]), last(1, 3, &[])]), "names sequence 1 twice"),
        (plan(&[], &[], vec![last(2, 0, &[2])]), "none was sampled"),
        (plan(&[], &[3], vec![last(3, 0, &[2])]), "none was sampled"),
        (plan(&[], &[], vec![guided(1 << 10)]), "allows nothing of a vocabulary of 10"),
        (plan(&[], &[], vec![with_targets(0, &[])]), "targets after 0 rows of 1"),
        (plan(&[], &[], vec![with_targets(0, &[1, 1])]), "targets after 2 rows of 1"),
        (plan(&[], &[], vec![with_targets(u32::MAX, &[1])]), "targets after 4294967296 rows of 1"),
        (plan(&[], &[], vec![with_targets(0, &[10])]), "target 10 is beyond the vocabulary of 10"),
        (plan(&[], &[], vec![entry(1, 3, &[], &[])]), "no tokens"),
        (plan(&[], &[], vec![entry(1, 3, &[10], &[])]), "token 10 is beyond the vocabulary of 10"),
        (plan(&[], &[], vec![entry(1, 2, &[1], &[])]), "position 2 does not follow the 3 computed positions"),
        (plan(&[], &[], vec![entry(1, 3, &[1, 1], &[])]), "its blocks hold 4 positions, 5 are needed"),
        (plan(&[], &[], vec![entry(1, 3, &[1, 1], &[4])]), "block 4 of 4"),
        (plan(&[], &[], vec![entry(1, 3, &[1, 1], &[1])]), "block 1 is in its table twice"),
        (plan(&[], &[], vec![entry(1, 3, &[1, 1], &[2, 2])]), "block 2 is in its table twice"),
        (plan(&[], &[], vec![entry(1, 3, &[1; 4], &[2, 3])]), "position 7 is beyond the context of 6"),
        (plan(&[], &[], vec![entry(2, u32::MAX, &[1], &[2])]), "is beyond the context"),
        (plan(&[], &[], vec![entry(2, 0, &[1; 6], &[2, 3])]), "6 tokens are more than max_num_batched_tokens (5)"),
        (
            plan(&[], &[3], vec![entry(1, 3, &[1], &[]), entry(2, 0, &[1], &[2]), entry(3, 0, &[1], &[3])]),
            "3 sequences are more than max_num_seqs (2)",
        ),
    ];
    for (plan, expected) in refused {
        let reason = rank().check(&plan, &LIMITS).expect_err(expected);
        assert!(reason.contains(expected), "{reason} / {expected}");
    }
}
