//! The requests that the simulated API server takes: those that the operator sends.

use std::time::Duration;

use http::{Method, Request, Response};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;
use kube::client::Body;
use kube::core::TypeMeta;
use kube::{Client, ResourceExt as _};
use lockstep_operator::objects::label;
use lockstep_operator::resource::InferenceCluster;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::objects::NAMESPACE;
use super::{Planted, Shared, World};

/// Time that a request takes on a good day, in milliseconds.
const LATENCY: u64 = 4;

/// Returns a client of the simulated API server.
pub(super) fn client(world: &Shared) -> Client {
    let world = world.clone();
    let serve = move |request: Request<Body>| {
        let world = world.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.map_err(|error| error.to_string())?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = serve(&world, &head.method, head.uri.path(), &body).await;
            Response::builder()
                .status(status)
                .body(Body::from(answer.to_string().into_bytes()))
                .map_err(|error| error.to_string())
        }
    };
    Client::new(tower::service_fn(serve), NAMESPACE)
}

/// Status code and body of an answer.
type Answer = (u16, Value);

fn failure(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
    });
    (code, status)
}

fn not_found() -> Answer {
    failure(404, "NotFound", "not found")
}

/// Takes a request, after its time, unless the script lets it fail.
async fn serve(world: &Shared, method: &Method, path: &str, body: &Value) -> Answer {
    let (latency, fails_before, fails_after) = {
        let world = &mut *world.lock();
        let slow = world.now < world.slow_until;
        let latency = LATENCY + if slow { world.rng.below(world.latency) } else { 0 };
        let fails = world.now < world.errors_until && world.rng.chance(world.errors_percent);
        let is_after = world.rng.chance(50);
        (latency, fails && !is_after, fails && is_after)
    };
    sleep(Duration::from_millis(latency)).await;
    let mut world = world.lock();
    world.counts.requests += 1;
    if fails_before || world.now < world.down_until {
        return failure(503, "ServiceUnavailable", "the server is overloaded");
    }
    let answer = world.take(method, path, body);
    world.log(|| format!("{method} {path} -> {}", answer.0));
    // The names of events are made of the real time.
    let path = path.split("/events/").next().unwrap_or_default();
    world.digest(path.bytes().fold(u64::from(answer.0), |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())));
    if fails_after { failure(500, "InternalError", "the answer was lost") } else { answer }
}

/// Returns an object as an answer, without the fields that servers leave out.
fn shown<K: serde::Serialize>(object: &K) -> Answer {
    (200, serde_json::to_value(object).expect("Kubernetes types have string keys only"))
}

impl World {
    fn take(&mut self, method: &Method, path: &str, body: &Value) -> Answer {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        // `api/v1/…` or `apis/GROUP/VERSION/…`, and then `namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE`.
        let rest = &parts[if parts[0] == "api" { 2 } else { 3 }..];
        let (plural, name, subresource) = (rest.get(2).copied(), rest.get(3).copied(), rest.get(4).copied());
        if *method != Method::GET {
            self.counts.writes += u64::from(plural != Some("events"));
        }
        match (plural.unwrap_or_default(), name) {
            ("events", _) if *method == Method::GET => {
                (200, json!({ "kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": [] }))
            }
            ("events", _) => (201, body.clone()),
            ("pods", Some(name)) => self.take_pod(method, name, body),
            ("statefulsets", Some(name)) => self.take_set(method, name, body),
            ("inferenceclusters", Some(name)) if subresource == Some("status") => self.take_status(name, body),
            (plural, name) => match kind_of(plural) {
                Some(kind) => self.take_other(method, kind, name, body),
                None => failure(404, "NotFound", &format!("the simulated API server has no {plural}")),
            },
        }
    }

    fn take_pod(&mut self, method: &Method, name: &str, body: &Value) -> Answer {
        let Some(pod) = self.objects.pods.get(name).cloned() else { return not_found() };
        if *method == Method::DELETE {
            if !self.is_meant(pod.metadata.uid.as_deref(), body) {
                return failure(409, "Conflict", "the uid in the precondition is another one");
            }
            self.check_pod_deletion(&pod, body["gracePeriodSeconds"].as_i64());
            if self.planted != Some(Planted::IgnoresDeletions) {
                self.delete_pod(name, body["gracePeriodSeconds"].as_i64());
            }
            return shown(pod.as_ref());
        }
        let uid = body["metadata"]["uid"].as_str();
        if uid.is_some() && uid != pod.metadata.uid.as_deref() {
            return failure(409, "Conflict", "the uid is another one");
        }
        if let Some(heard) = body["metadata"]["labels"][label::HEARD].as_str() {
            let mut marked = Pod::clone(&pod);
            marked.labels_mut().insert(label::HEARD.into(), heard.into());
            self.objects.put_pod(self.now, marked);
        }
        shown(pod.as_ref())
    }

    /// Returns true if a deletion names the object with `uid`, or any.
    fn is_meant(&self, uid: Option<&str>, body: &Value) -> bool {
        let wanted = body["preconditions"]["uid"].as_str();
        wanted.is_none() || wanted == uid
    }

    fn take_set(&mut self, method: &Method, name: &str, body: &Value) -> Answer {
        let before = self.objects.sets.get(name).cloned();
        if *method == Method::DELETE {
            let Some(before) = before else { return not_found() };
            if !self.is_meant(before.metadata.uid.as_deref(), body) {
                return failure(409, "Conflict", "the uid in the precondition is another one");
            }
            self.check_set_change(&before, None);
            self.objects.sets.remove(&mut self.objects.counter, self.now, name);
            return shown(before.as_ref());
        }
        if *method == Method::GET {
            return before.map_or_else(not_found, |set| shown(set.as_ref()));
        }
        let Ok(mut set) = serde_json::from_value::<StatefulSet>(body.clone()) else {
            return failure(422, "Invalid", "no StatefulSet");
        };
        if let Some(before) = &before {
            self.check_set_change(before, Some(&set));
            keep_identity(&mut set.metadata, &before.metadata);
            set.metadata.generation = before.metadata.generation;
            set.status.clone_from(&before.status);
            if set == **before {
                return shown(&set);
            }
        }
        self.check_making(name, before.is_some());
        if before.as_ref().map(|before| &before.spec) != Some(&set.spec) {
            set.metadata.generation = Some(set.metadata.generation.unwrap_or_default() + 1);
        }
        let set = self.objects.sets.put(&mut self.objects.counter, self.now, name, set);
        shown(set.as_ref())
    }

    fn take_status(&mut self, name: &str, body: &Value) -> Answer {
        let Some(cluster) = self.objects.clusters.get(name) else { return not_found() };
        let mut cluster = InferenceCluster::clone(cluster);
        let Ok(status) = serde_json::from_value(body["status"].clone()) else {
            return failure(422, "Invalid", "no status");
        };
        cluster.status = Some(status);
        if self.planted != Some(Planted::LosesStatus) {
            self.objects.clusters.put(&mut self.objects.counter, self.now, name, cluster.clone());
        }
        shown(&cluster)
    }

    fn take_other(&mut self, method: &Method, kind: &str, name: Option<&str>, body: &Value) -> Answer {
        let name = name.or_else(|| body["metadata"]["name"].as_str()).unwrap_or_default().to_owned();
        let key = format!("{kind}/{name}");
        let before = self.objects.others.get(&key).cloned();
        match (method, before) {
            (&Method::GET, Some(object)) => shown(object.as_ref()),
            (&Method::GET | &Method::DELETE, None) => not_found(),
            (&Method::DELETE, Some(object)) => {
                self.objects.others.remove(&mut self.objects.counter, self.now, &key);
                shown(object.as_ref())
            }
            (&Method::POST, Some(_)) => failure(409, "AlreadyExists", "it exists already"),
            (_, before) => {
                let Ok(mut object) = serde_json::from_value::<kube::api::DynamicObject>(body.clone()) else {
                    return failure(422, "Invalid", "no object");
                };
                let api_version = body["apiVersion"].as_str().unwrap_or("v1").to_owned();
                object.types = Some(TypeMeta { api_version, kind: kind.to_owned() });
                let version = object.metadata.resource_version.take();
                if let Some(before) = before {
                    if *method == Method::PUT && version != before.metadata.resource_version {
                        return failure(409, "Conflict", "the object has been changed");
                    }
                    keep_identity(&mut object.metadata, &before.metadata);
                    if object == *before {
                        return shown(&object);
                    }
                }
                self.check_making(&name, false);
                shown(self.objects.others.put(&mut self.objects.counter, self.now, &key, object).as_ref())
            }
        }
    }
}

/// Gives an object what the server itself writes into its metadata, from the object `before` it.
fn keep_identity(metadata: &mut ObjectMeta, before: &ObjectMeta) {
    metadata.uid.clone_from(&before.uid);
    metadata.creation_timestamp.clone_from(&before.creation_timestamp);
    metadata.resource_version.clone_from(&before.resource_version);
}

/// Returns the kind of the objects that a path calls `plural`.
fn kind_of(plural: &str) -> Option<&'static str> {
    Some(match plural {
        "services" => "Service",
        "secrets" => "Secret",
        "persistentvolumeclaims" => "PersistentVolumeClaim",
        "networkpolicies" => "NetworkPolicy",
        "poddisruptionbudgets" => "PodDisruptionBudget",
        "horizontalpodautoscalers" => "HorizontalPodAutoscaler",
        _ => return None,
    })
}
