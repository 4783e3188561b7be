//! What a ring port hears: first words of strangers, and the frames of a neighbour.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use lockstep_collectives::ring::{self, Listener, Ring};
use lockstep_collectives::{AbortSwitch, Communicator as _, Group, SliceMut, Tuning};

/// A server that says nothing for this long is taken for hung.
const ANSWER: Duration = Duration::from_secs(15);
/// An operation waits for bytes for so long.
const SILENCE: Duration = Duration::from_millis(200);

/// First words to a ring port, which must close the connection, and take the next one.
pub fn greeting(bytes: &[u8]) {
    static PORT: OnceLock<Listener> = OnceLock::new();
    let mut stream = TcpStream::connect(PORT.get_or_init(listener).local_addr()).expect("the port is served");
    stream.set_read_timeout(Some(ANSWER)).expect("a timeout");
    // It may have hung up already.
    stream.write_all(bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    let mut answer = [0; 4096];
    let ended = loop {
        match stream.read(&mut answer) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    };
    assert!(ended, "the connection is left open");
}

/// What a neighbour sends once it is linked: an operation gets it, whole or in two parts, and ends.
pub fn frames(bytes: &[u8]) {
    let (mut rank, mut neighbour) = linked();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    neighbour.write_all(first).ok();
    let rest = second.to_vec();
    let sender = std::thread::spawn(move || {
        neighbour.write_all(&rest).ok();
        neighbour
    });
    let began = Instant::now();
    // One that is exchanged whole, one in segments.
    for count in [16, 64] {
        rank.all_reduce_sum(SliceMut::F32(&mut vec![1.0; count])).ok();
    }
    assert!(began.elapsed() < ANSWER, "an operation does not end");
    drop(sender.join());
}

fn listener() -> Listener {
    Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port")
}

/// Rank 0 of two, and the end of its link that rank 1 has: both shook hands through a relay.
fn linked() -> (Ring, TcpStream) {
    let relay = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (ours, theirs) = (listener(), listener());
    let addresses = [relay.local_addr().expect("its address"), theirs.local_addr()];
    let form = |listener: &Listener, rank| {
        let abort = AbortSwitch::new().expect("a switch");
        ring::form(listener, config(rank, &addresses), None, &abort).expect("two ranks")
    };
    std::thread::scope(|scope| {
        let middle = scope.spawn(|| {
            // Rank 0 may be called before it forms; then rank 1 calls again.
            loop {
                let (called, _) = relay.accept().expect("rank 1 calls");
                let calling = TcpStream::connect(ours.local_addr()).expect("rank 0 listens");
                if relayed(&called, &calling).is_ok_and(|stands| stands) {
                    return calling;
                }
            }
        });
        let other = scope.spawn(|| form(&theirs, 1));
        let rank = form(&ours, 0);
        let mate = other.join().expect("rank 1");
        drop(mate);
        (rank, middle.join().expect("the relay"))
    })
}

/// Passes bytes on in both directions until the one that called hangs up. True: the other has not, the link stands.
fn relayed(called: &TcpStream, calling: &TcpStream) -> io::Result<bool> {
    for stream in [called, calling] {
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    }
    loop {
        for (mut from, mut to, stands) in [(called, calling, true), (calling, called, false)] {
            let mut bytes = [0; 4096];
            match from.read(&mut bytes) {
                Ok(0) => return Ok(stands),
                Ok(read) => to.write_all(&bytes[..read])?,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn config(rank: usize, addresses: &[SocketAddr; 2]) -> ring::Config {
    ring::Config {
        group: Group::new(rank, 2).expect("a rank of two"),
        epoch: 1,
        cluster_id: "fuzz".into(),
        key: None,
        addresses: addresses.map(|address| address.to_string()).into(),
        op_timeout: SILENCE,
        form_timeout: ANSWER,
        spin: false,
        tuning: Tuning { direct_up_to: 64, segment: 64, least_part: 16 },
    }
}
