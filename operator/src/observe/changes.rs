//! A filter of a watch's events: it lets an object through if its meaning changed, and every deletion.

use std::collections::HashMap;

use futures::stream::{Stream, StreamExt as _};
use kube::Resource;
use kube::runtime::watcher::{Error, Event};

/// Returns the objects of `events` whose `meaning` changed, and those that were deleted.
pub(super) fn filter_changes<K>(
    events: impl Stream<Item = Result<Event<K>, Error>> + Send,
    meaning: impl Fn(&K) -> u64 + Send,
) -> impl Stream<Item = Result<K, Error>> + Send
where
    K: Resource + Send,
{
    let mut known: HashMap<(Option<String>, Option<String>), u64> = HashMap::new();
    events.filter_map(move |event| {
        let passed = match event {
            Err(error) => Some(Err(error)),
            Ok(Event::Init | Event::InitDone) => None,
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let now = meaning(&object);
                let before = known.insert(key(&object), now);
                (before != Some(now)).then_some(Ok(object))
            }
            Ok(Event::Delete(object)) => {
                known.remove(&key(&object));
                Some(Ok(object))
            }
        };
        futures::future::ready(passed)
    })
}

fn key<K: Resource>(object: &K) -> (Option<String>, Option<String>) {
    (object.meta().namespace.clone(), object.meta().name.clone())
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn named(name: &str, version: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.resource_version = Some(version.into());
        map.immutable = Some(version == "other");
        map
    }

    #[tokio::test]
    async fn only_a_changed_meaning_and_a_deletion_pass() {
        let events = [
            Event::InitApply(named("a", "1")),
            Event::Apply(named("a", "2")),
            Event::Apply(named("a", "other")),
            Event::Delete(named("a", "other")),
            Event::Apply(named("a", "other")),
        ];
        let passed = filter_changes(stream::iter(events.map(Ok)), |map| u64::from(map.immutable == Some(true)));
        let versions: Vec<_> = passed.map(|map| map.unwrap().metadata.resource_version.unwrap()).collect().await;
        assert_eq!(versions, ["1", "other", "other", "other"]);
    }
}
