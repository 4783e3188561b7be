//! Requests of clients, by HTTP and by gRPC, to a whole client side. A head in the background gives each request the
//! same answer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;

use lockstep_api::{
    Api, ChatTemplates, Command, Event, FinishReason, Inference, Liveness, Metrics, ModelText, ReasoningStyle,
    StyleChoice, Text, ToolStyle,
};
use lockstep_proto::v1::inference_client::InferenceClient;
use lockstep_proto::v1::{ChatRequest, ClusterStatus, DetokenizeRequest, GenerateRequest, GenerateResponse, ModelInfo};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::block_on;
use crate::driver::END_TIMEOUT;
use crate::files::{read_tokenizer, small_model};

/// Tokens of the head's answer: some of the fixture's vocabulary, which may be any bytes.
const ANSWERED: [u32; 4] = [65, 3, 200, 287];
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}";

/// Sends an HTTP request: the first line of the input names the path, the rest is the body.
pub fn http(bytes: &[u8]) {
    let (name, body) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (&b""[..], bytes),
    };
    let path = match name {
        b"chat" => "/v1/chat/completions",
        b"responses" => "/v1/responses",
        b"messages" => "/v1/messages",
        b"count" => "/v1/messages/count_tokens",
        _ => "/v1/completions",
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(servers().http).expect("the port is served");
    stream.set_read_timeout(Some(END_TIMEOUT)).expect("a timeout");
    stream.write_all(&[head.as_bytes(), body].concat()).expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer in time");
    let status = answer.get(9..12).unwrap_or_default();
    let text = String::from_utf8_lossy(&answer);
    assert!(matches!(status, b"200" | b"400" | b"404" | b"413" | b"415" | b"422"), "{text}");
    assert!(!text.contains("internal"), "{text}");
}

/// Sends a gRPC message: the first byte of the input names its kind.
pub fn grpc(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else { return };
    let mut client = InferenceClient::new(servers().channel.clone());
    block_on(async {
        let ended = match kind {
            b'c' => drain_answer(client.chat(decode::<ChatRequest>(message)).await).await,
            b'd' => client.detokenize(decode::<DetokenizeRequest>(message)).await.map(drop),
            _ => drain_answer(client.generate(decode::<GenerateRequest>(message)).await).await,
        };
        if let Err(status) = ended {
            let refused = matches!(status.code(), Code::InvalidArgument | Code::NotFound | Code::OutOfRange);
            assert!(refused, "{status:?}");
        }
    });
}

fn decode<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap_or_default()
}

async fn drain_answer(response: Result<Response<Streaming<GenerateResponse>>, Status>) -> Result<(), Status> {
    let mut stream = response?.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

/// The client side of a head.
pub struct Servers {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    /// Channel to the gRPC port.
    pub channel: Channel,
    /// Status of the group, as the head reports it.
    pub status: watch::Sender<ClusterStatus>,
}

/// Returns the servers that all requests go to.
pub fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(Servers::start)
}

impl Servers {
    pub fn start() -> Self {
        block_on(async {
            let (http, grpc) = (open_port().await, open_port().await);
            let addresses = [&http, &grpc].map(|listener| listener.local_addr().expect("its address"));
            let (api, status) = start_api();
            tokio::spawn(lockstep_api::serve_http(http, api.clone(), CancellationToken::new()));
            tokio::spawn(async move {
                lockstep_api::serve_grpc(grpc, api, CancellationToken::new()).await.expect("gRPC is served");
            });
            let channel = Channel::from_shared(format!("http://{}", addresses[1])).expect("an address");
            let channel = channel.timeout(END_TIMEOUT).connect_lazy();
            Self { http: addresses[0], grpc: addresses[1], channel, status }
        })
    }
}

async fn open_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

/// Starts a client side, and a task that answers every request in place of the head.
fn start_api() -> (Api, watch::Sender<ClusterStatus>) {
    let text = Text::new(ModelText {
        tokenizer_json: read_tokenizer("llama2"),
        templates: ChatTemplates { default: Some(TEMPLATE.into()), ..ChatTemplates::default() },
        tool_style: StyleChoice::Is(ToolStyle::Hermes),
        reasoning_style: StyleChoice::Is(ReasoningStyle::Think),
        eos_token_ids: vec![2],
        ..small_model()
    });
    let (commands, mut inbox) = mpsc::channel(16);
    let (reports, status) = watch::channel(ClusterStatus { ready: true, accepting: true, ..Default::default() });
    tokio::spawn(async move {
        while let Some(command) = inbox.recv().await {
            if let Command::Submit { submission, events, accepted } = command {
                accepted.send(Ok(())).ok();
                events.send(Event::Started { cached_tokens: 0 }).await.ok();
                for id in ANSWERED.into_iter().take(submission.max_tokens as usize) {
                    events.send(Event::Token { id, logprobs: None }).await.ok();
                }
                events.send(Event::Finished(FinishReason::Stop)).await.ok();
            }
        }
    });
    let model = ModelInfo { name: "tiny".into(), context_length: 512, has_chat_template: true, ..Default::default() };
    let inference = Inference::new(commands, status, Liveness::default());
    (Api::new(inference, model, text.expect("a text"), Metrics::new()), reports)
}
