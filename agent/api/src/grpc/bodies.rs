//! The bodies of gRPC calls, within the memory that all bodies share with those of HTTP.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures::{StreamExt, stream};
use lockstep_proto::DESCRIPTORS;
use prost::DecodeError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::status::RETRY_AFTER;
use super::weigh::RequestTypes;
use crate::guard::{BODY_TIMEOUT, BodyBudget, BodyError, BodyMemory, RETRY_AFTER_S, read_body};

/// Beginning of the paths of reflection, whose calls are streams of questions.
const REFLECTION_PATH: &str = "/grpc.reflection.";
/// Longest question of reflection, in bytes.
pub(super) const MAX_QUESTION_BYTES: usize = 16 << 10;
/// Most calls of reflection at a time.
const MAX_REFLECTIONS: usize = 64;

/// Bounds of the bodies of all calls. Cheap to clone.
#[derive(Clone)]
pub(super) struct CallBodies {
    budget: BodyBudget,
    types: Arc<RequestTypes>,
    reflections: Arc<Semaphore>,
}

impl CallBodies {
    /// Makes the bounds, with the memory for bodies.
    ///
    /// # Errors
    /// Fails only if the build is defective: the compiled-in descriptors do not parse.
    pub(super) fn new(budget: BodyBudget) -> Result<Self, DecodeError> {
        let sets = [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let types = Arc::new(RequestTypes::from_descriptors(&sets)?);
        Ok(Self { budget, types, reflections: Arc::new(Semaphore::new(MAX_REFLECTIONS)) })
    }

    /// Reads the body of a call with one request. Returns the body and its memory.
    ///
    /// # Errors
    /// The body is malformed or too long, comes too slowly or breaks off, or there is no memory for it now.
    async fn read(&self, path: &str, body: Body) -> Result<(Body, BodyMemory), Status> {
        let mut memory = self.budget.body();
        let bytes = read_body(body, &mut memory).await.map_err(|error| refusal(&error))?;
        let weight = self.types.weigh(path, &bytes);
        let weight = weight.ok_or_else(|| Status::invalid_argument("the request is malformed: it is no protobuf"))?;
        memory.grow_to_values(weight).map_err(|error| refusal(&error))?;
        Ok((bytes.into(), memory))
    }
}

/// Reads the body of a call before the service sees it, or refuses the call. The body keeps its memory until the response
/// begins. The body of an unknown method is not read.
pub(super) async fn read_bodies(State(bodies): State<CallBodies>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path.starts_with(REFLECTION_PATH) {
        let Ok(turn) = bodies.reflections.clone().try_acquire_owned() else {
            return Status::resource_exhausted("too many calls of reflection at a time: try again later").into_http();
        };
        return next.run(Request::from_parts(parts, paced(body, turn))).await;
    }
    if !bodies.types.has_method(path) {
        return next.run(Request::from_parts(parts, Body::empty())).await;
    }
    match bodies.read(path, body).await {
        Ok((body, _memory)) => next.run(Request::from_parts(parts, body)).await,
        Err(status) => status.into_http(),
    }
}

/// Returns the stream of questions of a call. It fails after a pause of [`BODY_TIMEOUT`]. The call keeps its turn until the
/// stream is dropped.
fn paced(body: Body, turn: OwnedSemaphorePermit) -> Body {
    Body::from_stream(stream::try_unfold((body.into_data_stream(), turn), |(mut rest, turn)| async move {
        match tokio::time::timeout(BODY_TIMEOUT, rest.next()).await {
            Ok(Some(data)) => Ok(Some((data.map_err(|error| Status::cancelled(error.to_string()))?, (rest, turn)))),
            Ok(None) => Ok(None),
            Err(_) => {
                let reason = format!("no question came within {} s: call again", BODY_TIMEOUT.as_secs());
                Err(Status::deadline_exceeded(reason))
            }
        }
    }))
}

/// Returns the status of a call whose body was not taken.
fn refusal(error: &BodyError) -> Status {
    let code = match error {
        BodyError::TooLong | BodyError::TooManyValues => Code::OutOfRange,
        BodyError::TooSlow(_) => Code::DeadlineExceeded,
        BodyError::NoMemory => Code::ResourceExhausted,
        BodyError::Broken(_) => Code::Cancelled,
    };
    let mut status = Status::new(code, error.to_string());
    if *error == BodyError::NoMemory {
        status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from(RETRY_AFTER_S));
    }
    status
}
