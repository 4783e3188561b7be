//! The token budget: the number of tokens that a step may compute and still last about as long as its target.
//!
//! The budget cuts prefills, never decodes. Prefills get at least [`MIN_TOKEN_BUDGET`] tokens beside the decodes. So a
//! step with many decodes may exceed the budget, and only `max_num_batched_tokens` bounds every step.
//!
//! A token in a large step costs less than a token in a small step, because a step reads the weights once. So the
//! budget keeps the cost per token for each size class (powers of two). A class without a measurement borrows the cost
//! of the next smaller class. That cost is too high rather than too low, so the budget is too small rather than too
//! large. A class without either cost is not chosen. The cost of a class that was too slow is forgotten after a while,
//! so that the class is tried again.

use std::time::Duration;

/// Lower bound of the budget. Smaller steps waste more time on reading weights than they gain in latency.
pub(crate) const MIN_TOKEN_BUDGET: usize = 16;
/// Budget before the first measurement.
const FIRST_TOKEN_BUDGET: usize = 64;
/// Weight of a new measurement in a class's moving average.
const SMOOTHING: f64 = 0.25;
/// Number of measurements of other classes after which the cost of a class that was too slow is forgotten.
const RETRY_AFTER: u32 = 256;
/// Number of size classes. The last one ends at 2^32 tokens.
const NUM_CLASSES: usize = 32;

/// Measured cost of the steps of one size class.
#[derive(Debug, Clone, Copy)]
struct StepCost {
    micros_per_token: f64,
    /// Measurements of any class since the last one of this class.
    age: u32,
}

/// Number of tokens that the next step may compute, learnt from measured steps.
#[derive(Debug)]
pub(crate) struct TokenBudget {
    target_micros: f64,
    max_tokens: usize,
    costs: [Option<StepCost>; NUM_CLASSES],
    num_tokens: usize,
}

/// Returns the size class of a step: class `c` holds the steps of [2^c, 2^(c+1)) tokens.
fn size_class(num_tokens: usize) -> usize {
    (num_tokens.max(1).ilog2() as usize).min(NUM_CLASSES - 1)
}

impl TokenBudget {
    pub fn new(target: Duration, max_tokens: usize) -> Self {
        let num_tokens = FIRST_TOKEN_BUDGET.min(max_tokens);
        Self { target_micros: target.as_micros() as f64, max_tokens, costs: [None; NUM_CLASSES], num_tokens }
    }

    /// Returns how many tokens the next step may compute.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Forgets every measurement, because the next epoch may have other ranks.
    pub fn reset(&mut self) {
        self.costs = [None; NUM_CLASSES];
        self.num_tokens = FIRST_TOKEN_BUDGET.min(self.max_tokens);
    }

    /// Records that a step of `num_tokens` tokens lasted `micros` microseconds.
    pub fn observe_step(&mut self, num_tokens: usize, micros: u64) {
        if num_tokens == 0 {
            return;
        }
        for (class, slot) in self.costs.iter_mut().enumerate() {
            let Some(cost) = slot else { continue };
            cost.age += 1;
            let too_slow = cost.micros_per_token * (1usize << class) as f64 > self.target_micros;
            if too_slow && cost.age > RETRY_AFTER {
                *slot = None;
            }
        }
        let measured = micros as f64 / num_tokens as f64;
        let slot = &mut self.costs[size_class(num_tokens)];
        let micros_per_token = match slot {
            Some(cost) => cost.micros_per_token + SMOOTHING * (measured - cost.micros_per_token),
            None => measured,
        };
        *slot = Some(StepCost { micros_per_token, age: 0 });
        self.num_tokens = self.choose_num_tokens();
    }

    /// Returns the largest number of tokens whose step should last no longer than the target.
    fn choose_num_tokens(&self) -> usize {
        let floor = MIN_TOKEN_BUDGET.min(self.max_tokens);
        for class in (0..=size_class(self.max_tokens)).rev() {
            let smaller_class_cost = class.checked_sub(1).and_then(|smaller| self.costs[smaller]);
            let Some(cost) = self.costs[class].or(smaller_class_cost) else { continue };
            let class_start = 1usize << class;
            let affordable_tokens = (self.target_micros / cost.micros_per_token.max(1e-3)) as usize;
            if affordable_tokens >= class_start {
                return affordable_tokens.min(2 * class_start - 1).clamp(floor, self.max_tokens);
            }
        }
        floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4096;

    /// Runs full steps on a machine that takes `fixed + per_token × tokens` microseconds, and returns the final budget.
    fn settle_budget(budget: &mut TokenBudget, fixed: u64, per_token: u64) -> usize {
        for _ in 0..40 {
            budget.observe_step(budget.num_tokens(), fixed + per_token * budget.num_tokens() as u64);
        }
        budget.num_tokens()
    }

    #[test]
    fn the_budget_settles_at_steps_of_about_the_target_duration() {
        // (fixed µs, µs per token, least and most tokens to settle at) for a target of 500 ms
        for (fixed, per_token, least, most) in [
            (0, 1_000, 450, 520),
            (50_000, 1_000, 400, 470),
            (1_000, 10, MAX, MAX),
            (0, 100_000, MIN_TOKEN_BUDGET, MIN_TOKEN_BUDGET),
            (5_000_000, 0, MIN_TOKEN_BUDGET, MIN_TOKEN_BUDGET),
        ] {
            let mut budget = TokenBudget::new(Duration::from_millis(500), MAX);
            assert_eq!(budget.num_tokens(), FIRST_TOKEN_BUDGET);
            let settled = settle_budget(&mut budget, fixed, per_token);
            assert!((least..=most).contains(&settled), "{fixed} + {per_token} per token: {settled}");
        }
    }

    #[test]
    fn small_steps_do_not_make_large_steps_look_expensive() {
        let mut budget = TokenBudget::new(Duration::from_millis(500), MAX);
        let settled = settle_budget(&mut budget, 50_000, 500);
        for _ in 0..10 * RETRY_AFTER {
            budget.observe_step(1, 50_500);
        }
        assert_eq!(budget.num_tokens(), settled);
    }

    #[test]
    fn one_slow_step_is_forgotten() {
        let mut budget = TokenBudget::new(Duration::from_millis(500), MAX);
        let settled = settle_budget(&mut budget, 0, 1_000);
        budget.observe_step(settled, 30_000_000);
        assert!(budget.num_tokens() < settled);
        for _ in 0..4 * RETRY_AFTER {
            budget.observe_step(budget.num_tokens(), 1_000 * budget.num_tokens() as u64);
        }
        assert!(budget.num_tokens() * 10 >= settled * 9, "{} of {settled}", budget.num_tokens());
    }

    #[test]
    fn the_budget_grows_by_one_class_and_keeps_to_the_largest_batch() {
        let mut budget = TokenBudget::new(Duration::from_millis(500), 100);
        budget.observe_step(64, 1);
        assert_eq!(budget.num_tokens(), 100);
        let mut budget = TokenBudget::new(Duration::from_millis(500), MAX);
        budget.observe_step(64, 1);
        assert_eq!(budget.num_tokens(), 255, "the budget grows no further than the next size class");
        assert_eq!(TokenBudget::new(Duration::from_millis(500), 8).num_tokens(), 8);
    }
}
