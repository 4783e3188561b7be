//! Clients that send requests all the time, and compare each answer with the answer of an undisturbed run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lockstep_proto::v1::GenerateRequest;
use lockstep_tests::client::{Client, greedy, sampled};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::Status;

const CLIENTS: usize = 6;
const QUESTIONS: u32 = 12;
/// Longest time for an answer. The head gives up on a request after 120 s in which the group does not come back.
const LONGEST_ANSWER: Duration = Duration::from_secs(180);
/// Time after a fault for which tokens may still come that were on their way.
const NOTICE: Duration = Duration::from_millis(250);
/// Pause of a client after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Pause of a client that breaks its answers off.
const CANCEL_PAUSE: Duration = Duration::from_millis(100);

/// Age at which a client replaces its connection, between two requests. A head ends connections after 9 minutes at the
/// earliest, and tonic fails a request that it is about to send just then. The head never sees that request.
const CONNECTION_AGE: Duration = Duration::from_secs(300);

/// Request, and the tokens of its answer.
pub struct Question {
    name: String,
    request: GenerateRequest,
    expected: Vec<u32>,
}

/// Asks all questions at once, without faults.
///
/// # Errors
/// The first request that failed.
pub async fn ask_undisturbed(endpoint: String) -> Result<Arc<[Question]>> {
    let client = Client::lazy(endpoint)?;
    let asked = (0..QUESTIONS).map(|number| {
        let mut client = client.clone();
        async move {
            let (name, request) = question(number);
            let expected = client.generate(request.clone()).await.context("an undisturbed request")?.tokens;
            ensure!(!expected.is_empty(), "an undisturbed request has no tokens");
            Ok(Question { name, request, expected })
        }
    });
    Ok(futures::future::try_join_all(asked).await?.into())
}

/// Returns one of the requests: prompts of 5 to 60 tokens and answers of 100 to 300, every other one seeded.
fn question(number: u32) -> (String, GenerateRequest) {
    let prompt: Vec<u32> = (0..5 + 5 * number).map(|i| 300 + (i * 7 + number * 31) % 900).collect();
    let tokens = 100 + 200 * (number % 5) / 4;
    if number.is_multiple_of(2) {
        (format!("greedy request {number}"), greedy(&prompt, tokens))
    } else {
        (format!("seeded request {number}"), sampled(&prompt, tokens, u64::from(number)))
    }
}

/// End of the head by a fault. It excuses errors.
#[derive(Debug, Clone, Copy)]
pub struct HeadEnd {
    pub at: Instant,
    /// True if the answers that the head gave then are broken off.
    pub breaks_answers: bool,
}

/// Answers since the last [`Load::take`].
#[derive(Debug, Default, Clone)]
pub struct Answers {
    pub requests: usize,
    /// Answers that broke off because their head was killed.
    pub broken: usize,
    /// Answers that ended with an error or did not end.
    pub lost: Vec<String>,
    /// Answers with other tokens than the undisturbed ones.
    pub wrong: Vec<String>,
}

#[derive(Default)]
struct State {
    answers: Answers,
    /// Times at which tokens came, since the last [`Load::take`].
    tokens: Vec<Instant>,
    /// Start of each client's request.
    begun: [Option<Instant>; CLIENTS],
    head_end: Option<HeadEnd>,
}

/// Running clients. They stop when dropped.
pub struct Load {
    state: Arc<Mutex<State>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(endpoint: &str, questions: &Arc<[Question]>) -> Result<Self> {
        let state = Arc::<Mutex<State>>::default();
        let clients = (0..CLIENTS).map(|number| {
            let asker = Asker {
                number,
                endpoint: endpoint.to_owned(),
                client: Client::lazy(endpoint.to_owned())?,
                connected: Instant::now(),
                questions: questions.clone(),
                state: state.clone(),
            };
            Ok(tokio::spawn(asker.ask_for_ever()))
        });
        Ok(Self { clients: clients.collect::<Result<_>>()?, state })
    }

    /// Excuses errors from now on, or no longer.
    pub fn excuse(&self, head_end: Option<HeadEnd>) {
        lock(&self.state).head_end = head_end;
    }

    /// Returns true if every request that runs has begun after `time`.
    pub fn all_began_after(&self, time: Instant) -> bool {
        lock(&self.state).begun.iter().all(|begun| begun.is_none_or(|begun| begun > time))
    }

    /// Returns the end of the longest time without a token that a fault has left behind: the time ends after the fault,
    /// and began before the fault could be noticed. `None`: no token came after the fault.
    pub fn end_of_silence(&self, began: Instant, ended: Instant) -> Option<Instant> {
        let state = lock(&self.state);
        let tokens = state.tokens.iter().copied().filter(|at| *at >= began);
        let times: Vec<Instant> = std::iter::once(began).chain(tokens).collect();
        let silences = times.windows(2).filter(|pair| pair[0] < ended + NOTICE && pair[1] > ended);
        silences.max_by_key(|pair| pair[1] - pair[0]).map(|pair| pair[1])
    }

    /// Returns the answers since the last call.
    pub fn take(&self) -> Answers {
        let mut state = lock(&self.state);
        state.tokens.clear();
        std::mem::take(&mut state.answers)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

/// Clients that break off their answers, by gRPC and by HTTP. They stop when dropped.
pub struct Cancels {
    count: Arc<AtomicUsize>,
    clients: [JoinHandle<()>; 2],
}

impl Cancels {
    pub fn start(endpoint: &str, http_port: u16, questions: &Arc<[Question]>) -> Result<Self> {
        let count = Arc::<AtomicUsize>::default();
        let (counted, questions, endpoint) = (count.clone(), questions.clone(), endpoint.to_owned());
        let by_grpc = async move {
            for turn in 0.. {
                let Ok(mut client) = Client::lazy(endpoint.clone()) else { return };
                let request = questions[turn % questions.len()].request.clone();
                if let Ok(mut stream) = client.stream(request).await {
                    for _ in 0..turn % 40 {
                        let _ = stream.message().await;
                    }
                }
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(CANCEL_PAUSE).await;
            }
        };
        let counted = count.clone();
        let by_http = async move {
            for turn in 0.. {
                // The connection is closed without a word after some bytes of the stream, or none.
                let _ = tokio::time::timeout(LONGEST_ANSWER, read_some(http_port, turn % 5 * 1000)).await;
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(CANCEL_PAUSE).await;
            }
        };
        Ok(Self { count, clients: [tokio::spawn(by_grpc), tokio::spawn(by_http)] })
    }

    /// Returns the number of answers that were broken off.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Cancels {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

/// Asks for a streamed chat by HTTP, and reads `bytes` of the answer.
async fn read_some(port: u16, bytes: usize) -> std::io::Result<()> {
    let body =
        r#"{"messages":[{"role":"user","content":"What happens when a worker dies?"}],"max_tokens":60,"stream":true}"#;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: head\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    stream.read_exact(&mut vec![0; bytes]).await.map(drop)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("the state of the clients")
}

/// One client.
struct Asker {
    number: usize,
    endpoint: String,
    client: Client,
    connected: Instant,
    questions: Arc<[Question]>,
    state: Arc<Mutex<State>>,
}

impl Asker {
    async fn ask_for_ever(mut self) {
        for turn in self.number.. {
            if self.connected.elapsed() > CONNECTION_AGE {
                self.client = Client::lazy(self.endpoint.clone()).expect("the URL is good");
                self.connected = Instant::now();
            }
            let question = &self.questions[turn % self.questions.len()];
            let begun = Instant::now();
            lock(&self.state).begun[self.number] = Some(begun);
            let mut tokens = Vec::new();
            let read = read_answer(&mut self.client, &question.request, &self.state, &mut tokens);
            let end = match tokio::time::timeout(LONGEST_ANSWER, read).await {
                Ok(end) => end.map_err(|status| format!("{:?}: {}", status.code(), status.message())),
                Err(_) => Err(format!("no end after {LONGEST_ANSWER:?}")),
            };
            let has_failed = end.is_err();
            lock(&self.state).record(question, begun, &tokens, end);
            if has_failed {
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Reads an answer to its end, and notes when its tokens come.
async fn read_answer(
    client: &mut Client,
    request: &GenerateRequest,
    state: &Mutex<State>,
    tokens: &mut Vec<u32>,
) -> Result<(), Status> {
    let mut stream = client.stream(request.clone()).await?;
    while let Some(part) = stream.message().await? {
        if !part.token_ids.is_empty() {
            lock(state).tokens.push(Instant::now());
        }
        tokens.extend(part.token_ids);
    }
    Ok(())
}

impl State {
    /// Judges an answer that began at `begun`. A request that a head refused which had ended does not count.
    fn record(&mut self, question: &Question, begun: Instant, tokens: &[u32], end: Result<(), String>) {
        let Question { name, expected, .. } = question;
        let at = tokens.iter().zip(expected).take_while(|(token, expected)| token == expected).count();
        let is_right = at == tokens.len() && (end.is_err() || at == expected.len());
        if let (Err(_), Some(head_end)) = (&end, self.head_end)
            && tokens.is_empty()
            && begun >= head_end.at
        {
            return;
        }
        self.answers.requests += 1;
        match (end, self.head_end) {
            (end, _) if !is_right => {
                let end = end.err().map_or(String::new(), |error| format!(", then {error}"));
                let [token, expected] =
                    [tokens.get(at), expected.get(at)].map(|token| token.map_or(-1, |token| i64::from(*token)));
                self.answers.wrong.push(format!("{name}: token {at} is {token} and should be {expected}{end}"));
            }
            (Ok(()), _) => (),
            (Err(_), Some(HeadEnd { breaks_answers: true, .. })) => self.answers.broken += 1,
            (Err(error), _) => {
                self.answers.lost.push(format!(
                    "{name}: after {} tokens and {:.1} s: {error}",
                    tokens.len(),
                    begun.elapsed().as_secs_f64()
                ));
            }
        }
    }
}
