//! How many tokens a step may compute so that it lasts about as long as it may.
//!
//! A token in a large step costs less than one in a small step (weights are read once per step), so the cost per token
//! is kept per size class: powers of two. A class that was never measured is judged by the next smaller one, which
//! errs on the careful side, and is entered only from there; a class found too slow is tried again after a while.

use std::time::Duration;

/// The budget never falls below this: smaller steps waste more on reading weights than they gain in latency.
pub(crate) const MIN_TOKEN_BUDGET: usize = 16;
/// The budget before anything was measured.
const FIRST_TOKEN_BUDGET: usize = 64;
/// Weight of a new measurement in a class's moving average.
const SMOOTHING: f64 = 0.25;
/// Measurements after which a class that was found too slow is forgotten.
const RETRY_AFTER: u32 = 256;
/// Classes up to 2^32 tokens.
const CLASSES: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Cost {
    micros_per_token: f64,
    /// Measurements of any class since this one's last.
    age: u32,
}

#[derive(Debug)]
pub(crate) struct TokenBudget {
    target_micros: f64,
    max: usize,
    costs: [Option<Cost>; CLASSES],
    current: usize,
}

/// Steps of `tokens` in [2^class, 2^(class+1)) belong together.
fn class_of(tokens: usize) -> usize {
    (tokens.max(1).ilog2() as usize).min(CLASSES - 1)
}

impl TokenBudget {
    pub fn new(target: Duration, max: usize) -> Self {
        let current = FIRST_TOKEN_BUDGET.min(max);
        Self { target_micros: target.as_micros() as f64, max, costs: [None; CLASSES], current }
    }

    /// Tokens that the next step may compute.
    pub fn get(&self) -> usize {
        self.current
    }

    /// Forgets every measurement: the ranks are not those that were measured.
    pub fn reset(&mut self) {
        self.costs = [None; CLASSES];
        self.current = FIRST_TOKEN_BUDGET.min(self.max);
    }

    /// A step of `tokens` lasted `micros`.
    pub fn observe(&mut self, tokens: usize, micros: u64) {
        if tokens == 0 {
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
        let measured = micros as f64 / tokens as f64;
        let slot = &mut self.costs[class_of(tokens)];
        let micros_per_token = match slot {
            Some(cost) => cost.micros_per_token + SMOOTHING * (measured - cost.micros_per_token),
            None => measured,
        };
        *slot = Some(Cost { micros_per_token, age: 0 });
        self.current = self.choose();
    }

    /// The largest number of tokens whose step is expected to last no longer than the target.
    fn choose(&self) -> usize {
        let floor = MIN_TOKEN_BUDGET.min(self.max);
        for class in (0..=class_of(self.max)).rev() {
            let below = class.checked_sub(1).and_then(|below| self.costs[below]);
            let Some(cost) = self.costs[class].or(below) else { continue };
            let lowest = 1usize << class;
            let fits = (self.target_micros / cost.micros_per_token.max(1e-3)) as usize;
            if fits >= lowest {
                return fits.min(2 * lowest - 1).clamp(floor, self.max);
            }
        }
        floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4096;

    /// Runs full steps on a machine that takes `fixed + per_token × tokens` microseconds; gives the budget reached.
    fn settle(budget: &mut TokenBudget, fixed: u64, per_token: u64) -> usize {
        for _ in 0..40 {
            budget.observe(budget.get(), fixed + per_token * budget.get() as u64);
        }
        budget.get()
    }

    #[test]
    fn the_budget_settles_where_a_step_lasts_about_the_target() {
        // (fixed µs, µs per token, least and most tokens to settle at) for a target of 500 ms
        for (fixed, per_token, least, most) in [
            (0, 1_000, 450, 520),
            (50_000, 1_000, 400, 470),
            (1_000, 10, MAX, MAX),
            (0, 100_000, MIN_TOKEN_BUDGET, MIN_TOKEN_BUDGET),
            (5_000_000, 0, MIN_TOKEN_BUDGET, MIN_TOKEN_BUDGET),
        ] {
            let mut budget = TokenBudget::new(Duration::from_millis(500), MAX);
            assert_eq!(budget.get(), FIRST_TOKEN_BUDGET);
            let settled = settle(&mut budget, fixed, per_token);
            assert!((least..=most).contains(&settled), "{fixed} + {per_token} per token: {settled}");
        }
    }

    #[test]
    fn small_steps_do_not_make_large_ones_look_dear() {
        let mut budget = TokenBudget::new(Duration::from_millis(500), MAX);
        let settled = settle(&mut budget, 50_000, 500);
        for _ in 0..10 * RETRY_AFTER {
            budget.observe(1, 50_500);
        }
        assert_eq!(budget.get(), settled);
    }

    #[test]
    fn a_hiccup_is_forgotten() {
        let mut budget = TokenBudget::new(Duration::from_millis(500), MAX);
        let settled = settle(&mut budget, 0, 1_000);
        budget.observe(settled, 30_000_000);
        assert!(budget.get() < settled);
        for _ in 0..4 * RETRY_AFTER {
            budget.observe(budget.get(), 1_000 * budget.get() as u64);
        }
        assert!(budget.get() * 10 >= settled * 9, "{} of {settled}", budget.get());
    }

    #[test]
    fn growth_is_gradual_and_the_largest_batch_holds() {
        let mut budget = TokenBudget::new(Duration::from_millis(500), 100);
        budget.observe(64, 1);
        assert_eq!(budget.get(), 100);
        let mut budget = TokenBudget::new(Duration::from_millis(500), MAX);
        budget.observe(64, 1);
        assert_eq!(budget.get(), 255, "no further than the next class of sizes");
        assert_eq!(TokenBudget::new(Duration::from_millis(500), 8).get(), 8);
    }
}
