//! Bytes to ports below the level of messages: heads of HTTP/1.1, frames of HTTP/2 with their compressed headers,
//! headers of any bytes, and first bytes of TLS.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lockstep_agent::tls::{Tls, accept_connections, connect};
use lockstep_proto::names::role;
use lockstep_proto::v1::GenerateRequest;
use lockstep_proto::v1::generate_request::Prompt;
use prost::Message as _;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::block_on;
use crate::driver::END_TIMEOUT;
use crate::requests::servers;
use crate::secrets::{authority, good_node};

/// Silence after which a peer counts as finished.
const QUIET: Duration = Duration::from_millis(20);
/// Longest payload that a peer accepts without a setting; RFC 9113, 4.2.
const MAX_FRAME: usize = 1 << 14;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Body of a request to the HTTP port.
const BODY: &[u8] =
    br#"{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "max_tokens": 4}"#;

/// Sends bytes to the HTTP port, which speaks HTTP/1.1 and HTTP/2.
pub fn http_bytes(bytes: &[u8]) {
    let answer = send_and_read(servers().http, bytes, |_| true);
    let failed = answer.windows(12).any(|part| part == b"HTTP/1.1 500");
    assert!(!failed, "{}", String::from_utf8_lossy(&answer));
}

/// Sends bytes to the gRPC port, which speaks HTTP/2 alone.
pub fn grpc_bytes(bytes: &[u8]) {
    send_and_read(servers().grpc, bytes, |_| true);
}

/// Sends a request by HTTP/2 whose headers may have any names and values. The first line of the input is the target,
/// `POST /path`. Each further line is a header, `name: value`.
pub fn headers(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let (method, path) = split_at_separator(lines.next().unwrap_or_default(), b" ");
    let grpc = path.starts_with(b"/lockstep") || path.starts_with(b"/grpc");
    let mut block = Vec::new();
    for (name, value) in [(":method", method), (":scheme", b"http"), (":path", path), (":authority", b"fuzz")] {
        append_header(&mut block, name.as_bytes(), value);
    }
    for line in lines {
        let (name, value) = split_at_separator(line, b": ");
        append_header(&mut block, name, value);
    }
    let mut request = PREFACE.to_vec();
    append_frame(&mut request, SETTINGS, 0, 0, &[]);
    let mut kind = HEADERS;
    let mut chunks = block.chunks(MAX_FRAME).peekable();
    while let Some(chunk) = chunks.next() {
        append_frame(&mut request, kind, if chunks.peek().is_none() { END_HEADERS } else { 0 }, 1, chunk);
        kind = CONTINUATION;
    }
    append_frame(&mut request, DATA, END_STREAM, 1, &if grpc { grpc_message() } else { BODY.to_vec() });
    let address = if grpc { servers().grpc } else { servers().http };
    let answer = send_and_read(address, &request, is_answered);
    assert!(is_answered(&answer), "the request is not answered");
}

/// Returns true if a frame ends a request.
fn is_answered(answer: &[u8]) -> bool {
    let mut rest = answer;
    while let [a, b, c, kind, ..] = rest {
        if matches!(*kind, HEADERS | RST_STREAM | GOAWAY) {
            return true;
        }
        let whole = 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
        rest = rest.get(whole..).unwrap_or_default();
    }
    false
}

/// Returns a message of gRPC: the flag for no compression, the length, the message.
fn grpc_message() -> Vec<u8> {
    let prompt = Some(Prompt::Text("hi".into()));
    let message = GenerateRequest { model: "tiny".into(), prompt, ..Default::default() }.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

fn split_at_separator<'a>(line: &'a [u8], at: &[u8]) -> (&'a [u8], &'a [u8]) {
    let place = line.windows(at.len()).position(|window| window == at);
    place.map_or((line, &[][..]), |place| (&line[..place], &line[place + at.len()..]))
}

/// Appends a frame; RFC 9113, 4.1.
fn append_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// Appends a header, without a table and without Huffman's code; RFC 7541, 6.2.2.
fn append_header(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        let mut rest = text.len();
        block.push(rest.min(127) as u8);
        if rest >= 127 {
            rest -= 127;
            while rest >= 128 {
                block.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            block.push(rest as u8);
        }
        block.extend(text);
    }
}

/// Plays a stranger that calls a TLS port (`c`), or a strange port that a caller dials (`d`).
pub fn handshake(bytes: &[u8]) {
    match bytes.split_first() {
        Some((b'd', answer)) => dial_strange_port(answer),
        Some((_, request)) => call_as_stranger(request),
        None => {}
    }
}

/// Calls a TLS port, and asserts that the port does not let the stranger in.
fn call_as_stranger(request: &[u8]) {
    static PORT: OnceLock<(SocketAddr, TempDir)> = OnceLock::new();
    static LET_IN: AtomicU64 = AtomicU64::new(0);
    let (address, _) = PORT.get_or_init(|| {
        let folder = authority().folder(role::HEAD);
        let tls = Tls::open(folder.path(), role::HEAD).expect("good files").into();
        let address = block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("its address");
            tokio::spawn(accept_connections(listener, Some(tls)).for_each(async |_| {
                LET_IN.fetch_add(1, Ordering::Relaxed);
            }));
            address
        });
        (address, folder)
    });
    send_and_read(*address, request, |_| true);
    assert_eq!(LET_IN.load(Ordering::Relaxed), 0, "a stranger was let in");
}

/// Answers a caller from a strange port, and asserts that the caller does not take the port for a head.
fn dial_strange_port(answer: &[u8]) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = Channel::from_shared(format!("http://{}", listener.local_addr().expect("its address")));
    let answer = answer.to_vec();
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a call");
        stream.write_all(&answer).ok();
        stream.shutdown(Shutdown::Write).ok();
        wait_for_close(&mut stream);
    });
    let endpoint = endpoint.expect("an address");
    let met = block_on(async { timeout(END_TIMEOUT, connect(&endpoint, good_node())).await })
        .expect("a handshake does not end");
    assert!(met.is_err(), "a stranger was taken for a head");
    stranger.join().expect("the caller hangs up");
}

/// Sends `bytes` to a port, reads until `enough` holds, and asserts that the port hangs up once the sender has closed its side.
pub fn send_and_read(address: SocketAddr, bytes: &[u8], enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the port is served");
    stream.set_write_timeout(Some(END_TIMEOUT)).expect("a timeout");
    stream.set_read_timeout(Some(QUIET)).expect("a timeout");
    // The port may have hung up already.
    stream.write_all(bytes).ok();
    let (mut answer, began) = (Vec::new(), Instant::now());
    let mut part = [0; 1 << 14];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return answer,
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if !is_timeout(&error) => return answer,
            Err(_) if enough(&answer) || began.elapsed() > END_TIMEOUT => break,
            Err(_) => {}
        }
    }
    stream.shutdown(Shutdown::Write).ok();
    wait_for_close(&mut stream);
    answer
}

/// Waits for the other end to hang up.
pub fn wait_for_close(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(END_TIMEOUT)).expect("a timeout");
    let mut part = [0; 1 << 14];
    let ended = loop {
        match stream.read(&mut part) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break !is_timeout(&error),
        }
    };
    assert!(ended, "the connection is left open");
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
