//! The TCP backend on loopback: forming, every operation, and failures.

mod naive;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lockstep_collectives::ring::{self, LinkKey, Listener, RingConfig};
use lockstep_collectives::{AbortSwitch, CollectiveError, Communicator, Mesh, RankGroup, Slice, SliceMut, Tuning};
use naive::{exercise_all, on_ranks};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SMALL: Tuning = Tuning { direct_up_to: 64, segment: 96, min_part: 4 };

fn listeners(ranks: usize) -> Vec<Listener> {
    (0..ranks).map(|_| Listener::bind(ANY_PORT).unwrap()).collect()
}

fn config(rank: usize, listeners: &[Listener]) -> RingConfig {
    RingConfig {
        group: RankGroup::new(rank, listeners.len()).unwrap(),
        epoch: 4,
        cluster_id: "a".into(),
        key: None,
        addresses: listeners.iter().map(|listener| listener.local_addr().to_string()).collect(),
        op_timeout: Duration::from_secs(20),
        form_timeout: Duration::from_secs(20),
        spin: false,
        tuning: SMALL,
    }
}

/// Forms a group in threads. `adapt` changes the configuration of each rank.
fn try_form(
    listeners: &[Listener],
    adapt: impl Fn(usize, &mut RingConfig) + Sync,
) -> Vec<Result<Mesh, CollectiveError>> {
    std::thread::scope(|scope| {
        let adapt = &adapt;
        let form = |rank| {
            let mut config = config(rank, listeners);
            adapt(rank, &mut config);
            ring::form(&listeners[rank], config, None, &AbortSwitch::new().unwrap())
        };
        let threads: Vec<_> = (0..listeners.len()).map(|rank| scope.spawn(move || form(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn form(listeners: &[Listener], adapt: impl Fn(usize, &mut RingConfig) + Sync) -> Vec<Mesh> {
    try_form(listeners, adapt).into_iter().map(Result::unwrap).collect()
}

fn key(text: &str) -> Option<LinkKey> {
    Some(LinkKey::new(text.as_bytes()).unwrap())
}

#[test]
fn every_operation_is_right_over_tcp() {
    for ranks in 2..=4 {
        let listeners = listeners(ranks);
        let mut group = form(&listeners, |rank, config| config.spin = rank == 0);
        for len in [0, 1, 3, 16, 17, 63, 250, 4099] {
            exercise_all(&mut group, len);
        }
    }
}

#[test]
fn large_messages_are_right_with_the_default_tuning() {
    let listeners = listeners(2);
    let mut group = form(&listeners, |_, config| config.tuning = Tuning::default());
    for len in [32 << 10, (32 << 10) + 1, 1 << 20, (4 << 20) + 3] {
        naive::exercise::<f32, _>(&mut group, len);
    }
}

#[test]
fn a_group_with_a_key_forms_again_in_later_epochs_on_the_same_listeners() {
    let listeners = listeners(3);
    for epoch in [1, 2, 9] {
        let mut group = form(&listeners, |_, config| (config.epoch, config.key) = (epoch, key("sixteen bytes it is")));
        exercise_all(&mut group, 5);
    }
}

#[test]
fn ranks_may_start_at_different_times_and_in_different_epochs() {
    let listeners = listeners(3);
    let mut group = form(&listeners, |rank, config| {
        std::thread::sleep(Duration::from_millis(40 * rank as u64));
        if rank == 0 {
            // Rank 0 is still in an older epoch when the others reach this one.
            let old = RingConfig { epoch: 3, form_timeout: Duration::from_millis(100), ..config.clone() };
            let result = ring::form(&listeners[0], old, None, &AbortSwitch::new().unwrap());
            assert!(matches!(result.err(), Some(CollectiveError::Timeout { .. })));
        }
    });
    exercise_all(&mut group, 5);
}

/// Checks sums, sends and errors of two stages with two ranks each.
#[test]
fn a_grid_sums_in_rows_and_sends_in_columns() {
    let listeners = listeners(4);
    let form = |rank: usize| {
        ring::form_grid(&listeners[rank], config(rank, &listeners), 2, None, &AbortSwitch::new().unwrap()).unwrap()
    };
    let lost_rank = |result: Result<(), CollectiveError>| match result {
        Err(CollectiveError::PeerLost { rank, .. }) => Some(rank),
        _ => None,
    };
    std::thread::scope(|scope| {
        let ranks = (0..4usize).map(|rank| {
            scope.spawn(move || {
                let mut links = form(rank);
                let mut sum = [rank as u32];
                links.tensor.all_reduce_sum(SliceMut::U32(&mut sum)).unwrap();
                assert_eq!(sum, [if rank < 2 { 1 } else { 5 }]);
                let mut column = links.pipeline.unwrap();
                let mut got = [0; 1000];
                if rank < 2 {
                    column.send(1, Slice::U32(&[rank as u32; 1000])).unwrap();
                } else {
                    column.recv(0, SliceMut::U32(&mut got)).unwrap();
                    assert_eq!(got, [rank as u32 - 2; 1000]);
                }
                // Rank 3 leaves. The errors in its row and its column name it by its rank in the whole group.
                match rank {
                    1 => assert_eq!(lost_rank(column.recv(1, SliceMut::U32(&mut got))), Some(3)),
                    2 => assert_eq!(lost_rank(links.tensor.barrier()), Some(3)),
                    _ => (),
                }
            })
        });
        ranks.collect::<Vec<_>>().into_iter().for_each(|rank| rank.join().unwrap());
    });
    let odd = ring::form_grid(&listeners[0], config(0, &listeners), 3, None, &AbortSwitch::new().unwrap());
    assert!(odd.err().unwrap().to_string().contains("4 ranks do not make 3 equal stages"));
}

/// Timeout of a rank that waits for a call that never comes.
const BRIEF: Duration = Duration::from_millis(300);

/// Returns rank 1's error if `adapt` makes it differ from rank 0. Rank 1 may have to wait long until rank 0 listens.
fn form_with_mismatch(adapt: impl Fn(&mut RingConfig) + Sync) -> String {
    let listeners = listeners(2);
    let results = try_form(&listeners, |rank, config| match rank {
        0 => config.form_timeout = BRIEF,
        _ => adapt(config),
    });
    let mut errors = results.into_iter().map(|result| result.err().unwrap());
    let first = errors.next().unwrap();
    assert!(
        matches!(first, CollectiveError::Mismatch { rank: 1, .. } | CollectiveError::Timeout { rank: 1, .. }),
        "{first}"
    );
    errors.next().unwrap().to_string()
}

#[test]
fn a_refusal_names_both_values() {
    type Adapt = fn(&mut RingConfig);
    let cases: [(Adapt, &str); 5] = [
        (|c| c.cluster_id = "b".into(), "rank 0 does not match this rank: the cluster is \"b\" here and \"a\" there"),
        (|c| c.epoch = 3, "rank 0 does not match this rank: the epoch is 3 here and 4 there"),
        (
            |c| c.key = key("a key that rank 0 lacks"),
            "rank 0 does not match this rank: the group's key is given here and missing there",
        ),
        (
            |c| {
                c.group = RankGroup::new(1, 3).unwrap();
                c.addresses.push("127.0.0.1:9".into());
            },
            "rank 0 does not match this rank: the world size is 3 here and 2 there",
        ),
        (|c| (c.epoch, c.form_timeout) = (5, BRIEF), "rank 0 did not answer for 300 ms"),
    ];
    for (adapt, message) in cases {
        assert_eq!(form_with_mismatch(adapt), message);
    }
}

#[test]
fn another_key_is_refused() {
    // Rank 0 waits for a valid rank 1 until its timeout. If the machine is too slow for that timeout, the test tries a
    // longer one.
    let attempt = |time| -> Vec<CollectiveError> {
        let listeners = listeners(2);
        let results = try_form(&listeners, |rank, config| {
            config.form_timeout = time;
            config.key = key(if rank == 0 { "the key of rank 0" } else { "the key of rank 1" });
        });
        results.into_iter().map(|result| result.err().unwrap()).collect()
    };
    let in_time = |errors: &Vec<_>| !errors.iter().any(|error| matches!(error, CollectiveError::Timeout { .. }));
    let errors = [BRIEF, 10 * BRIEF, 100 * BRIEF].into_iter().map(attempt).find(in_time).expect("rank 1 comes");
    assert_eq!(errors[0].to_string(), "rank 1 does not match this rank: it does not hold this group's key");
    assert!(
        errors[1].to_string().starts_with("rank 0 does not match this rank: it does not accept this rank's group key")
    );
}

/// Forms a group of two with a key. Returns what rank 1 said to rank 0 in the handshake, as somebody between them hears it.
fn hear_handshake(listeners: &[Listener]) -> Vec<u8> {
    let relay = TcpListener::bind(ANY_PORT).unwrap();
    let (relay_address, rank_0) = (relay.local_addr().unwrap().to_string(), listeners[0].local_addr());
    std::thread::scope(|scope| {
        let hear_call = move || {
            let (mut from_1, mut to_0) = (relay.accept().unwrap().0, TcpStream::connect(rank_0).unwrap());
            let (mut from_0, mut to_1) = (to_0.try_clone().unwrap(), from_1.try_clone().unwrap());
            std::thread::spawn(move || {
                std::io::copy(&mut from_0, &mut to_1).ok();
                to_1.shutdown(Shutdown::Both).ok();
            });
            let (mut heard, mut bytes) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = from_1.read(&mut bytes) {
                heard.extend_from_slice(&bytes[..count]);
                to_0.write_all(&bytes[..count]).ok();
            }
            to_0.shutdown(Shutdown::Both).ok();
            heard
        };
        // Rank 1 calls again if rank 0 does not form yet. Such a call has no proof.
        let has_proof = |heard: &Vec<u8>| heard.len() > 10 + usize::from(u16::from_le_bytes([heard[8], heard[9]]));
        let hearing = scope.spawn(move || std::iter::repeat_with(hear_call).find(has_proof).unwrap());
        drop(form(listeners, |_, config| {
            config.key = key("the key of this group");
            config.addresses[0].clone_from(&relay_address);
        }));
        hearing.join().unwrap()
    })
}

/// Plays a greeting and a proof to a rank that forms a group. Returns the rank's answer to the proof.
fn play_handshake(address: SocketAddr, greeting: &[u8], proof: &[u8]) -> u8 {
    const WELCOME: u8 = 0;
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(greeting).unwrap();
        let mut preface = [0; 10];
        stream.read_exact(&mut preface).unwrap();
        if preface[7] == WELCOME {
            let mut rest = vec![0; usize::from(u16::from_le_bytes([preface[8], preface[9]]))];
            stream.read_exact(&mut rest).unwrap();
            stream.write_all(proof).unwrap();
            let mut last_message = [0; 33];
            stream.read_exact(&mut last_message).unwrap();
            return last_message[0];
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whoever heard a handshake cannot take the rank's place with it, though cluster, epoch and ranks are the same.
#[test]
fn a_handshake_that_is_played_again_is_refused() {
    const NOT_ACCEPTED: u8 = 2;
    let listeners = listeners(2);
    let heard = hear_handshake(&listeners);
    let (greeting, proof) = heard.split_at(heard.len() - 32);
    std::thread::scope(|scope| {
        let form = |rank| {
            let config = RingConfig { key: key("the key of this group"), ..config(rank, &listeners) };
            ring::form(&listeners[rank], config, None, &AbortSwitch::new().unwrap()).unwrap()
        };
        let rank_0 = scope.spawn(move || form(0));
        assert_eq!(play_handshake(listeners[0].local_addr(), greeting, proof), NOT_ACCEPTED);
        let rank_1 = form(1);
        exercise_all(&mut [rank_0.join().unwrap(), rank_1], 9);
    });
}

#[test]
fn an_address_of_another_rank_is_refused() {
    let listeners = listeners(3);
    let results = try_form(&listeners, |rank, config| match rank {
        2 => config.addresses[0] = config.addresses[1].clone(),
        _ => config.form_timeout = BRIEF,
    });
    let error = results.into_iter().nth(2).unwrap().err().unwrap();
    assert_eq!(
        error.to_string(),
        "rank 0 does not match this rank: this rank expected rank 0 there, but rank 1 answered"
    );
}

/// Returns the error of a rank that finds a stranger at a peer's address. The stranger answers with `reply`.
fn form_with_stranger(reply: &'static [u8], time: Duration) -> CollectiveError {
    let stranger = TcpListener::bind(ANY_PORT).unwrap();
    let mut listeners = listeners(2);
    let mut config = config(1, &listeners);
    config.addresses[0] = stranger.local_addr().unwrap().to_string();
    config.form_timeout = time;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = stranger.accept().unwrap();
            // The rank may have hung up already, because its timeout is short.
            let _ = stream.read_exact(&mut [0; 64]).and_then(|()| stream.write_all(reply));
            let _ = stream.read(&mut [0; 512]);
        });
        ring::form(&listeners.pop().unwrap(), config, None, &AbortSwitch::new().unwrap()).err().unwrap()
    })
}

#[test]
fn an_error_names_the_rank_at_whose_address_a_stranger_listens() {
    let reason = "the peer does not answer like a Lockstep rank".to_owned();
    let long = Duration::from_secs(20);
    assert_eq!(
        form_with_stranger(b"HTTP/1.1 400 Bad Request\r\n", long),
        CollectiveError::Mismatch { rank: 0, reason }
    );
    let reason = "the wire version is 1 here and 7 there".to_owned();
    assert_eq!(form_with_stranger(b"LKST\x07\x00\x01\x02", long), CollectiveError::Mismatch { rank: 0, reason });
    assert_eq!(form_with_stranger(b"LK", BRIEF), CollectiveError::Timeout { rank: 0, millis: 300 });
}

#[test]
fn strangers_neither_stall_nor_break_forming() {
    let listeners = listeners(2);
    let address = listeners[0].local_addr();
    let mut silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (index, stream) in silent.iter_mut().enumerate() {
        let messages: [&[u8]; 4] = [b"", b"GET / HTTP/1.1\r\n\r\n", b"LKST\x01\x00\x01\x00\xff\xff", &[0x16; 3000]];
        // The listener may have closed the connection already.
        let _ = stream.write_all(messages[index % messages.len()]);
    }
    let mut group = form(&listeners, |_, _| {});
    exercise_all(&mut group, 9);
    drop(silent);
}

#[test]
fn the_listener_answers_another_version_with_its_own() {
    let listeners = listeners(1);
    let mut stream = TcpStream::connect(listeners[0].local_addr()).unwrap();
    stream.write_all(b"LKST\x09\x00\x01\x00").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"LKST\x01\x00\x01\x02");
}

#[test]
fn a_peer_that_leaves_during_an_operation_is_noticed() {
    let listeners = listeners(3);
    let mut group = form(&listeners, |_, _| {});
    let results = on_ranks(&mut group, |comm| {
        let rank = comm.group().rank();
        let mut data = vec![1.0f32; 1 << 20];
        if rank == 2 {
            // Its links close in the middle of the others' operation.
            let aborter = comm.aborter();
            aborter.abort("leaves");
        }
        comm.all_reduce_sum(SliceMut::F32(&mut data))
    });
    for result in &results[..2] {
        assert!(matches!(result, Err(CollectiveError::PeerLost { .. })), "{result:?}");
    }
}

#[test]
fn a_silent_peer_is_a_timeout() {
    let listeners = listeners(2);
    let mut group = form(&listeners, |_, config| config.op_timeout = Duration::from_millis(60));
    let (waiting, _silent) = group.split_at_mut(1);
    assert_eq!(waiting[0].barrier(), Err(CollectiveError::Timeout { rank: 1, millis: 60 }));
}

#[test]
fn an_abort_ends_forming_and_a_blocked_operation() {
    let listeners = listeners(2);
    let abort = AbortSwitch::new().unwrap();
    let error = std::thread::scope(|scope| {
        let forming = scope.spawn(|| ring::form(&listeners[0], config(0, &listeners), None, &abort).err());
        std::thread::sleep(Duration::from_millis(20));
        abort.abort("changed my mind");
        forming.join().unwrap()
    });
    assert_eq!(error, Some(CollectiveError::Aborted("changed my mind".into())));

    let mut group = form(&listeners, |_, _| {});
    let aborter = group[0].aborter();
    let result = std::thread::scope(|scope| {
        let blocked = scope.spawn(|| group[0].barrier());
        std::thread::sleep(Duration::from_millis(20));
        aborter.abort("the head says so");
        blocked.join().unwrap()
    });
    assert_eq!(result, Err(CollectiveError::Aborted("the head says so".into())));
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let taken = Listener::bind(ANY_PORT).unwrap();
    let error = Listener::bind(taken.local_addr()).err().unwrap().to_string();
    assert!(error.starts_with(&format!("ring is not available: listen on {}", taken.local_addr())), "{error}");
}
