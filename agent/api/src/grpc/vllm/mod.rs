//! `vllm.grpc.engine.VllmEngine`: the protocol that routers speak with an engine of vLLM.
//!
//! A router renders the chat template and turns tokens into text itself, by the tokenizer that it fetches here. So token
//! ids come in and go out. A text prompt is taken as well.

mod answers;
mod archive;
mod events;
mod info;
mod request;
mod running;

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lockstep_proto::smg::grpc::common::{
    FlushCacheRequest, FlushCacheResponse, GetTokenizerChunk, GetTokenizerRequest, KvEventBatch, ProfileResponse,
    StartProfileRequest, StopProfileRequest, SubscribeKvEventsRequest,
};
use lockstep_proto::vllm::grpc::engine::vllm_engine_server::VllmEngine;
use lockstep_proto::vllm::grpc::engine::{
    AbortRequest, AbortResponse, EmbedRequest, EmbedResponse, GenerateRequest, GetLoadsRequest, GetLoadsResponse,
    GetModelInfoRequest, GetModelInfoResponse, GetServerInfoRequest, GetServerInfoResponse, HealthCheckRequest,
    HealthCheckResponse,
};
use tokio::sync::OnceCell;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::status::{add_request_id, read_deadline, read_request_id, status};
use crate::access::AnswerTally;
use crate::session::{Api, GenerateInput, RequestError};
use answers::{Generated, Shape};
use archive::Archive;
use info::Activity;
use running::Running;

pub(crate) struct EngineService {
    api: Api,
    running: Running,
    activity: Activity,
    archive: OnceCell<Arc<Archive>>,
}

impl EngineService {
    pub(crate) fn new(api: Api) -> Self {
        Self { api, running: Running::default(), activity: Activity::default(), archive: OnceCell::new() }
    }

    /// Reads a request and its metadata.
    ///
    /// # Errors
    /// Names the field that is wrong.
    fn read(&self, metadata: &MetadataMap, request: GenerateRequest) -> Result<(GenerateInput, Shape), RequestError> {
        let deadline = read_deadline(metadata)?;
        let (mut input, shape) = request::read(request, self.api.text().context_length)?;
        input.deadline = deadline;
        Ok((input, shape))
    }
}

#[tonic::async_trait]
impl VllmEngine for EngineService {
    type GenerateStream = Generated;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Generated>, Status> {
        self.activity.note_request();
        let (metadata, _, mut request) = request.into_parts();
        // The session counts the requests that it refuses itself.
        let refuse = |error: RequestError, request_id: &str| {
            self.api.metrics().count_outcome(error.outcome());
            status(&error, request_id)
        };
        let own_id = std::mem::take(&mut request.request_id);
        let request_id =
            request::request_name(own_id, &metadata).map_err(|error| refuse(error, &read_request_id(&metadata)))?;
        let read = self.read(&metadata, request);
        let (mut input, shape) = read.map_err(|error| refuse(error, &request_id))?;
        input.request_id.clone_from(&request_id);
        let choices = input.choices.unwrap_or(1);
        let (entry, tally) = (Arc::new(self.running.enter(&request_id)), AnswerTally::default());
        let messages = tokio::select! {
            biased;
            () = entry.aborted() => answers::aborted(choices),
            answers = self.api.generate(input) => {
                let answers = answers.map_err(|error| status(&error, &request_id))?;
                answers::messages(answers, &Arc::new(shape), &entry, self.api.text().tokenizer(), &tally)
            }
        };
        let mut response = Response::new(messages);
        add_request_id(response.metadata_mut(), &request_id);
        response.extensions_mut().insert(tally);
        Ok(response)
    }

    async fn embed(&self, _: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        let model = &self.api.model().name;
        Err(Status::unimplemented(format!("Embed: {model:?} generates text and makes no embeddings: call Generate")))
    }

    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let response = info::health(&self.api.status().borrow(), self.api.hung_for());
        Ok(Response::new(response))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<AbortResponse>, Status> {
        for request_id in request.into_inner().request_ids {
            let found = self.running.abort(&request_id);
            tracing::info!(request_id, found, "a client aborts a request");
        }
        Ok(Response::new(AbortResponse {}))
    }

    async fn get_model_info(&self, _: Request<GetModelInfoRequest>) -> Result<Response<GetModelInfoResponse>, Status> {
        Ok(Response::new(info::model_info(&self.api)))
    }

    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        Ok(Response::new(self.activity.server_info(&self.api)))
    }

    async fn get_loads(&self, request: Request<GetLoadsRequest>) -> Result<Response<GetLoadsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        request::check_rank("dp_rank", request.dp_rank).map_err(|error| status(&error, &read_request_id(&metadata)))?;
        Ok(Response::new(self.activity.loads(&self.api)))
    }

    type GetTokenizerStream = BoxStream<'static, Result<GetTokenizerChunk, Status>>;

    async fn get_tokenizer(
        &self,
        _: Request<GetTokenizerRequest>,
    ) -> Result<Response<Self::GetTokenizerStream>, Status> {
        let make = || {
            let engine = self.api.engine().clone();
            async move {
                let archive = tokio::task::spawn_blocking(move || Archive::new(&engine.files)).await;
                archive.map_err(|error| Status::internal(error.to_string()))?.map(Arc::new)
            }
        };
        let archive = self.archive.get_or_try_init(make).await?.clone();
        let chunks = (0..archive.chunks()).map(move |at| Ok(archive.chunk(at)));
        Ok(Response::new(stream::iter(chunks).boxed()))
    }

    async fn flush_cache(&self, _: Request<FlushCacheRequest>) -> Result<Response<FlushCacheResponse>, Status> {
        Err(Status::unimplemented(
            "FlushCache: the head forgets the oldest blocks of the prefix cache by itself when it needs room",
        ))
    }

    async fn start_profile(&self, _: Request<StartProfileRequest>) -> Result<Response<ProfileResponse>, Status> {
        Err(Status::unimplemented(NO_PROFILER))
    }

    async fn stop_profile(&self, _: Request<StopProfileRequest>) -> Result<Response<ProfileResponse>, Status> {
        Err(Status::unimplemented(NO_PROFILER))
    }

    type SubscribeKvEventsStream = BoxStream<'static, Result<KvEventBatch, Status>>;

    async fn subscribe_kv_events(
        &self,
        request: Request<SubscribeKvEventsRequest>,
    ) -> Result<Response<Self::SubscribeKvEventsStream>, Status> {
        let Some(feed) = self.api.block_feed() else {
            return Err(Status::unimplemented(
                "SubscribeKvEvents: the events have the tokens of all prompts, so the head sends them only with --kv-events; \
                 without them, a router polls GetLoads and finds shared prefixes by the prompts that it sent",
            ));
        };
        let start = request.into_inner().start_sequence_number;
        Ok(Response::new(events::batches(feed.subscribe(), start, self.api.status())))
    }
}

const NO_PROFILER: &str =
    "the ranks have no profiler: the metrics at /metrics of the HTTP port show the duration of each rank's steps";
