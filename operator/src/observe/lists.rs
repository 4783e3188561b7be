//! Tells which watches show every object of their kind.
//!
//! A store says "this object does not exist" only once its watch has listed all objects, and only until the watch is
//! lost. The operator decides nothing in between. Otherwise it would take an object that is not listed yet for one that
//! does not exist, and make a group anew that serves.

use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use kube::runtime::watcher::{Error, Event};
use tokio::sync::watch;

/// Number of watches that do not show every object now.
#[derive(Clone)]
pub struct Lists(Arc<watch::Sender<usize>>);

impl Default for Lists {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Lists {
    /// Returns the number of watches that are not complete: they list their objects, or are lost.
    #[must_use]
    pub fn count_incomplete(&self) -> usize {
        *self.0.borrow()
    }

    /// Returns a stream that yields each time the last incomplete watch has become complete. It yields again after every
    /// loss, also if the stream was not polled in between.
    pub fn completions(&self) -> impl Stream<Item = ()> + Send + use<> {
        let count = self.0.subscribe();
        stream::unfold(count, |mut count| async move {
            loop {
                count.changed().await.ok()?;
                if *count.borrow_and_update() == 0 {
                    return Some(((), count));
                }
            }
        })
    }

    /// Passes on the events of one watch and follows its state. `events` must fill their store before they come here, so
    /// that the store is complete when the watch counts as complete. The watch is incomplete from this call on.
    pub(super) fn follow<K, S>(&self, events: S) -> impl Stream<Item = Result<Event<K>, Error>> + Send + use<K, S>
    where
        K: Send,
        S: Stream<Item = Result<Event<K>, Error>> + Send,
    {
        self.0.send_modify(|count| *count += 1);
        let (lists, mut complete, mut absent) = (self.clone(), false, false);
        events.inspect(move |event| {
            absent = match event {
                Ok(Event::Init) => absent,
                event => event.as_ref().is_err_and(is_absent),
            };
            let now = match event {
                Ok(Event::InitDone) => true,
                Ok(Event::Init) => absent,
                Err(_) if absent => true,
                Err(error) if is_lost(error) => false,
                _ => complete,
            };
            if now != complete {
                complete = now;
                lists.0.send_modify(|count| if now { *count -= 1 } else { *count += 1 });
            }
        })
    }
}

/// Returns true if an error means that the watch may have missed a change. A broken connection means nothing yet: the
/// watch goes on from the last change that it has seen, or fails to.
fn is_lost(error: &Error) -> bool {
    !matches!(error, Error::WatchFailed(_))
}

/// Returns true if the API server does not know the kind, so that no object of it exists. Its CRD was deleted.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Watches with the streams of `watch`. After a loss it takes a new stream, which lists all objects again. A watcher
/// lists by itself only if the API server has forgotten the last change that the watcher has seen. After any other loss
/// it would go on without an event, so the operator could not tell when.
pub(super) fn list_after_loss<K>(
    mut watch: impl FnMut() -> BoxStream<'static, Result<Event<K>, Error>> + Send,
) -> impl Stream<Item = Result<Event<K>, Error>> + Send
where
    K: Send + 'static,
{
    let mut events = watch();
    stream::poll_fn(move |context| {
        let polled = events.poll_next_unpin(context);
        if let std::task::Poll::Ready(Some(Err(error))) = &polled
            && is_lost(error)
        {
            events = watch();
        }
        polled
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::Status;
    use kube::runtime::WatchStreamExt as _;
    use kube::runtime::reflector::{self, ObjectRef};

    use super::*;

    type Events = Vec<Result<Event<ConfigMap>, Error>>;

    fn named(name: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map
    }

    fn broken() -> Error {
        Error::WatchFailed(kube::Error::LinesCodecMaxLineLengthExceeded)
    }

    fn refused() -> Error {
        Error::WatchStartFailed(kube::Error::LinesCodecMaxLineLengthExceeded)
    }

    /// Polls `events` to their end. Returns the number of incomplete watches after each.
    async fn counts(lists: &Lists, events: Events) -> Vec<usize> {
        let followed = lists.follow(stream::iter(events));
        followed.map(|_| lists.count_incomplete()).collect().await
    }

    #[tokio::test]
    async fn a_watch_is_complete_from_the_end_of_its_list_to_its_loss() {
        let lists = Lists::default();
        let events = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(named("a"))),
            Err(Error::InitialListFailed(kube::Error::LinesCodecMaxLineLengthExceeded)),
            Ok(Event::Init),
            Ok(Event::InitDone),
            Ok(Event::Apply(named("b"))),
            Err(broken()),
            Ok(Event::Delete(named("b"))),
            Err(refused()),
            Ok(Event::Init),
            Ok(Event::InitDone),
            Err(Error::NoResourceVersion),
        ];
        assert_eq!(counts(&lists, events).await, [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1]);
        // A second watch counts by itself.
        assert_eq!(counts(&lists, vec![Ok(Event::Init), Ok(Event::InitDone)]).await, [2, 1]);
    }

    #[tokio::test]
    async fn a_kind_that_does_not_exist_has_no_objects() {
        let absent = || {
            let status = Status::failure("the server could not find the requested resource", "NotFound");
            Error::InitialListFailed(kube::Error::Api(status.with_code(404).boxed()))
        };
        let lists = Lists::default();
        let events = vec![Ok(Event::Init), Err(absent()), Ok(Event::Init), Err(absent())];
        assert_eq!(counts(&lists, events).await, [1, 0, 0, 0]);
    }

    #[tokio::test]
    async fn completion_is_announced_once_all_watches_are_complete_and_after_each_loss() {
        let lists = Lists::default();
        let mut completions = lists.completions().boxed();
        let full = || -> Events { vec![Ok(Event::Init), Ok(Event::InitDone)] };
        let (one, other) = (lists.follow(stream::iter(full())), lists.follow(stream::iter(full())));
        one.collect::<Vec<_>>().await;
        assert_eq!(completions.next().now_or_never(), None, "one watch still lists");
        other.collect::<Vec<_>>().await;
        assert_eq!(completions.next().now_or_never(), Some(Some(())));
        assert_eq!(completions.next().now_or_never(), None, "it was announced already");
        let again: Events =
            vec![Ok(Event::Init), Ok(Event::InitDone), Err(refused()), Ok(Event::Init), Ok(Event::InitDone)];
        lists.follow(stream::iter(again)).collect::<Vec<_>>().await;
        assert_eq!(completions.next().now_or_never(), Some(Some(())), "the stream was not polled in between");
    }

    #[tokio::test]
    async fn a_lost_watch_lists_again_and_a_broken_connection_does_not() {
        let (store, writer) = reflector::store::<ConfigMap>();
        let mut rounds: Vec<Events> = vec![
            vec![Ok(Event::Init), Ok(Event::InitApply(named("b"))), Ok(Event::InitDone)],
            vec![
                Ok(Event::Init),
                Ok(Event::InitApply(named("a"))),
                Ok(Event::InitDone),
                Err(broken()),
                Ok(Event::Apply(named("b"))),
                Err(refused()),
                Ok(Event::Apply(named("never"))),
            ],
        ];
        let watch = move || stream::iter(rounds.pop().unwrap_or_default()).boxed();
        let lists = Lists::default();
        let events = lists.follow(list_after_loss(watch).reflect(writer));
        let has = |name: &str| store.get(&ObjectRef::new(name)).is_some();
        let seen: Vec<_> = events.map(|_| (has("a"), has("b"), lists.count_incomplete())).collect().await;
        assert_eq!(seen[..2], [(false, false, 1), (false, false, 1)], "a list counts as a whole");
        assert_eq!(seen[2..5], [(true, false, 0), (true, false, 0), (true, true, 0)]);
        // What was deleted while the watch was lost stays in the store until the new list has ended.
        assert_eq!(seen[5..8], [(true, true, 1), (true, true, 1), (true, true, 1)]);
        assert_eq!(seen[8..], [(false, true, 0)]);
    }
}
