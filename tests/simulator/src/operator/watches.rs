//! The watches of the simulated API server: late, broken or lost, as the script says.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Resource;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{Error, Event};
use lockstep_operator::observe::{Events, Source};
use lockstep_operator::resource::InferenceCluster;
use tokio::time::sleep;

use super::objects::{Objects, Table};
use super::script::{Kind, Millis};
use super::{Planted, Shared};

/// State of the watches of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WatchState {
    pub lag: Millis,
    pub late_until: Millis,
    /// Time at which a list that has begun before it ends at the earliest.
    pub list_until: Millis,
    pub losses: u64,
    pub breaks: u64,
}

/// Time that a list takes on a good day.
const LIST: Millis = 20;
/// Longest pause between two looks at changes that are not due yet.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Watched(pub Shared);

impl Watched {
    fn watch<K>(
        &self,
        kind: Kind,
        table: fn(&Objects) -> &Table<K>,
        keep: impl Fn(&K) -> bool + Send + 'static,
    ) -> Events<K>
    where
        K: Resource + Clone + Send + Sync + 'static,
    {
        let (events, watch) = unbounded();
        tokio::spawn(Feed { world: self.0.clone(), kind, table, events }.run(keep));
        watch.boxed()
    }
}

impl Source for Watched {
    fn clusters(&self) -> Events<InferenceCluster> {
        self.watch(Kind::Clusters, |objects| &objects.clusters, |_| true)
    }

    fn pods(&self) -> Events<Pod> {
        self.watch(Kind::Pods, |objects| &objects.pods, |_| true)
    }

    fn sets(&self) -> Events<StatefulSet> {
        self.watch(Kind::Sets, |objects| &objects.sets, |_| true)
    }

    fn nodes(&self) -> Events<Node> {
        self.watch(Kind::Nodes, |objects| &objects.nodes, |_| true)
    }

    fn owned(&self, kind: &ApiResource) -> Events<DynamicObject> {
        let kind = kind.kind.clone();
        let is_of_kind = move |object: &DynamicObject| object.types.as_ref().is_some_and(|types| types.kind == kind);
        self.watch(Kind::Owned, |objects| &objects.others, is_of_kind)
    }
}

/// One watch, from its list to its loss.
struct Feed<K> {
    world: Shared,
    kind: Kind,
    table: fn(&Objects) -> &Table<K>,
    events: UnboundedSender<Result<Event<K>, Error>>,
}

fn no_answer() -> kube::Error {
    kube::Error::LinesCodecMaxLineLengthExceeded
}

impl<K: Resource + Clone + Send + Sync + 'static> Feed<K> {
    fn send(&self, event: Result<Event<K>, Error>) {
        let _ = self.events.unbounded_send(event);
    }

    async fn run(self, keep: impl Fn(&K) -> bool + Send) {
        let (listed, mut next, state, wait, news, planted) = {
            let world = self.world.lock();
            let (table, state) = ((self.table)(&world.objects), world.watches[self.kind as usize]);
            let wait = state.list_until.saturating_sub(world.now).max(LIST);
            let listed: Vec<Arc<K>> = table.objects.values().filter(|object| keep(object)).cloned().collect();
            let is_down = world.now < world.down_until;
            ((!is_down).then_some(listed), table.changes.len(), state, wait, table.news.clone(), world.planted)
        };
        self.send(Ok(Event::Init));
        let Some(listed) = listed else { return self.send(Err(Error::InitialListFailed(no_answer()))) };
        if planted == Some(Planted::ListsEarly) {
            self.send(Ok(Event::InitDone));
        }
        sleep(Duration::from_millis(wait)).await;
        listed.into_iter().for_each(|object| self.send(Ok(Event::InitApply(Arc::unwrap_or_clone(object)))));
        self.send(Ok(Event::InitDone));
        let mut breaks = state.breaks;
        while !self.events.is_closed() {
            let heard = news.notified();
            let is_pending = {
                let world = self.world.lock();
                let now = world.watches[self.kind as usize];
                if now.losses != state.losses {
                    return self.send(Err(Error::WatchStartFailed(no_answer())));
                }
                if now.breaks != breaks {
                    breaks = now.breaks;
                    self.send(Err(Error::WatchFailed(no_answer())));
                }
                let lag = if world.now < now.late_until { now.lag } else { 0 };
                let changes = &(self.table)(&world.objects).changes;
                while let Some(change) = changes.get(next).filter(|change| change.at + lag <= world.now) {
                    next += 1;
                    if keep(&change.object) {
                        let object = K::clone(&change.object);
                        self.send(Ok(if change.deleted { Event::Delete(object) } else { Event::Apply(object) }));
                    }
                }
                next < changes.len()
            };
            if is_pending {
                sleep(LOOK_AGAIN).await;
            } else {
                heard.await;
            }
        }
    }
}
