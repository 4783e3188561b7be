//! Bytes to a ring port: greetings of strangers, and frames of a neighbour.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep_collectives::ring::{self, ControlAddress, DiscoverConfig, Listener};
use lockstep_collectives::{AbortSwitch, Communicator as _, Mesh, RankGroup, SliceMut, Tuning};

use crate::driver::END_TIMEOUT;
use crate::wire::wait_for_close;

/// Time that an operation waits for bytes.
const SILENCE: Duration = Duration::from_millis(200);

/// Sends bytes to the ring port of a rank that knows its group. The rank must close the connection, and accept the next
/// one. If the input begins with a greeting, the rest of it follows the rank's answer.
pub fn greeting(bytes: &[u8]) {
    static PORT: OnceLock<Listener> = OnceLock::new();
    let port = PORT.get_or_init(known_rank);
    let mut stream = TcpStream::connect(port.local_addr()).expect("the port is served");
    stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let (first, rest) = bytes.split_at(greeting_length(bytes));
    // The rank may have hung up already.
    stream.write_all(first).ok();
    if !rest.is_empty() && stream.read(&mut [0; 4096]).is_ok() {
        stream.write_all(rest).ok();
    }
    stream.shutdown(Shutdown::Write).ok();
    wait_for_close(&mut stream);
}

/// Returns the length of the greeting at the start of `bytes`: ten bytes, and the length that the last two of them
/// announce.
fn greeting_length(bytes: &[u8]) -> usize {
    let announced = bytes.get(8..10).map_or(0, |length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    bytes.len().min(10 + announced)
}

/// Returns the port of rank 0 of two, whose search for its neighbour has failed.
fn known_rank() -> Listener {
    let listener = open_ring_port();
    let abort = AbortSwitch::new().expect("a switch");
    let config = DiscoverConfig {
        group: RankGroup::new(0, 2).expect("a rank of two"),
        cluster_id: "fuzz".into(),
        key: None,
        right: "127.0.0.1:1".into(),
        control: Some(ControlAddress::Port(7)),
        timeout: Duration::from_millis(1),
    };
    ring::discover(&listener, config, &abort).expect_err("the neighbour is missing");
    listener
}

/// Answers a rank that calls a port: with the greeting and the proof of another rank, or with something else.
pub fn answer(bytes: &[u8]) {
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let own = open_ring_port();
    let addresses = [stranger.local_addr().expect("its address"), own.local_addr()];
    let config = ring::RingConfig { form_timeout: SILENCE, ..ring_config(1, &addresses) };
    let abort = AbortSwitch::new().expect("a switch");
    std::thread::scope(|scope| {
        let forming = scope.spawn(|| {
            let began = Instant::now();
            ring::form(&own, config, None, &abort).map(drop).ok();
            assert!(began.elapsed() < END_TIMEOUT, "a formation does not end");
        });
        stranger.set_nonblocking(true).expect("a setting");
        while !forming.is_finished() {
            match stranger.accept() {
                Ok((mut stream, _)) => drop(stream.write_all(bytes)),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
}

/// Sends bytes as a linked neighbour, at once or in two parts. The operation that receives them must end.
pub fn frames(bytes: &[u8]) {
    let (mut rank, mut neighbour) = link_rank();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    neighbour.write_all(first).ok();
    let rest = second.to_vec();
    let sender = std::thread::spawn(move || {
        neighbour.write_all(&rest).ok();
        neighbour
    });
    let began = Instant::now();
    // The first operation exchanges its numbers whole, the second in segments.
    for count in [16, 64] {
        rank.all_reduce_sum(SliceMut::F32(&mut vec![1.0; count])).ok();
    }
    assert!(began.elapsed() < END_TIMEOUT, "an operation does not end");
    drop(sender.join());
}

fn open_ring_port() -> Listener {
    Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port")
}

/// Links rank 0 of two. Returns rank 0, and the stream on which rank 0 reads the bytes of rank 1. The two ranks shake
/// hands through a relay, and rank 1 then ends.
fn link_rank() -> (Mesh, TcpStream) {
    let relay = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (ours, theirs) = (open_ring_port(), open_ring_port());
    let addresses = [relay.local_addr().expect("its address"), theirs.local_addr()];
    let form = |listener: &Listener, rank| {
        let abort = AbortSwitch::new().expect("a switch");
        ring::form(listener, ring_config(rank, &addresses), None, &abort).expect("two ranks")
    };
    let formed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let middle = scope.spawn(|| {
            // If rank 1 calls before rank 0 forms, rank 1 hangs up too, and calls again.
            loop {
                let (called, _) = relay.accept().expect("rank 1 calls");
                let calling = TcpStream::connect(ours.local_addr()).expect("rank 0 listens");
                relay_until_hung_up(&called, &calling).ok();
                if formed.load(Ordering::Acquire) {
                    return calling;
                }
            }
        });
        let other = scope.spawn(|| form(&theirs, 1));
        let rank = form(&ours, 0);
        let mate = other.join().expect("rank 1");
        formed.store(true, Ordering::Release);
        drop(mate);
        (rank, middle.join().expect("the relay"))
    })
}

/// Passes bytes on in both directions until one side hangs up.
fn relay_until_hung_up(called: &TcpStream, calling: &TcpStream) -> io::Result<()> {
    for stream in [called, calling] {
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    }
    loop {
        for (mut from, mut to) in [(called, calling), (calling, called)] {
            let mut bytes = [0; 4096];
            match from.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(read) => to.write_all(&bytes[..read])?,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn ring_config(rank: usize, addresses: &[SocketAddr; 2]) -> ring::RingConfig {
    ring::RingConfig {
        group: RankGroup::new(rank, 2).expect("a rank of two"),
        epoch: 1,
        cluster_id: "fuzz".into(),
        key: None,
        addresses: addresses.map(|address| address.to_string()).into(),
        op_timeout: SILENCE,
        form_timeout: END_TIMEOUT,
        spin: false,
        tuning: Tuning { direct_up_to: 64, segment: 64, min_part: 16 },
    }
}
