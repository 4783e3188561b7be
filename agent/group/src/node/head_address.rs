//! Watch over the address that the head's name leads to.
//!
//! A head whose machine was given up may live on, cut off from most of the cluster, beside the head that follows it. A node
//! that still reaches the old one would hold a place there for ever, and the new head would wait for it.

use std::net::IpAddr;

/// Lookups in a row that must lead elsewhere. A name server may have a bad moment.
const LOOKUPS: u32 = 2;

/// Addresses of the head's name when the node joined, and the lookups since.
#[derive(Debug)]
pub struct HeadAddress {
    joined: Vec<IpAddr>,
    elsewhere: u32,
}

impl HeadAddress {
    /// `joined` has the addresses of the head's name when the node joined.
    pub fn new(joined: Vec<IpAddr>) -> Self {
        Self { joined, elsewhere: 0 }
    }

    /// Notes the addresses of the name now. Returns true if the head is elsewhere: [`LOOKUPS`] lookups in a row gave
    /// addresses, and none of those from the beginning. A lookup without an address says nothing.
    pub fn has_moved(&mut self, now: &[IpAddr]) -> bool {
        if now.is_empty() {
            return false;
        }
        let is_elsewhere = !self.joined.is_empty() && !now.iter().any(|address| self.joined.contains(address));
        self.elsewhere = if is_elsewhere { self.elsewhere + 1 } else { 0 };
        self.elsewhere >= LOOKUPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_moved_once_its_name_leads_elsewhere_twice() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let mut head = HeadAddress::new(vec![address(1), address(2)]);
        let mut lookups =
            |lists: &[&[IpAddr]]| -> Vec<bool> { lists.iter().map(|list| head.has_moved(list)).collect() };
        let (old, new): (&[IpAddr], &[IpAddr]) = (&[address(2), address(3)], &[address(3)]);
        assert_eq!(lookups(&[old, new, old, new, &[], new]), [false, false, false, false, false, true]);
        assert!(!HeadAddress::new(Vec::new()).has_moved(new), "nothing is known of the beginning");
    }
}
