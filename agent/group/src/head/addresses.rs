//! Ring addresses of all ranks. They follow from each node's Hello and from the address that its stream comes from.

use std::net::IpAddr;

use super::member::Member;

/// Returns the ring addresses of all ranks, by rank.
///
/// If a node names no host, its ranks listen at the address that its stream comes from. A node beside the
/// head, on the same machine or in the same pod, dials the head over loopback, which no other machine or pod can reach.
/// If some nodes are elsewhere, the head's own address, as the first of them dialed it, takes the place of loopback.
///
/// # Errors
/// Names the rank whose address is malformed or cannot be reached from other machines or pods.
pub(super) fn ring_addresses(members: &[&Member]) -> Result<Vec<String>, String> {
    let outside = members.iter().find(|member| !member.peer.is_loopback()).map(|member| member.local);
    let mut addresses = Vec::new();
    for member in members {
        for address in &member.hello.ring_addresses {
            let resolved = resolve_address(address, member.peer, outside);
            addresses.push(resolved.map_err(|reason| format!("rank {}: {reason}", addresses.len()))?);
        }
    }
    Ok(addresses)
}

/// Resolves the address that a node with the address `peer` advertises. `outside` is the head's address as other
/// machines or pods reach it. It is `None` if all nodes dial the head over loopback.
fn resolve_address(address: &str, peer: IpAddr, outside: Option<IpAddr>) -> Result<String, String> {
    let malformed = || format!("its ring address `{address}` is not host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    let port: u16 = port.parse().map_err(|_| malformed())?;
    let advertised: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_unspecified = advertised.is_some_and(|ip| ip.is_unspecified());
    let ip = if is_unspecified { Some(peer) } else { advertised };
    match (ip, outside) {
        (None, _) => Ok(address.to_owned()),
        (Some(ip), Some(outside)) if ip.is_loopback() && is_unspecified => Ok(socket_address(outside, port)),
        (Some(ip), Some(_)) if ip.is_loopback() => Err(format!(
            "its ring address {address} is a loopback address, but other ranks are on other machines: bind its ring \
             port to an address that they can reach (--group-host), or in a ring, give its left neighbour such an \
             address (RING_RIGHT)"
        )),
        (Some(ip), _) => Ok(socket_address(ip, port)),
    }
}

fn socket_address(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_addresses_follow_from_the_streams() {
        let lo: IpAddr = [127, 0, 0, 1].into();
        let far: IpAddr = [10, 0, 0, 2].into();
        let head: IpAddr = [10, 0, 0, 1].into();
        let check = |address, peer, outside, expected: Result<&str, &str>| match (
            resolve_address(address, peer, outside),
            expected,
        ) {
            (Ok(is), Ok(should)) => assert_eq!(is, should),
            (Err(is), Err(should)) => assert!(is.contains(should), "{is}"),
            (is, should) => panic!("{address}: {is:?}, not {should:?}"),
        };
        check("0.0.0.0:1236", lo, None, Ok("127.0.0.1:1236"));
        check("0.0.0.0:1236", far, Some(head), Ok("10.0.0.2:1236"));
        check("0.0.0.0:1236", lo, Some(head), Ok("10.0.0.1:1236"));
        check("worker-1.example:1236", far, Some(head), Ok("worker-1.example:1236"));
        // The head's own ranks in a pod dial over loopback and advertise the pod's address.
        check("10.0.0.9:1236", lo, Some(head), Ok("10.0.0.9:1236"));
        check("10.0.0.9:1236", lo, None, Ok("10.0.0.9:1236"));
        check("127.0.0.1:1500", lo, None, Ok("127.0.0.1:1500"));
        check("127.0.0.1:1500", lo, Some(head), Err("loopback address, but other ranks are on other machines"));
        check("[::]:7", "::1".parse().expect("an address"), None, Ok("[::1]:7"));
        check("nonsense", lo, None, Err("is not host:port"));
        check("host:99999", lo, None, Err("is not host:port"));
    }
}
