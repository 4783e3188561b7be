//! Makes a failing script small: leaves faults and requests out, as long as the same property fails.

use crate::planted::Planted;
use crate::run;
use crate::script::Script;
use crate::world::Property;

/// Returns a smaller script in which `property` does not hold either.
pub fn shrink(script: &Script, planted: Option<Planted>, property: Property) -> Script {
    let fails = |script: &Script| run(script, planted, false).findings.iter().any(|found| found.property == property);
    let mut best = script.clone();
    loop {
        let before = best.faults.len() + best.asks.len();
        best.asks = leave_out(&best.asks, |asks| fails(&Script { asks, ..best.clone() }));
        best.faults = leave_out(&best.faults, |faults| fails(&Script { faults, ..best.clone() }));
        if best.faults.len() + best.asks.len() == before {
            return best;
        }
    }
}

/// Leaves out as many items as possible while `fails` holds: first many at once, in the end one at a time.
fn leave_out<T: Clone>(items: &[T], fails: impl Fn(Vec<T>) -> bool) -> Vec<T> {
    let mut best = items.to_vec();
    let mut size = best.len();
    while size > 0 {
        let mut start = 0;
        while start < best.len() {
            let end = (start + size).min(best.len());
            let smaller: Vec<T> = best[..start].iter().chain(&best[end..]).cloned().collect();
            if fails(smaller.clone()) {
                best = smaller;
            } else {
                start = end;
            }
        }
        size /= 2;
    }
    best
}
