//! The two judges of an object: the API server, and `judge`, which `lockstep up` and `lockstep plan` call. Both must
//! reach the same verdict.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, Client};
use lockstep_operator::resource;
use lockstep_proto::names::resource::{GROUP, KIND, VERSION};
use serde_json::{Map, Value};

/// Fields and the messages about them.
pub type Messages = BTreeSet<(String, String)>;

/// Verdict on an object: the object with its defaults, or its faults.
pub type Verdict = Result<Value, Messages>;

/// Returns the schema of the CRD's one version.
pub fn crd_schema() -> Result<Value> {
    Ok(serde_json::to_value(resource::crd())?["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
}

pub fn parse_yaml(text: &str) -> Result<Value> {
    serde_yaml::from_str(text).with_context(|| format!("read {text}"))
}

/// Returns `base` with `change` applied as a merge patch.
pub fn merge_patch(base: &Value, change: &Value) -> Value {
    let Value::Object(change) = change else { return change.clone() };
    let mut made = base.as_object().cloned().unwrap_or_default();
    for (name, value) in change {
        match value {
            Value::Null => made.remove(name),
            value => made.insert(name.clone(), merge_patch(made.get(name).unwrap_or(&Value::Null), value)),
        };
    }
    Value::Object(made)
}

/// Asks the program's own judge.
pub fn judge_locally(schema: &Value, object: &Value, old: Option<&Value>) -> Verdict {
    resource::judge(schema, object, old)
        .map_err(|violations| violations.into_iter().map(|violation| (violation.path, violation.message)).collect())
}

/// API server, which judges objects for a namespace without storing them.
pub struct Server(Api<DynamicObject>);

impl Server {
    pub async fn new(namespace: &str) -> Result<Self> {
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, KIND), "inferenceclusters");
        Ok(Self(Api::namespaced_with(Client::try_default().await.context("make a client")?, namespace, &kind)))
    }

    /// Judges a new object, or a change of the stored object of the same name.
    pub async fn judge(&self, object: &Value, is_update: bool) -> Result<Verdict> {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let mut object: DynamicObject = serde_json::from_value(object.clone())?;
        let answer = match is_update {
            false => self.0.create(&dry, &object).await,
            true => {
                let name = object.metadata.name.clone().context("a name")?;
                object.metadata.resource_version = self.0.get(&name).await?.metadata.resource_version;
                self.0.replace(&name, &dry, &object).await
            }
        };
        match answer {
            Ok(taken) => Ok(Ok(serde_json::to_value(taken)?)),
            Err(kube::Error::Api(status)) if status.is_invalid() => Ok(Err(read_causes(&status))),
            Err(error) => Err(error).context("ask the API server"),
        }
    }

    /// Stores an object.
    pub async fn store(&self, object: &Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        self.0.create(&PostParams::default(), &object).await.context("store an object")?;
        Ok(())
    }

    /// Deletes an object that [`Server::store`] stored.
    pub async fn remove(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        self.0.delete(name, &DeleteParams::default()).await.context("delete an object")?;
        Ok(())
    }
}

/// Returns the causes of a refusal, with fields written as the program writes them.
fn read_causes(status: &kube::core::Status) -> Messages {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let cause = |cause: &kube::core::response::StatusCause| {
        let field = if cause.field == "<nil>" { String::new() } else { cause.field.clone() };
        (field, cause.message.clone())
    };
    causes.map(cause).collect()
}

/// Returns true if a judge's messages about `field` contain `text`.
pub fn has_message(messages: &Messages, field: &str, text: &str) -> bool {
    messages.iter().any(|(at, message)| at == field && message.contains(text))
}

/// Returns the verdict that both judges share.
///
/// # Errors
/// The verdicts differ.
pub fn require_agreement(what: &str, server: Verdict, program: Verdict) -> Result<Verdict> {
    match (server, program) {
        (Ok(taken), Ok(judged)) => {
            ensure!(
                taken["spec"] == judged["spec"],
                "{what}: the defaults differ\nserver:  {}\nprogram: {}",
                taken["spec"],
                judged["spec"]
            );
            Ok(Ok(taken))
        }
        (Err(server), Err(program)) => {
            let fields = |messages: &Messages| messages.iter().map(|(field, _)| field.clone()).collect::<BTreeSet<_>>();
            ensure!(
                fields(&server) == fields(&program),
                "{what}: they tell of different fields\nserver:  {server:?}\nprogram: {program:?}"
            );
            for (field, message) in &program {
                // The server writes the value before a rule's message.
                ensure!(
                    has_message(&server, field, message),
                    "{what}: only the program says {field}: {message}\n{server:?}"
                );
            }
            Ok(Err(program))
        }
        (Ok(_), Err(program)) => bail!("{what}: only the program refuses it: {program:?}"),
        (Err(server), Ok(_)) => bail!("{what}: only the server refuses it: {server:?}"),
    }
}

/// Returns every CEL rule of a schema: its field without indexes, and its message.
pub fn list_rules(schema: &Value, field: &str) -> Messages {
    let own = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    let mut all: Messages =
        own.map(|rule| (field.to_owned(), rule["message"].as_str().unwrap_or_default().to_owned())).collect();
    for (name, below) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        all.extend(list_rules(below, &join(field, name)));
    }
    if schema["items"].is_object() {
        all.extend(list_rules(&schema["items"], &format!("{field}[]")));
    }
    all
}

pub fn join(field: &str, name: &str) -> String {
    if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") }
}

/// Returns a field without its indexes: `spec.env[3].name` becomes `spec.env[].name`.
pub fn strip_indexes(field: &str) -> String {
    field.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}
