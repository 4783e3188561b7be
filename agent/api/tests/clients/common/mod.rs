//! Both client APIs over real sockets, with a script in the head's place.

mod tokenizers;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockstep_api::{
    Api, ChatTemplates, Command, EngineFacts, Event, FinishReason, Inference, Liveness, Metrics, ModelText, ServeError,
    Submission, Text, serve_grpc, serve_http,
};
use lockstep_proto::v1::{ClusterStatus, ModelInfo, Phase, RankStatus};
use lockstep_schedule::plan::{PromptToken, SamplingDefaults, TokenLogprobs};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use tokenizers::{BYTE_LEVEL_VOCAB, END, byte_level_json};

/// Tokens of context of the model that the tests serve.
pub const CONTEXT: u32 = 512;

/// Shows tools only in so far as the server can tell from it how the model calls them, and thinks.
const TEMPLATE: &str = "{% if tools %}{# <tool_call> … </think> #}{% endif %}{% for m in messages %}\
    {% if m.role not in ['system', 'user', 'assistant', 'tool'] %}\
    {{ raise_exception('unknown role ' + m.role) }}{% endif %}<|user|>{{ m.content }}{% endfor %}";

/// Prompts with a meaning for the script. It answers any other prompt with the prompt itself.
pub const SLOW: &str = "slow";
pub const FULL: &str = "full";
pub const LOST: &str = "lost";
pub const BREAK: &str = "break";
/// Fails before the first token.
pub const EARLY: &str = "early";
/// Is ended because its client reads too slowly.
pub const UNREAD: &str = "unread";
/// Waits for six seconds before the first token.
pub const LATE: &str = "late";
pub const DRAIN: &str = "drain";

/// Both endpoints, the status that they show, and the requests that they saw.
pub struct Endpoint {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub status: watch::Sender<ClusterStatus>,
    pub seen: Arc<Mutex<Vec<Submission>>>,
    /// Ids of requests whose stream was dropped before its end.
    pub cancelled: mpsc::Receiver<String>,
    pub shutdown: CancellationToken,
    pub served: Vec<tokio::task::JoinHandle<()>>,
}

pub fn serving() -> ClusterStatus {
    let rank = |rank| RankStatus { rank, node: rank, phase: Phase::Serving.into(), ..Default::default() };
    ClusterStatus {
        cluster_id: "test".into(),
        epoch: 1,
        ready: true,
        accepting: true,
        world_size: 2,
        ranks: vec![rank(0), rank(1)],
        ..Default::default()
    }
}

pub async fn start() -> Endpoint {
    start_with(|api| api).await
}

/// Starts the endpoints with another setting.
pub async fn start_with(set: impl FnOnce(Api) -> Api) -> Endpoint {
    let (commands, receiver) = mpsc::channel(16);
    let (status, watched) = watch::channel(serving());
    let (report, cancelled) = mpsc::channel(16);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let text = Text::new(ModelText {
        tokenizer_json: byte_level_json(),
        templates: ChatTemplates { default: Some(TEMPLATE.into()), ..Default::default() },
        vocab_size: BYTE_LEVEL_VOCAB,
        context_length: CONTEXT,
        eos_token_ids: vec![END],
        sampling_defaults: SamplingDefaults { temperature: Some(0.0), ..Default::default() },
        ..Default::default()
    })
    .unwrap();
    tokio::spawn(play(receiver, text.clone(), seen.clone(), report));
    let model =
        ModelInfo { name: "tiny".into(), context_length: CONTEXT, has_chat_template: true, ..Default::default() };
    let engine = EngineFacts {
        block_size: 16,
        max_num_seqs: 4,
        files: vec![
            ("tokenizer.json".into(), byte_level_json()),
            ("config.json".into(), br#"{"model_type": "llama", "bos_token_id": 262}"#.to_vec()),
        ],
    };
    let inference = Inference::new(commands, watched, Liveness::default());
    let api = set(Api::new(inference, model, text, Metrics::new()).with_engine(engine));
    let shutdown = CancellationToken::new();
    let (http_listener, grpc_listener) = (listener().await, listener().await);
    let (http, grpc) = (http_listener.local_addr().unwrap(), grpc_listener.local_addr().unwrap());
    let served = vec![
        tokio::spawn(serve_http(http_listener, api.clone(), shutdown.clone())),
        tokio::spawn({
            let shutdown = shutdown.clone();
            async move { serve_grpc(grpc_listener, api, shutdown).await.unwrap() }
        }),
    ];
    Endpoint { http, grpc, status, seen, cancelled, shutdown, served }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// The head's part: refuses, breaks or echoes, as the prompt says.
async fn play(
    mut commands: mpsc::Receiver<Command>,
    text: Text,
    seen: Arc<Mutex<Vec<Submission>>>,
    cancelled: mpsc::Sender<String>,
) {
    while let Some(Command::Submit { submission, events, accepted }) = commands.recv().await {
        seen.lock().unwrap().push((*submission).clone());
        let prompt = text.tokenizer().decode(&submission.prompt, true);
        let lost = || ServeError::Unavailable { reason: "rank 1 is lost".into(), retry_after_s: 7 };
        let verdict = match prompt.as_str() {
            FULL => Err(ServeError::Full { limit: 3, retry_after_s: 2 }),
            LOST => Err(lost()),
            _ => Ok(()),
        };
        let refused = verdict.is_err();
        let _ = accepted.send(verdict);
        if !refused {
            tokio::spawn(answer(prompt, *submission, events, cancelled.clone(), lost()));
        }
    }
}

async fn answer(
    prompt: String,
    submission: Submission,
    events: mpsc::Sender<Event>,
    cancelled: mpsc::Sender<String>,
    lost: ServeError,
) {
    let slow = prompt == SLOW;
    if prompt == EARLY {
        let _ = events.send(Event::Failed(lost)).await;
        return;
    }
    if prompt == LATE {
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    let _ = events.send(Event::Started { cached_tokens: 2 }).await;
    if let Some(top) = submission.prompt_logprobs {
        let top: Vec<(u32, f32)> = vec![(u32::from(b'x'), -0.125)].into_iter().take(top as usize).collect();
        let token = PromptToken { logprobs: TokenLogprobs { chosen: -0.25, top }, rank: 2 };
        let _ = events.send(Event::Prompt { tokens: vec![token; submission.prompt.len() - 1] }).await;
    }
    let (mut sent, mut end) = (0, FinishReason::Stop);
    for id in submission.prompt.iter().copied().cycle() {
        if !slow && sent as usize == submission.prompt.len() {
            break;
        }
        if sent == submission.max_tokens {
            end = FinishReason::Length;
            break;
        }
        if submission.stop_token_ids.contains(&id) {
            end = FinishReason::StopToken(id);
            break;
        }
        if slow {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A client that wants more tokens than it may count wants them all.
        let is_other = |other: &u32| *other != id && *other != u32::from(b'x');
        let rest = (0..BYTE_LEVEL_VOCAB).filter(|_| submission.sampling.logprobs > Some(20)).filter(is_other);
        let rest = rest.map(|other| (other, -2.5));
        let top = |count| [(id, -0.5), (u32::from(b'x'), -1.5)].into_iter().chain(rest).take(count as usize).collect();
        // The second answer is the most likely one.
        let chosen = [-0.5, -0.25, -0.75][submission.sampling.choice as usize % 3];
        let logprobs = submission.sampling.logprobs.map(|count| TokenLogprobs { chosen, top: top(count) });
        if events.send(Event::Token { id, logprobs }).await.is_err() {
            let _ = cancelled.send(submission.request_id).await;
            return;
        }
        sent += 1;
    }
    let last = match prompt.as_str() {
        BREAK => Event::Failed(lost),
        UNREAD => Event::Failed(ServeError::SlowReader),
        DRAIN => Event::Cancelled,
        _ => Event::Finished(end),
    };
    let _ = events.send(last).await;
}
