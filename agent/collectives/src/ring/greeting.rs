//! The greeting: the first message of both ends of a connection. From the two greetings, each end sees if both ranks
//! belong to one group and epoch. README.md has the layout of a greeting.

use crate::rank_group::RankGroup;

/// First bytes of every connection.
const MAGIC: [u8; 4] = *b"LKST";

/// Version of everything after the preface.
pub(crate) const GREETING_VERSION: u16 = 1;

/// Bytes of magic, version, purpose and verdict. They are the same in every version.
pub(crate) const PREFACE_BYTES: usize = 8;

/// Bytes of the preface and of the body's length, which follows it.
const FRAME_START: usize = PREFACE_BYTES + 2;

/// Most bytes of a text in a greeting. A DNS name with a port fits.
pub(crate) const MAX_TEXT_BYTES: usize = 300;

/// Most bytes of a greeting: four texts and the fixed fields, rounded up.
pub(crate) const MAX_GREETING_BYTES: usize = 2048;

/// Purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// A link of a communicator.
    Data = 1,
    /// An exchange of addresses with a neighbour.
    Bootstrap = 2,
}

/// Verdict of the acceptor on a dialer's greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// The dialer may prove itself. The dialer's own greeting carries this value, too.
    Welcome = 0,
    /// The dialer should call again: the acceptor is not ready yet.
    NotYet = 1,
    /// The greetings do not match. The values of the acceptor's greeting show the reason.
    Refused = 2,
}

/// Addresses that neighbours tell each other. An empty address is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AddressNotice {
    /// Address by which the dialer dialled the acceptor.
    pub(crate) dialled: String,
    /// The dialer's own address. The dialer's greeting has the address by which the dialer's left neighbour dialled it.
    /// The acceptor's greeting has the address that the acceptor has recorded.
    pub(crate) dialer: String,
    /// Control address of the head.
    pub(crate) control: String,
    /// Generation of the control address. A newer address has a higher one.
    pub(crate) generation: u64,
}

/// First message of a rank on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) purpose: Purpose,
    pub(crate) keyed: bool,
    pub(crate) epoch: u64,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) world_size: usize,
    pub(crate) nonce: [u8; 32],
    pub(crate) cluster_id: String,
    pub(crate) notice: AddressNotice,
}

/// Result of parsing the first bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedGreeting {
    /// Beginning of a greeting.
    Incomplete,
    Greeting(Box<Greeting>, Verdict),
    /// Greeting of another wire version.
    OtherVersion(u16),
    Garbage,
}

/// Result of comparing two greetings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GreetingMatch {
    Matches,
    /// The peer's epoch is one that this rank has yet to reach.
    NotYet(String),
    /// The greetings never match. The text names both values.
    Mismatch(String),
}

impl Greeting {
    /// Makes the greeting of `group`'s rank to rank `to`, with a new nonce.
    pub(crate) fn new(
        purpose: Purpose,
        group: RankGroup,
        to: usize,
        epoch: u64,
        cluster_id: &str,
        keyed: bool,
    ) -> Self {
        let mut nonce = [0; 32];
        nonce[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        nonce[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let (from, world_size) = (group.rank(), group.world_size());
        let cluster_id = cluster_id.to_owned();
        Self { purpose, keyed, epoch, from, to, world_size, nonce, cluster_id, notice: AddressNotice::default() }
    }

    pub(crate) fn encode(&self, verdict: Verdict) -> Vec<u8> {
        let mut out = encode_preface(self.purpose as u8, verdict).to_vec();
        out.extend([0; 2]);
        out.push(u8::from(self.keyed));
        out.extend(self.epoch.to_le_bytes());
        for number in [self.from, self.to, self.world_size] {
            out.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        out.extend(self.nonce);
        let notice = &self.notice;
        for text in [&self.cluster_id, &notice.dialled, &notice.dialer, &notice.control] {
            let text = &text.as_bytes()[..text.len().min(MAX_TEXT_BYTES)];
            out.extend(u16::try_from(text.len()).unwrap_or_default().to_le_bytes());
            out.extend(text);
        }
        out.extend(notice.generation.to_le_bytes());
        let body = u16::try_from(out.len() - FRAME_START).unwrap_or_default();
        out[PREFACE_BYTES..FRAME_START].copy_from_slice(&body.to_le_bytes());
        out
    }

    /// Compares the peer's greeting with this rank's own, which is `self`.
    pub(crate) fn match_peer(&self, theirs: &Self) -> GreetingMatch {
        let differ = |field: &str, ours: &dyn std::fmt::Display, theirs: &dyn std::fmt::Display| {
            GreetingMatch::Mismatch(format!("{field} is {ours} here and {theirs} there"))
        };
        if self.cluster_id != theirs.cluster_id {
            return differ("the cluster", &format!("{:?}", self.cluster_id), &format!("{:?}", theirs.cluster_id));
        }
        if self.keyed != theirs.keyed {
            let key = |keyed| if keyed { "given" } else { "missing" };
            return differ("the group's key", &key(self.keyed), &key(theirs.keyed));
        }
        if theirs.epoch > self.epoch {
            return GreetingMatch::NotYet(format!("the epoch is {} here and {} there", self.epoch, theirs.epoch));
        }
        if theirs.epoch < self.epoch {
            return differ("the epoch", &self.epoch, &theirs.epoch);
        }
        if self.world_size != theirs.world_size {
            return differ("the world size", &self.world_size, &theirs.world_size);
        }
        if self.to != theirs.from {
            return GreetingMatch::Mismatch(format!(
                "this rank expected rank {} there, but rank {} answered",
                self.to, theirs.from
            ));
        }
        if self.from != theirs.to {
            return GreetingMatch::Mismatch(format!(
                "this is rank {}, but the peer expected rank {}",
                self.from, theirs.to
            ));
        }
        GreetingMatch::Matches
    }
}

/// Encodes the first bytes of a connection.
pub(crate) fn encode_preface(purpose: u8, verdict: Verdict) -> [u8; PREFACE_BYTES] {
    let [m0, m1, m2, m3] = MAGIC;
    let [v0, v1] = GREETING_VERSION.to_le_bytes();
    [m0, m1, m2, m3, v0, v1, purpose, verdict as u8]
}

/// Parses the bytes so far. A greeting must have exactly the length that it states.
pub(crate) fn parse_greeting(bytes: &[u8]) -> ParsedGreeting {
    let magic_bytes = bytes.len().min(MAGIC.len());
    if bytes[..magic_bytes] != MAGIC[..magic_bytes] {
        return ParsedGreeting::Garbage;
    }
    if bytes.len() < PREFACE_BYTES {
        return ParsedGreeting::Incomplete;
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != GREETING_VERSION {
        return ParsedGreeting::OtherVersion(version);
    }
    if bytes.len() < FRAME_START {
        return ParsedGreeting::Incomplete;
    }
    let total = FRAME_START + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    if total > MAX_GREETING_BYTES || bytes.len() > total {
        return ParsedGreeting::Garbage;
    }
    if bytes.len() < total {
        return ParsedGreeting::Incomplete;
    }
    decode_greeting(bytes)
        .map_or(ParsedGreeting::Garbage, |(greeting, verdict)| ParsedGreeting::Greeting(Box::new(greeting), verdict))
}

fn decode_greeting(bytes: &[u8]) -> Option<(Greeting, Verdict)> {
    let purpose = match bytes[6] {
        1 => Purpose::Data,
        2 => Purpose::Bootstrap,
        _ => return None,
    };
    let verdict = match bytes[7] {
        0 => Verdict::Welcome,
        1 => Verdict::NotYet,
        2 => Verdict::Refused,
        _ => return None,
    };
    let mut body = GreetingReader(&bytes[FRAME_START..]);
    let keyed = match body.read_array::<1>()? {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    let epoch = u64::from_le_bytes(body.read_array()?);
    let (from, to, world_size) = (body.read_number()?, body.read_number()?, body.read_number()?);
    let nonce = body.read_array()?;
    let cluster_id = body.read_text()?;
    let (dialled, dialer, control) = (body.read_text()?, body.read_text()?, body.read_text()?);
    let generation = u64::from_le_bytes(body.read_array()?);
    let notice = AddressNotice { dialled, dialer, control, generation };
    let valid = body.0.is_empty() && from < world_size && to < world_size;
    let greeting = Greeting { purpose, keyed, epoch, from, to, world_size, nonce, cluster_id, notice };
    valid.then_some((greeting, verdict))
}

/// The bytes of a greeting that are still to be decoded.
struct GreetingReader<'a>(&'a [u8]);

impl GreetingReader<'_> {
    fn read_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, remaining) = self.0.split_first_chunk::<N>()?;
        self.0 = remaining;
        Some(*array)
    }

    fn read_number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.read_array()?)).ok()
    }

    fn read_text(&mut self) -> Option<String> {
        let length = usize::from(u16::from_le_bytes(self.read_array()?));
        if length > MAX_TEXT_BYTES {
            return None;
        }
        let (text, remaining) = self.0.split_at_checked(length)?;
        self.0 = remaining;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting(from: usize, to: usize, world_size: usize, text: &str) -> Greeting {
        let group = RankGroup::new(from, world_size).unwrap();
        let mut greeting = Greeting::new(Purpose::Bootstrap, group, to, 7, text, true);
        let text = text.to_owned();
        greeting.notice =
            AddressNotice { dialled: text.clone(), dialer: String::new(), control: text, generation: u64::MAX };
        greeting
    }

    proptest! {
        #[test]
        fn a_greeting_is_parsed_only_when_it_is_complete(text in "\\PC{0,60}", to in 0usize..5) {
            let sent = greeting(3, to, 5, &text);
            let bytes = sent.encode(Verdict::NotYet);
            prop_assert!(bytes.len() <= MAX_GREETING_BYTES);
            for end in 0..bytes.len() {
                prop_assert_eq!(parse_greeting(&bytes[..end]), ParsedGreeting::Incomplete);
            }
            prop_assert_eq!(parse_greeting(&bytes), ParsedGreeting::Greeting(Box::new(sent), Verdict::NotYet));
        }

        #[test]
        fn no_bytes_break_the_parser(at in 0usize..400, byte: u8, junk in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = greeting(1, 0, 2, "group").encode(Verdict::Welcome);
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
            parse_greeting(&bytes);
            bytes.extend(&junk);
            parse_greeting(&bytes);
            parse_greeting(&junk);
        }
    }

    #[test]
    fn the_longest_texts_fit() {
        let bytes = greeting(0, 1, 2, &"x".repeat(MAX_TEXT_BYTES)).encode(Verdict::Welcome);
        assert!(matches!(parse_greeting(&bytes), ParsedGreeting::Greeting(..)));
    }

    #[test]
    fn only_greetings_of_two_peers_match() {
        let ours = greeting(0, 1, 2, "group");
        assert_eq!(ours.match_peer(&greeting(1, 0, 2, "group")), GreetingMatch::Matches);
        let later = Greeting { epoch: 8, ..greeting(1, 0, 2, "group") };
        assert_eq!(ours.match_peer(&later), GreetingMatch::NotYet("the epoch is 7 here and 8 there".into()));
        let mismatch_with = |theirs: Greeting| match ours.match_peer(&theirs) {
            GreetingMatch::Mismatch(reason) => reason,
            matched => panic!("{matched:?}"),
        };
        assert_eq!(mismatch_with(Greeting { epoch: 6, ..later }), "the epoch is 7 here and 6 there");
        assert_eq!(mismatch_with(greeting(1, 0, 3, "group")), "the world size is 2 here and 3 there");
        assert_eq!(mismatch_with(greeting(1, 1, 2, "group")), "this is rank 0, but the peer expected rank 1");
        assert_eq!(mismatch_with(greeting(0, 0, 2, "group")), "this rank expected rank 1 there, but rank 0 answered");
    }
}
