//! gRPC client of a group.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::generate_request::Prompt;
use lockstep_proto::v1::inference_client::InferenceClient;
use lockstep_proto::v1::{
    ClusterStatus, FinishReason, GenerateRequest, GenerateResponse, GetStatusRequest, Limits, Sampling, TokenIds,
};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::process::LONGEST_WAIT;

/// Clients of a group's two services. Clones share one connection.
#[derive(Clone)]
pub struct Client {
    pub inference: InferenceClient<Channel>,
    pub cluster: ClusterClient<Channel>,
}

/// Whole answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub text: String,
    pub finish: FinishReason,
}

impl Client {
    pub async fn connect(port: u16) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
        let channel = endpoint.connect_timeout(Duration::from_secs(20)).connect().await?;
        Ok(Self::over(channel))
    }

    /// Makes a client that connects to `url` at its first request, and again after each broken connection.
    ///
    /// # Errors
    /// Fails if `url` is none.
    pub fn lazy(url: String) -> Result<Self, tonic::transport::Error> {
        Ok(Self::over(Endpoint::from_shared(url)?.connect_lazy()))
    }

    /// Makes a client that uses `channel`.
    pub fn over(channel: Channel) -> Self {
        Self { inference: InferenceClient::new(channel.clone()), cluster: ClusterClient::new(channel) }
    }

    pub async fn status(&mut self) -> Result<ClusterStatus, Status> {
        Ok(self.cluster.get_status(GetStatusRequest {}).await?.into_inner())
    }

    pub async fn stream(&mut self, request: GenerateRequest) -> Result<Streaming<GenerateResponse>, Status> {
        Ok(self.inference.generate(request).await?.into_inner())
    }

    /// Returns the whole answer to a request.
    pub async fn generate(&mut self, request: GenerateRequest) -> Result<Answer, Status> {
        self.generate_and_count(request, &AtomicUsize::new(0)).await
    }

    /// Works like [`Client::generate`], and adds each token to `count` when it comes.
    pub async fn generate_and_count(
        &mut self,
        request: GenerateRequest,
        count: &AtomicUsize,
    ) -> Result<Answer, Status> {
        let mut stream = self.stream(request).await?;
        let mut answer = Answer { tokens: Vec::new(), text: String::new(), finish: FinishReason::Unspecified };
        while let Some(part) = stream.message().await? {
            answer.tokens.extend(&part.token_ids);
            answer.text.push_str(&part.text);
            answer.finish = part.finish_reason();
            count.fetch_add(part.token_ids.len(), Ordering::Relaxed);
        }
        Ok(answer)
    }
}

/// Answers to several requests at once. A test can do something to the group when a number of tokens has come.
pub struct Answers {
    tokens: Arc<AtomicUsize>,
    task: JoinHandle<Result<Vec<Answer>, Status>>,
}

impl Answers {
    pub fn begin(client: &Client, requests: impl IntoIterator<Item = GenerateRequest>) -> Self {
        let tokens = Arc::<AtomicUsize>::default();
        let all = requests.into_iter().map(|request| {
            let (mut client, tokens) = (client.clone(), tokens.clone());
            async move { client.generate_and_count(request, &tokens).await }
        });
        let task = tokio::spawn(futures::future::try_join_all(all.collect::<Vec<_>>()));
        Self { tokens, task }
    }

    /// Waits until `count` tokens of all answers together have come.
    pub async fn await_tokens(&self, count: usize) {
        let began = Instant::now();
        loop {
            let ended = self.task.is_finished();
            if self.tokens.load(Ordering::Relaxed) >= count {
                return;
            }
            assert!(!ended, "the answers ended before {count} tokens");
            assert!(began.elapsed() < LONGEST_WAIT, "timed out while waiting for {count} tokens");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Returns the whole answers, in the order of the requests.
    ///
    /// # Errors
    /// The first answer that failed.
    pub async fn all(self) -> Result<Vec<Answer>, Status> {
        self.task.await.expect("the task of the answers")
    }
}

/// Makes a greedy request of token ids that ends after `max_tokens` tokens and at no end token.
pub fn greedy(prompt: &[u32], max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt::TokenIds(TokenIds { ids: prompt.to_vec() })),
        sampling: Some(Sampling { temperature: Some(0.0), ..Default::default() }),
        limits: Some(Limits { max_tokens: Some(max_tokens), ignore_eos: true, ..Default::default() }),
        ..Default::default()
    }
}

/// Makes a sampled request of token ids.
pub fn sampled(prompt: &[u32], max_tokens: u32, seed: u64) -> GenerateRequest {
    let sampling =
        Sampling { temperature: Some(0.9), top_k: Some(20), top_p: Some(0.95), seed: Some(seed), ..Default::default() };
    GenerateRequest { sampling: Some(sampling), ..greedy(prompt, max_tokens) }
}
