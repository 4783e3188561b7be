//! Discovery through neighbours: the addresses that every rank learns, restarts, and contradictions.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lockstep_collectives::ring::{ControlAddress, DiscoverConfig, Discovered, LinkKey, Listener, discover};
use lockstep_collectives::{AbortSwitch, CollectiveError, RankGroup};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Timeout of a rank that waits for a call that never comes.
const BRIEF: Duration = Duration::from_millis(250);

fn listeners(ranks: usize) -> Vec<Listener> {
    (0..ranks).map(|_| Listener::bind(ANY_PORT).unwrap()).collect()
}

fn address(listener: &Listener) -> String {
    listener.local_addr().to_string()
}

fn config(rank: usize, listeners: &[Listener]) -> DiscoverConfig {
    DiscoverConfig {
        group: RankGroup::new(rank, listeners.len()).unwrap(),
        cluster_id: String::new(),
        key: None,
        right: address(&listeners[(rank + 1) % listeners.len()]),
        control: (rank == 0).then_some(ControlAddress::Port(7001)),
        timeout: Duration::from_secs(20),
    }
}

fn discover_one(listener: &Listener, config: DiscoverConfig) -> Result<Discovered, CollectiveError> {
    discover(listener, config, &AbortSwitch::new().unwrap())
}

/// Runs every rank at once. `adapt` changes the configuration of each.
fn discover_all(
    listeners: &[Listener],
    adapt: impl Fn(usize, &mut DiscoverConfig) + Sync,
) -> Vec<Result<Discovered, CollectiveError>> {
    std::thread::scope(|scope| {
        let adapt = &adapt;
        let run_rank = |rank| {
            let mut config = config(rank, listeners);
            adapt(rank, &mut config);
            discover_one(&listeners[rank], config)
        };
        let threads: Vec<_> = (0..listeners.len()).map(|rank| scope.spawn(move || run_rank(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn every_rank_learns_the_head_and_itself() {
    for ranks in 2..=5 {
        let listeners = listeners(ranks);
        let key = LinkKey::new(*b"a key of the ring").unwrap();
        let results = discover_all(&listeners, |rank, config| {
            // The ranks start in another order than that of their numbers.
            std::thread::sleep(Duration::from_millis([15, 0, 30, 5, 20][rank]));
            config.key = (ranks == 3).then(|| key.clone());
        });
        for (rank, result) in results.into_iter().enumerate() {
            let expected = Discovered { control: "127.0.0.1:7001".into(), own: address(&listeners[rank]) };
            assert_eq!(result, Ok(expected), "rank {rank} of {ranks}");
        }
    }
}

#[test]
fn a_full_control_address_is_passed_on_unchanged() {
    let results = discover_all(&listeners(2), |rank, config| {
        config.control = (rank == 0).then(|| ControlAddress::Full("127.0.0.1:9".into()));
    });
    assert!(results.iter().all(|result| result.as_ref().unwrap().control == "127.0.0.1:9"), "{results:?}");
}

#[test]
fn a_restarted_rank_learns_everything_from_its_right_neighbour() {
    let mut listeners = listeners(3);
    let results = discover_all(&listeners, |_, _| {});
    let before = results[1].clone().unwrap();
    let port = listeners[1].local_addr();
    let config = config(1, &listeners);
    drop(listeners.remove(1));
    let restarted = Listener::bind(port).unwrap();
    assert_eq!(discover_one(&restarted, config), Ok(before));
}

#[test]
fn a_restarted_head_is_found_at_its_new_address() {
    let mut listeners = listeners(3);
    assert!(discover_all(&listeners, |_, _| {}).iter().all(Result::is_ok));
    let (port, mut head) = (listeners[0].local_addr(), config(0, &listeners));
    listeners[0] = Listener::bind(ANY_PORT).unwrap();
    listeners[0] = Listener::bind(port).unwrap();
    head.control = Some(ControlAddress::Port(7002));
    let expected = |rank: usize| Discovered { control: "127.0.0.1:7002".into(), own: address(&listeners[rank]) };
    assert_eq!(discover_one(&listeners[0], head), Ok(expected(0)));
    // Rank 2 asks the head itself, and rank 1 asks rank 2.
    let worker = |rank: usize| DiscoverConfig { control: None, ..config(rank, &listeners) };
    assert_eq!(discover_one(&listeners[2], worker(2)), Ok(expected(2)));
    assert_eq!(discover_one(&listeners[1], worker(1)), Ok(expected(1)));
}

#[test]
fn an_error_names_both_values_of_a_contradiction() {
    type Adapt = fn(&mut DiscoverConfig);
    let cases: [(Adapt, &str); 4] = [
        (
            |c| c.group = RankGroup::new(1, 4).unwrap(),
            "rank 2 does not match this rank: the world size is 4 here and 3 there",
        ),
        (|c| c.cluster_id = "b".into(), "rank 2 does not match this rank: the cluster is \"b\" here and \"\" there"),
        (
            |c| c.key = Some(LinkKey::new(*b"only rank 1 has it").unwrap()),
            "rank 2 does not match this rank: the group's key is given here and missing there",
        ),
        (|c| c.control = Some(ControlAddress::Port(1)), "rank 0 must give the control address, and no other rank may"),
    ];
    for (adapt, message) in cases {
        // Rank 1 may have to wait long until rank 2 listens.
        let results = discover_all(&listeners(3), |rank, config| match rank {
            1 => adapt(config),
            _ => config.timeout = BRIEF,
        });
        assert_eq!(results[1].as_ref().unwrap_err().to_string(), message);
        assert!(results.iter().all(Result::is_err), "{message}: {results:?}");
    }
}

#[test]
fn a_wrong_order_names_both_ranks() {
    let listeners = listeners(3);
    let results = discover_all(&listeners, |rank, config| match rank {
        0 => config.right = address(&listeners[2]),
        _ => config.timeout = BRIEF,
    });
    let message = "rank 1 does not match this rank: this rank expected rank 1 there, but rank 2 answered";
    assert_eq!(results[0].as_ref().unwrap_err().to_string(), message);
    assert_eq!(results[1], Err(CollectiveError::Timeout { rank: 0, millis: 250 }));
}

#[test]
fn loopback_and_remote_addresses_do_not_mix() {
    let results = discover_all(&listeners(2), |rank, config| {
        config.control = (rank == 0).then(|| ControlAddress::Full("192.0.2.7:1235".into()));
    });
    for result in results {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("the control address is 192.0.2.7:1235: use loopback for every rank or for none"),
            "{error}"
        );
    }
}

#[test]
fn an_absent_neighbour_is_a_timeout_and_an_abort_ends_the_wait() {
    let listeners = listeners(2);
    let short = DiscoverConfig { timeout: Duration::from_millis(50), ..config(1, &listeners) };
    assert_eq!(discover_one(&listeners[1], short), Err(CollectiveError::Timeout { rank: 0, millis: 50 }));
    let abort = AbortSwitch::new().unwrap();
    let result = std::thread::scope(|scope| {
        let discovery = scope.spawn(|| discover(&listeners[1], config(1, &listeners), &abort));
        std::thread::sleep(Duration::from_millis(10));
        abort.abort("enough");
        discovery.join().unwrap()
    });
    assert_eq!(result, Err(CollectiveError::Aborted("enough".into())));
}
