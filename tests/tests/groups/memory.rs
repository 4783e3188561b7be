//! A head's memory after bursts of large requests.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lockstep_tests::group::{Group, Spec, Way};
use lockstep_tests::process::resident_bytes;

/// Connections of a burst, and bytes of the body that each sends and does not finish.
const CONNECTIONS: usize = 48;
const BODY: usize = 1 << 20;
/// Memory that a head takes in a burst at least, and keeps afterwards at most.
const TAKEN: u64 = 32 << 20;
const KEPT: u64 = 24 << 20;
/// Time within which the memory must be back. The head waits for three seconds.
const BACK: Duration = Duration::from_secs(20);

/// Sends most of a body, and leaves the connection open.
fn begin_request(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let body = [format!("{head}{BODY:x}\r\n").into_bytes(), vec![b'x'; BODY]].concat();
    stream.write_all(&body).expect("written");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_large_requests_goes_back_to_the_system() {
    let mut group = Group::start(Spec::new(Way::MultiNode, 1, "builtin://tiny"));
    group.ready().await;
    let (port, head) = (group.http_port(), group.nodes[0].as_ref().expect("a head").id());
    let before = resident_bytes(head);
    for burst in 0..3 {
        let connections: Vec<TcpStream> = (0..CONNECTIONS).map(|_| begin_request(port)).collect();
        await_memory(head, &format!("peak of burst {burst}"), |bytes| bytes > before + TAKEN).await;
        drop(connections);
        await_memory(head, &format!("end of burst {burst}"), |bytes| bytes < before + KEPT).await;
    }
}

async fn await_memory(process: u32, what: &str, holds: impl Fn(u64) -> bool) {
    let began = Instant::now();
    while !holds(resident_bytes(process)) {
        assert!(began.elapsed() < BACK, "{what}: the head has {} KiB", resident_bytes(process) >> 10);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
