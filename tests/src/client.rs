//! A gRPC client of a group.

use std::time::Duration;

use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::generate_request::Prompt;
use lockstep_proto::v1::inference_client::InferenceClient;
use lockstep_proto::v1::{
    ClusterStatus, FinishReason, GenerateRequest, GenerateResponse, GetStatusRequest, Limits, Sampling, TokenIds,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub inference: InferenceClient<Channel>,
    pub cluster: ClusterClient<Channel>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub text: String,
    pub finish: FinishReason,
}

impl Client {
    pub async fn connect(port: u16) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
        let channel = endpoint.connect_timeout(Duration::from_secs(2)).connect().await?;
        Ok(Self::over(channel))
    }

    /// A client that speaks over `channel`.
    pub fn over(channel: Channel) -> Self {
        Self { inference: InferenceClient::new(channel.clone()), cluster: ClusterClient::new(channel) }
    }

    pub async fn status(&mut self) -> Result<ClusterStatus, Status> {
        Ok(self.cluster.get_status(GetStatusRequest {}).await?.into_inner())
    }

    pub async fn stream(&mut self, request: GenerateRequest) -> Result<Streaming<GenerateResponse>, Status> {
        Ok(self.inference.generate(request).await?.into_inner())
    }

    /// The whole answer to a request.
    pub async fn generate(&mut self, request: GenerateRequest) -> Result<Answer, Status> {
        let mut stream = self.stream(request).await?;
        let mut answer = Answer { tokens: Vec::new(), text: String::new(), finish: FinishReason::Unspecified };
        while let Some(part) = stream.message().await? {
            answer.tokens.extend(&part.token_ids);
            answer.text.push_str(&part.text);
            answer.finish = part.finish_reason();
        }
        Ok(answer)
    }
}

/// A greedy request of token ids that ends after so many tokens and at no end token.
pub fn greedy(prompt: &[u32], max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(Prompt::TokenIds(TokenIds { ids: prompt.to_vec() })),
        sampling: Some(Sampling { temperature: Some(0.0), ..Default::default() }),
        limits: Some(Limits { max_tokens: Some(max_tokens), ignore_eos: true, ..Default::default() }),
        ..Default::default()
    }
}

/// A sampled request of token ids.
pub fn sampled(prompt: &[u32], max_tokens: u32, seed: u64) -> GenerateRequest {
    let sampling =
        Sampling { temperature: Some(0.9), top_k: Some(20), top_p: Some(0.95), seed: Some(seed), ..Default::default() };
    GenerateRequest { sampling: Some(sampling), ..greedy(prompt, max_tokens) }
}
