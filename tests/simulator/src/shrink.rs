//! Makes a failing script small.

/// Leaves out as many items as possible while `fails` holds: first many at once, in the end one at a time.
pub(crate) fn leave_out<T: Clone>(items: &[T], fails: impl Fn(Vec<T>) -> bool) -> Vec<T> {
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
