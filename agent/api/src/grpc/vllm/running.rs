//! Running requests by their ids, so that [`abort`](Running::abort) finds them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

type Requests = HashMap<String, Vec<Arc<CancellationToken>>>;

#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Requests>>);

/// One running request. It leaves the list when this value is dropped.
pub(super) struct Entry {
    running: Running,
    id: String,
    aborted: Arc<CancellationToken>,
}

impl Running {
    /// Adds a request. Several requests may have the same id.
    pub(super) fn enter(&self, id: &str) -> Entry {
        let aborted = Arc::new(CancellationToken::new());
        self.requests().entry(id.to_owned()).or_default().push(aborted.clone());
        Entry { running: self.clone(), id: id.to_owned(), aborted }
    }

    /// Aborts the requests with this id. Returns false if there are none.
    pub(super) fn abort(&self, id: &str) -> bool {
        let found = self.requests().remove(id);
        found.iter().flatten().for_each(|request| request.cancel());
        found.is_some()
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Waits until the request is aborted.
    pub(super) async fn aborted(&self) {
        self.aborted.cancelled().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut requests = self.running.requests();
        if let Some(same_id) = requests.get_mut(&self.id) {
            same_id.retain(|request| !Arc::ptr_eq(request, &self.aborted));
            if same_id.is_empty() {
                requests.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_reaches_every_request_of_its_id_and_no_later_one() {
        let running = Running::default();
        let (first, second, other) = (running.enter("a"), running.enter("a"), running.enter("b"));
        assert!(running.abort("a"));
        let is_aborted = |entry: &Entry| entry.aborted.is_cancelled();
        assert_eq!([&first, &second, &other].map(is_aborted), [true, true, false]);
        let later = running.enter("a");
        drop((first, second));
        assert!(!is_aborted(&later));
        assert!(running.abort("a"), "the drop of earlier requests leaves the later one in the list");
        drop((later, other));
        assert!(running.requests().is_empty());
        assert!(!running.abort("b"));
    }
}
