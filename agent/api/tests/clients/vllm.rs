//! `vllm.grpc.engine.VllmEngine` over a socket: what a router asks of an engine.

use crate::common::*;
use lockstep_proto::smg::grpc::common::{
    FlushCacheRequest, GetTokenizerRequest, StartProfileRequest, StopProfileRequest, SubscribeKvEventsRequest,
};
use lockstep_proto::v1::ClusterStatus;
use lockstep_proto::vllm::grpc::engine::generate_complete::MatchedStop;
use lockstep_proto::vllm::grpc::engine::generate_request::Input;
use lockstep_proto::vllm::grpc::engine::generate_response::Response;
use lockstep_proto::vllm::grpc::engine::sampling_params::Constraint;
use lockstep_proto::vllm::grpc::engine::vllm_engine_client::VllmEngineClient;
use lockstep_proto::vllm::grpc::engine::{
    AbortRequest, EmbedRequest, GenerateComplete, GenerateRequest, GenerateStreamChunk, GetLoadsRequest,
    GetModelInfoRequest, GetServerInfoRequest, HealthCheckRequest, SamplingParams, TokenizedInput,
};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};

async fn client(endpoint: &Endpoint) -> VllmEngineClient<Channel> {
    VllmEngineClient::connect(format!("http://{}", endpoint.grpc)).await.unwrap()
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn tokenized(text: &str) -> GenerateRequest {
    let input = TokenizedInput { original_text: text.into(), input_ids: ids(text) };
    GenerateRequest { input: Some(Input::Tokenized(input)), ..Default::default() }
}

fn with(request: GenerateRequest, params: SamplingParams) -> GenerateRequest {
    GenerateRequest { sampling_params: Some(params), ..request }
}

/// Returns the chunks and the last messages of an answer.
async fn gather(
    client: &mut VllmEngineClient<Channel>,
    request: GenerateRequest,
) -> Result<(Vec<GenerateStreamChunk>, Vec<GenerateComplete>), Status> {
    let mut stream = client.generate(request).await?.into_inner();
    let (mut chunks, mut complete) = (vec![], vec![]);
    while let Some(response) = stream.next().await {
        match response?.response.unwrap() {
            Response::Chunk(chunk) => chunks.push(chunk),
            Response::Complete(last) => complete.push(last),
        }
    }
    Ok((chunks, complete))
}

#[tokio::test]
async fn answers_are_token_ids() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let cut = SamplingParams { max_tokens: Some(2), ..Default::default() };
    let stop = SamplingParams { stop: vec!["lo wo".into()], ..Default::default() };
    let short = SamplingParams { truncate_prompt_tokens: Some(2), ..Default::default() };
    let text = GenerateRequest { input: Some(Input::Text("hello".into())), ..Default::default() };
    let token = SamplingParams { stop_token_ids: vec![u32::from(b'c')], ..Default::default() };
    let special = SamplingParams { stop: vec!["<|user|>".into()], ..Default::default() };
    let before = |token| TokenizedInput { input_ids: [ids("ab"), vec![token, 99]].concat(), ..Default::default() };
    let ended = |token| GenerateRequest { input: Some(Input::Tokenized(before(token))), ..Default::default() };
    let matched = |text: &str| Some(MatchedStop::MatchedStopStr(text.into()));
    let cases = [
        (tokenized("abc"), ids("abc"), "stop", None),
        (text, vec![259], "stop", None),
        (with(tokenized("abc"), cut), ids("ab"), "length", None),
        // The tokens that wrote the stop string are part of the answer, as with vLLM.
        (with(tokenized("hello world"), stop), ids("hello wo"), "stop", matched("lo wo")),
        (with(tokenized("abcd"), token), ids("ab"), "stop", Some(MatchedStop::MatchedTokenId(u32::from(b'c')))),
        (with(ended(END + 1), special), ids("ab"), "stop", matched("<|user|>")),
        (ended(END), ids("ab"), "stop", None),
        (with(tokenized("abc"), short), ids("bc"), "stop", None),
        (tokenized(DRAIN), ids(DRAIN), "abort", None),
    ];
    for (request, answer, finish_reason, matched_stop) in cases {
        let prompt_tokens = endpoint.seen.lock().unwrap().len();
        let (chunks, complete) = gather(&mut client, request.clone()).await.unwrap();
        let prompt = endpoint.seen.lock().unwrap()[prompt_tokens].prompt.len() as u32;
        let [last] = &complete[..] else { panic!("{complete:?}") };
        assert!(chunks.is_empty());
        assert_eq!((&last.output_ids, last.finish_reason.as_str()), (&answer, finish_reason), "{request:?}");
        assert_eq!(
            (last.completion_tokens as usize, last.prompt_tokens, last.cached_tokens),
            (answer.len(), prompt, 2)
        );
        assert_eq!(last.matched_stop, matched_stop);

        let (chunks, complete) = gather(&mut client, GenerateRequest { stream: true, ..request }).await.unwrap();
        let streamed: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.token_ids.clone()).collect();
        assert_eq!(streamed, answer);
        assert_eq!(complete[0], *last, "the last message has all tokens");
        assert!(chunks.iter().all(|chunk| chunk.completion_tokens as usize == chunk.token_ids.len()));
    }
}

#[tokio::test]
async fn requests_reach_the_head_as_sent() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let params = SamplingParams {
        temperature: Some(0.5),
        top_k: 3,
        n: 2,
        logprobs: Some(1),
        stop_token_ids: vec![7],
        constraint: Some(Constraint::JsonObject(true)),
        ..Default::default()
    };
    let request = GenerateRequest { request_id: "mine".into(), stream: true, ..with(tokenized("ab"), params) };
    let named = client.generate(request.clone()).await.unwrap();
    assert_eq!(named.metadata().get("x-request-id").unwrap(), "mine");
    drop(named);
    endpoint.seen.lock().unwrap().clear();
    let (chunks, complete) = gather(&mut client, request).await.unwrap();
    assert_eq!(complete.iter().map(|last| last.index).collect::<std::collections::BTreeSet<_>>(), [0, 1].into());
    assert!(complete.iter().all(|last| last.prompt_tokens == 2), "each choice counts the prompt");
    let logprobs = complete[0].output_logprobs.as_ref().unwrap();
    assert_eq!((&logprobs.token_ids, &logprobs.token_logprobs), (&ids("ab"), &vec![-0.5, -0.5]));
    assert_eq!((logprobs.top_logprobs.len(), &logprobs.top_logprobs[1].token_ids), (2, &ids("b")));
    assert!(chunks.iter().all(|chunk| chunk.output_logprobs.is_some()));
    let seen = endpoint.seen.lock().unwrap().clone();
    assert_eq!(seen.iter().map(|seen| seen.request_id.as_str()).collect::<Vec<_>>(), ["mine-0", "mine-1"]);
    assert_eq!((seen[0].sampling.temperature, seen[0].sampling.top_k), (0.5, 3));
    assert_eq!((&seen[0].stop_token_ids, seen[0].guide.is_some()), (&vec![7, END], true));

    gather(&mut client, tokenized("ab")).await.unwrap();
    let seen = endpoint.seen.lock().unwrap()[2].clone();
    assert_eq!(seen.sampling.temperature, 1.0, "the model's defaults are the router's to apply");
}

#[tokio::test]
async fn a_request_is_aborted_by_its_id() {
    let mut endpoint = start().await;
    let mut client = client(&endpoint).await;
    let slow = |stream| GenerateRequest { request_id: "slow-1".into(), stream, ..tokenized(SLOW) };
    let mut streamed = client.generate(slow(true)).await.unwrap().into_inner();
    let whole = client.generate(slow(false)).await.unwrap().into_inner();
    assert!(streamed.next().await.unwrap().is_ok());
    let abort = |id: &str| AbortRequest { request_ids: vec!["unknown".into(), id.into()] };
    client.abort(abort("slow")).await.unwrap();
    assert!(matches!(streamed.next().await.unwrap().unwrap().response, Some(Response::Chunk(_))), "another id");

    client.abort(abort("slow-1")).await.unwrap();
    for mut stream in [streamed, whole] {
        let mut last = None;
        while let Some(response) = stream.next().await {
            last = response.unwrap().response;
        }
        let Some(Response::Complete(last)) = last else { panic!("{last:?}") };
        assert_eq!(last.finish_reason, "abort");
        assert_eq!(endpoint.cancelled.recv().await.as_deref(), Some("slow-1"), "the head frees its blocks");
    }

    let dropped = client.generate(slow(true)).await.unwrap();
    drop(dropped);
    assert_eq!(endpoint.cancelled.recv().await.as_deref(), Some("slow-1"));
}

#[tokio::test]
async fn errors_have_their_codes() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let top_p = SamplingParams { top_p: 2.0, ..Default::default() };
    let prompt_logprobs = SamplingParams { prompt_logprobs: Some(1), ..Default::default() };
    let regex = SamplingParams { constraint: Some(Constraint::Regex("(".into())), ..Default::default() };
    let cases = [
        (GenerateRequest::default(), Code::InvalidArgument, "input: missing"),
        (GenerateRequest { request_id: "a b".into(), ..tokenized("x") }, Code::InvalidArgument, "request_id: expected"),
        (tokenized(""), Code::InvalidArgument, "prompt: the prompt is empty"),
        (with(tokenized("x"), top_p), Code::InvalidArgument, "top_p: 2 is out of range"),
        (with(tokenized("x"), prompt_logprobs), Code::InvalidArgument, "prompt_logprobs: not supported"),
        (with(tokenized("x"), regex), Code::InvalidArgument, "regex: "),
        (tokenized(FULL), Code::ResourceExhausted, "the queue is full"),
        (tokenized(LOST), Code::Unavailable, "rank 1 is lost"),
        (tokenized(BREAK), Code::Unavailable, "rank 1 is lost"),
    ];
    for (request, code, message) in cases {
        let status = gather(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(message), "{status:?}");
        assert!(status.metadata().contains_key("x-request-id"));
    }
    let refusals = [
        client.embed(EmbedRequest {}).await.unwrap_err(),
        client.flush_cache(FlushCacheRequest {}).await.unwrap_err(),
        client.start_profile(StartProfileRequest {}).await.unwrap_err(),
        client.stop_profile(StopProfileRequest {}).await.unwrap_err(),
        client.subscribe_kv_events(SubscribeKvEventsRequest::default()).await.unwrap_err(),
    ];
    assert!(refusals.iter().all(|status| status.code() == Code::Unimplemented && !status.message().is_empty()));
}

#[tokio::test]
async fn a_router_learns_the_model_and_the_load() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let model = client.get_model_info(GetModelInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (model.served_model_name.as_str(), model.model_type.as_str(), model.bos_token_id),
        ("tiny", "llama", 262)
    );
    assert_eq!((model.max_context_length, model.vocab_size), (CONTEXT, BYTE_LEVEL_VOCAB));
    assert_eq!((model.is_generation, &model.eos_token_ids), (true, &vec![END as i32]));
    assert_eq!(model.default_sampling_params_json, r#"{"temperature":0}"#);

    let info = |client: &VllmEngineClient<Channel>| {
        let mut client = client.clone();
        async move { client.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner() }
    };
    let before = info(&client).await;
    assert_eq!((before.server_type.as_str(), before.max_num_seqs, before.block_size), ("vllm-grpc", 4, 16));
    assert_eq!((before.last_receive_timestamp, before.is_paused), (0.0, false));
    gather(&mut client, tokenized("abcd")).await.unwrap();
    assert!(info(&client).await.last_receive_timestamp > 0.0);

    assert!(client.health_check(HealthCheckRequest {}).await.unwrap().into_inner().healthy);
    endpoint.status.send_replace(ClusterStatus {
        accepting: false,
        draining: true,
        running: 2,
        waiting: 1,
        kv_blocks_used: 1,
        kv_blocks_total: 4,
        ..serving()
    });
    assert!(!client.health_check(HealthCheckRequest {}).await.unwrap().into_inner().healthy);
    assert!(info(&client).await.is_paused);
    let loads = client.get_loads(GetLoadsRequest::default()).await.unwrap().into_inner();
    assert_eq!((loads.dp_rank_count, loads.loads.len(), loads.loads[0].num_total_reqs), (1, 1, 3));
    assert_eq!((loads.loads[0].token_usage, loads.loads[0].max_total_num_tokens), (0.25, 64));
    assert_eq!(loads.loads[0].cache_hit_rate, 0.5, "the script finds two tokens of every prompt");
    let other = client.get_loads(GetLoadsRequest { dp_rank: Some(1), ..Default::default() }).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_router_fetches_the_tokenizer() {
    let endpoint = start().await;
    let mut client = client(&endpoint).await;
    let mut stream = client.get_tokenizer(GetTokenizerRequest {}).await.unwrap().into_inner();
    let mut bytes = vec![];
    let mut sha256 = String::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap();
        bytes.extend(chunk.data);
        sha256 = chunk.sha256;
    }
    assert_eq!(sha256.len(), 64);
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let mut tokenizer = vec![];
    std::io::Read::read_to_end(&mut archive.by_name("tokenizer.json").unwrap(), &mut tokenizer).unwrap();
    assert_eq!(tokenizer, byte_level_json());
}
