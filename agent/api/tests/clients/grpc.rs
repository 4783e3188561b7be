//! The gRPC endpoint over a socket: streams, errors, health, reflection.

use std::collections::BTreeSet;

use crate::common::*;
use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::generate_request::Prompt;
use lockstep_proto::v1::grammar::Kind;
use lockstep_proto::v1::inference_client::InferenceClient;
use lockstep_proto::v1::{
    ChatMessage, ChatRequest, ClusterStatus, DetokenizeRequest, FinishReason, GenerateRequest, GenerateResponse,
    GetModelInfoRequest, GetStatusRequest, Grammar, Limits, ListModelsRequest, Sampling, TokenIds, TokenizeRequest,
    Tool, ToolChoice, WatchRequest,
};
use lockstep_schedule::plan::Penalties;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

async fn channel(endpoint: &Endpoint) -> Channel {
    Channel::from_shared(format!("http://{}", endpoint.grpc)).unwrap().connect().await.unwrap()
}

async fn client(endpoint: &Endpoint) -> InferenceClient<Channel> {
    InferenceClient::new(channel(endpoint).await)
}

fn generate(prompt: &str) -> GenerateRequest {
    GenerateRequest { prompt: Some(Prompt::Text(prompt.into())), ..Default::default() }
}

async fn gather(
    client: &mut InferenceClient<Channel>,
    request: impl tonic::IntoRequest<GenerateRequest>,
) -> Result<Vec<GenerateResponse>, Status> {
    let mut stream = client.generate(request).await?.into_inner();
    let mut responses = vec![];
    while let Some(response) = stream.next().await {
        responses.push(response?);
    }
    Ok(responses)
}

fn text(responses: &[GenerateResponse]) -> String {
    responses.iter().map(|response| response.text.as_str()).collect()
}

#[tokio::test]
async fn answers_stream() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let limits = |stop: &str| Some(Limits { stop: vec![stop.into()], ..Default::default() });
    let ids = TokenIds { ids: b"abc".iter().map(|byte| u32::from(*byte)).collect() };
    let ids = GenerateRequest { prompt: Some(Prompt::TokenIds(ids)), ..Default::default() };
    let cut = Some(Limits { max_tokens: Some(2), ..Default::default() });
    let cases = [
        (generate("hello 日本"), "hello 日本", FinishReason::Stop),
        (GenerateRequest { model: "tiny".into(), ..generate("x") }, "x", FinishReason::Stop),
        (GenerateRequest { limits: limits("lo wo"), ..generate("hello world") }, "hel", FinishReason::Stop),
        (GenerateRequest { limits: cut, ..generate("abc") }, "ab", FinishReason::Length),
        (generate(DRAIN), DRAIN, FinishReason::Cancelled),
        (ids, "abc", FinishReason::Stop),
    ];
    for (request, expected, finish) in cases {
        let responses = gather(&mut client, request.clone()).await.unwrap();
        let (first, last) = (&responses[0], responses.last().unwrap());
        assert_eq!(text(&responses), expected);
        assert_eq!(last.finish_reason(), finish, "{request:?}");
        assert!(responses[..responses.len() - 1].iter().all(|r| r.finish_reason() == FinishReason::Unspecified));
        assert_eq!(first.usage.unwrap().cached_tokens, 2);
        let tokens: usize = responses.iter().map(|response| response.token_ids.len()).sum();
        assert_eq!(last.usage.unwrap().completion_tokens as usize, tokens);
        assert!(!last.request_id.is_empty());
    }
}

#[tokio::test]
async fn requests_reach_the_head_as_sent() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let sampling = Sampling {
        temperature: Some(0.5),
        top_k: Some(3),
        top_p: Some(0.9),
        seed: Some(11),
        min_p: Some(0.1),
        repetition_penalty: Some(1.2),
        presence_penalty: Some(0.3),
        frequency_penalty: Some(-0.4),
        logit_bias: [(9, 1.0), (4, -2.0)].into(),
    };
    let message = ChatMessage { role: "user".into(), content: "hi".into(), ..Default::default() };
    let request = ChatRequest {
        messages: vec![message],
        sampling: Some(sampling),
        logprobs: Some(2),
        limits: Some(Limits { ignore_eos: true, min_tokens: 2, ..Default::default() }),
        ..Default::default()
    };
    let mut request = Request::new(request);
    request.set_timeout(std::time::Duration::from_secs(30));
    request.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
    let response = client.chat(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "mine");
    let responses: Vec<GenerateResponse> = response.into_inner().map(Result::unwrap).collect().await;
    let logprobs: Vec<_> = responses.iter().flat_map(|response| &response.logprobs).collect();
    assert_eq!((logprobs.len(), logprobs[1].top[0].text.as_str(), logprobs[1].top[1].text.as_str()), (3, "h", "x"));
    let seen = endpoint.seen.lock().unwrap()[0].clone();
    assert_eq!(seen.request_id, "mine");
    assert_eq!((seen.sampling.temperature, seen.sampling.top_k, seen.sampling.seed), (0.5, 3, 11));
    assert_eq!((seen.sampling.min_p, &seen.sampling.logit_bias), (0.1, &vec![(4, -2.0), (9, 1.0)]));
    assert_eq!(seen.sampling.penalties, Penalties { repetition: 1.2, presence: 0.3, frequency: -0.4 });
    assert_eq!(seen.sampling.suppressed_until, seen.prompt.len() as u32 + 2);
    assert_eq!(seen.deadline.unwrap().as_secs(), 30);
    assert!(seen.stop_token_ids.is_empty(), "end tokens ignored");
    assert_eq!(seen.max_tokens, CONTEXT - 3);

    let limits = Limits { max_tokens: Some(0), ..Default::default() };
    let request = GenerateRequest { prompt_logprobs: Some(1), limits: Some(limits), ..generate("abc") };
    let responses = gather(&mut client, request).await.unwrap();
    let prompt: Vec<_> = responses.iter().flat_map(|response| &response.prompt).collect();
    assert_eq!(prompt.iter().map(|token| token.token_id).collect::<Vec<_>>(), [98, 99]);
    assert_eq!((prompt[0].logprob, prompt[0].rank, prompt[0].top[0].text.as_str()), (-0.25, 2, "x"));
    assert!(responses.iter().all(|response| response.token_ids.is_empty()));
    endpoint.seen.lock().unwrap().pop();

    gather(&mut client, generate("hi")).await.unwrap();
    let seen = endpoint.seen.lock().unwrap()[1].clone();
    assert_eq!((seen.sampling.temperature, seen.stop_token_ids), (0.0, vec![END]), "the model's defaults");
}

#[tokio::test]
async fn calls_are_streamed() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let text = "<think>hm</think><tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
    let request = |content: &str| ChatRequest {
        messages: vec![ChatMessage { role: "user".into(), content: content.into(), ..Default::default() }],
        tools: vec![Tool { name: "add".into(), parameters: "{\"type\": \"object\"}".into(), ..Default::default() }],
        ..Default::default()
    };
    let stream = client.chat(request(text)).await.unwrap().into_inner();
    let responses: Vec<GenerateResponse> = stream.map(Result::unwrap).collect().await;
    let parts: Vec<_> = responses.iter().flat_map(|response| &response.tool_calls).collect();
    assert_eq!(parts.iter().map(|part| part.name.as_str()).collect::<String>(), "add");
    assert_eq!(parts.iter().map(|part| part.arguments.as_str()).collect::<String>(), "{\"a\": 1}");
    assert_eq!(responses.iter().map(|response| response.reasoning.as_str()).collect::<String>(), "hm");
    assert_eq!(responses.last().unwrap().finish_reason(), FinishReason::ToolCalls);

    let choice = Some(ToolChoice { name: "add".into(), ..Default::default() });
    client.chat(ChatRequest { tool_choice: choice, ..request("x") }).await.unwrap();
    assert!(endpoint.seen.lock().unwrap().pop().unwrap().guide.is_some());
    let wrong = vec![Tool { name: "f".into(), parameters: "[]".into(), ..Default::default() }];
    let refused = client.chat(ChatRequest { tools: wrong, ..request("x") }).await.unwrap_err();
    assert!(refused.message().starts_with("tools: the parameters of \"f\" are no JSON object"), "{refused:?}");
    let grammar = Some(Grammar { kind: Some(Kind::Regex("(".into())) });
    let refused = gather(&mut client, GenerateRequest { grammar, ..generate("x") }).await.unwrap_err();
    assert!(refused.message().starts_with("grammar: "), "{refused:?}");
}

#[tokio::test]
async fn choices_come_in_one_stream() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let responses = gather(&mut client, GenerateRequest { n: Some(3), ..generate("hello") }).await.unwrap();
    for choice in 0..3 {
        let own: Vec<_> = responses.iter().filter(|response| response.choice == choice).cloned().collect();
        assert_eq!((text(&own).as_str(), own.last().unwrap().finish_reason()), ("hello", FinishReason::Stop));
        let prompt_tokens = own.last().unwrap().usage.unwrap().prompt_tokens;
        assert_eq!(prompt_tokens, u32::from(choice == 0), "the prompt is counted once");
    }
    let choices: Vec<u32> = endpoint.seen.lock().unwrap().iter().map(|seen| seen.sampling.choice).collect();
    assert_eq!(choices, [0, 1, 2]);
    let refused = gather(&mut client, GenerateRequest { n: Some(2), ..generate(BREAK) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test]
async fn errors_have_their_codes() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let sampling = Some(Sampling { top_p: Some(2.0), ..Default::default() });
    let cases = [
        (GenerateRequest::default(), Code::InvalidArgument, "prompt: the prompt is empty", None),
        (GenerateRequest { sampling, ..generate("x") }, Code::InvalidArgument, "top_p: 2 is out of range", None),
        (generate(&"x ".repeat(300)), Code::InvalidArgument, "prompt: this model's maximum context", None),
        (GenerateRequest { model: "gpt".into(), ..generate("x") }, Code::NotFound, "no model is called \"gpt\"", None),
        (generate(FULL), Code::ResourceExhausted, "the queue is full", Some("2")),
        (generate(LOST), Code::Unavailable, "rank 1 is lost", Some("7")),
        (generate(BREAK), Code::Unavailable, "rank 1 is lost", Some("7")),
        (generate(UNREAD), Code::ResourceExhausted, "the answer was ended because it was read too slowly", None),
    ];
    for (request, code, message, retry_after) in cases {
        let mut request = Request::new(request);
        request.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
        let status = gather(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(message), "{status:?}");
        assert_eq!(status.metadata().get("retry-after").map(|seconds| seconds.to_str().unwrap()), retry_after);
        assert_eq!(status.metadata().get("x-request-id").unwrap(), "mine");
    }
    let oversized = gather(&mut client, generate(&"x".repeat(17 << 20))).await.unwrap_err();
    assert_eq!(oversized.code(), Code::OutOfRange, "{oversized:?}");
}

#[tokio::test]
async fn cancelled_and_late_calls_free_the_head() {
    let mut endpoint = start().await;
    let mut client = client(&endpoint).await;
    let mut stream = client.generate(generate(SLOW)).await.unwrap().into_inner();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    assert!(endpoint.cancelled.recv().await.is_some());

    // If the 50 ms call expires before it reaches the head, nothing needs cancelling. The 1 s call then tests it.
    for timeout in ["50m", "1S"] {
        let mut request = Request::new(generate(SLOW));
        request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
        let status = gather(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        if endpoint.seen.lock().unwrap().len() > 1 {
            assert!(endpoint.cancelled.recv().await.is_some());
            return;
        }
    }
    panic!("the head heard of neither");
}

#[tokio::test]
async fn tokens_and_models() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let text = "hello<|end|>".to_owned();
    let request = TokenizeRequest { text: text.clone(), ..Default::default() };
    let token_ids = client.tokenize(request).await.unwrap().into_inner().token_ids;
    assert_eq!(token_ids, [259, END]);
    for (skip_special_tokens, expected) in [(false, text.as_str()), (true, "hello")] {
        let request = DetokenizeRequest { token_ids: token_ids.clone(), skip_special_tokens, ..Default::default() };
        assert_eq!(client.detokenize(request).await.unwrap().into_inner().text, expected);
    }
    let request = DetokenizeRequest { token_ids: vec![9999], ..Default::default() };
    assert_eq!(client.detokenize(request).await.unwrap_err().code(), Code::InvalidArgument);
    let models = client.list_models(ListModelsRequest {}).await.unwrap().into_inner().models;
    assert_eq!((models.len(), models[0].name.as_str(), models[0].context_length), (1, "tiny", CONTEXT));
    for (model, code) in [("", None), ("default", None), ("tiny", None), ("gpt", Some(Code::NotFound))] {
        let answer = client.get_model_info(GetModelInfoRequest { model: model.into() }).await;
        assert_eq!(answer.err().map(|status| status.code()), code);
    }
}

#[tokio::test]
async fn status_and_health_follow_the_group() {
    let endpoint = start().await;
    let channel = channel(&endpoint).await;
    let mut cluster = ClusterClient::new(channel.clone());
    let mut health = HealthClient::new(channel);
    let status = cluster.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.epoch, status.ranks.len()), (1, 2));
    let mut watch = cluster.watch(WatchRequest {}).await.unwrap().into_inner();
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    let mut health_watch = health.watch(check("")).await.unwrap().into_inner();
    assert!(watch.next().await.unwrap().unwrap().ready);
    assert_eq!(health_watch.next().await.unwrap().unwrap().status, 1);

    endpoint.status.send_replace(ClusterStatus { ready: false, epoch: 2, ..serving() });
    let seen = watch.next().await.unwrap().unwrap();
    assert_eq!((seen.ready, seen.epoch), (false, 2));
    assert_eq!(health_watch.next().await.unwrap().unwrap().status, 2);
    for (service, expected) in [("", 2), ("lockstep.v1.Inference", 2), ("accepting", 1)] {
        assert_eq!(health.check(check(service)).await.unwrap().into_inner().status, expected, "{service}");
    }
    assert_eq!(health.check(check("other")).await.unwrap_err().code(), Code::NotFound);

    endpoint.shutdown.cancel();
    assert!(watch.next().await.is_none(), "watches do not hold a shutdown up");
    assert!(health_watch.next().await.is_none());
    for served in endpoint.served {
        served.await.unwrap();
    }
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};
    let endpoint = start().await;
    let mut client = ServerReflectionClient::new(channel(&endpoint).await);
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut stream = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = stream.next().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: BTreeSet<String> = list.service.into_iter().map(|ServiceResponse { name }| name).collect();
    for name in ["lockstep.v1.Inference", "lockstep.v1.Cluster", "grpc.health.v1.Health", "vllm.grpc.engine.VllmEngine"]
    {
        assert!(names.contains(name), "{names:?}");
    }
}

/// Sends a call whose message is whole and whose body does not end.
async fn call_without_end(channel: Channel, request: GenerateRequest) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = "/lockstep.v1.Inference/Generate".parse().unwrap();
    let request = Request::new(tokio_stream::once(request).chain(tokio_stream::pending()));
    let codec = tonic_prost::ProstCodec::<GenerateRequest, GenerateResponse>::default();
    client.streaming(request, path, codec).await.expect_err("an unfinished body is not served")
}

/// Bodies that stay unfinished take no room from small ones, and HTTP and gRPC share the memory.
#[tokio::test]
async fn bodies_have_a_budget_of_memory() {
    let endpoint = start().await;
    let ids = TokenIds { ids: vec![1; 9 << 20] };
    let ids = GenerateRequest { prompt: Some(Prompt::TokenIds(ids)), ..Default::default() };
    let mut own = client(&endpoint).await;
    let values = gather(&mut own, ids).await.unwrap_err();
    assert_eq!(values.code(), Code::OutOfRange, "{values:?}");
    assert!(values.message().starts_with("the body has too many values"), "{values:?}");

    let large = generate(&"x".repeat(15_900_000));
    let mut unfinished = tokio::task::JoinSet::new();
    for _ in 0..5 {
        unfinished.spawn(call_without_end(channel(&endpoint).await, large.clone()));
    }
    let refused = unfinished.join_next().await.unwrap().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().ends_with("try again in 2 s"), "{refused:?}");
    assert_eq!(refused.metadata().get("retry-after").unwrap(), "2");
    assert_eq!(text(&gather(&mut own, generate("x")).await.unwrap()), "x", "a small body has room");
    // The other bodies are still on their way.
    let (url, large) = (format!("http://{}/v1/completions", endpoint.http), "x".repeat(4 << 20));
    let post = || reqwest::Client::new().post(&url).body(format!(r#"{{"prompt": "{large}"}}"#)).send();
    let mut tries = 0;
    while post().await.unwrap().status() != 503 {
        tries += 1;
        assert!(tries < 100, "HTTP has memory of its own");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    unfinished.shutdown().await;
    for _ in 0..100 {
        let status = gather(&mut own, generate(&"x".repeat(4 << 20))).await.unwrap_err();
        if status.code() == Code::InvalidArgument {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the memory is not given back");
}

#[tokio::test]
async fn malformed_and_unknown_calls_are_refused() {
    let endpoint = start().await;
    let mut client = tonic::client::Grpc::new(channel(&endpoint).await);
    for (path, code) in [
        ("/lockstep.v1.Inference/Chat", Code::InvalidArgument),
        ("/vllm.grpc.engine.VllmEngine/Generate", Code::InvalidArgument),
        ("/lockstep.v1.Inference/Other", Code::Unimplemented),
        ("/other.Service/Other", Code::Unimplemented),
    ] {
        client.ready().await.unwrap();
        // A text where messages are expected.
        let request = Request::new(GenerateRequest {
            model: "x".into(),
            prompt: Some(Prompt::Text("\u{7}".into())),
            ..Default::default()
        });
        let codec = tonic_prost::ProstCodec::<GenerateRequest, GenerateResponse>::default();
        let status = client.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), code, "{path}: {status:?}");
    }
}
