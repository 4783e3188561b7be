//! What two ranks say to each other before anything else, and whether they belong together. Layout: README.md.

use crate::communicator::Group;

/// First bytes of every connection.
const MAGIC: [u8; 4] = *b"LKST";

/// Moves when anything after the preface changes.
pub(crate) const WIRE_VERSION: u16 = 1;

/// Magic, version, purpose, verdict: the same in every version.
pub(crate) const PREFACE_BYTES: usize = 8;

/// Preface and the length of what follows.
const FRAME_START: usize = PREFACE_BYTES + 2;

/// Longest string in a greeting: a DNS name with a port fits.
pub(crate) const LONGEST_TEXT: usize = 300;

/// Longest greeting: four texts and the fixed fields, rounded up.
pub(crate) const LONGEST_GREETING: usize = 2048;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    /// A link of a communicator.
    Data = 1,
    /// Telling addresses round the ring.
    Bootstrap = 2,
}

/// What the acceptor makes of a dialer's greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Verdict {
    /// Prove yourself; what a dialer's own greeting carries.
    Welcome = 0,
    /// Come again: this rank is not there yet.
    NotYet = 1,
    /// The greeting's values say why.
    Refused = 2,
}

/// Addresses on their way round the ring; empty where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rumour {
    /// Address by which the dialer dialled the acceptor.
    pub(crate) dialled: String,
    /// The dialer's own address: as it was dialled itself, or as the acceptor has it on record.
    pub(crate) dialer: String,
    /// Control address of the head.
    pub(crate) control: String,
    /// The newer control address has the higher generation.
    pub(crate) generation: u64,
}

/// A rank's first words.
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
    pub(crate) rumour: Rumour,
}

/// What bytes from a stranger turn out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A beginning.
    Part,
    Greeting(Box<Greeting>, Verdict),
    /// Ours, of another version.
    Version(u16),
    Garbage,
}

/// Whether two greetings belong together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    Fits,
    /// Not now: `theirs` is of an epoch that this rank has yet to reach.
    NotYet(String),
    /// Never; the text names both values.
    Wrong(String),
}

impl Greeting {
    /// A greeting of `group`'s rank to rank `to`.
    pub(crate) fn new(purpose: Purpose, group: Group, to: usize, epoch: u64, cluster_id: &str, keyed: bool) -> Self {
        let mut nonce = [0; 32];
        nonce[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        nonce[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let (from, world_size) = (group.rank(), group.world_size());
        let cluster_id = cluster_id.to_owned();
        Self { purpose, keyed, epoch, from, to, world_size, nonce, cluster_id, rumour: Rumour::default() }
    }

    pub(crate) fn encode(&self, verdict: Verdict) -> Vec<u8> {
        let mut out = preface(self.purpose as u8, verdict).to_vec();
        out.extend([0; 2]);
        out.push(u8::from(self.keyed));
        out.extend(self.epoch.to_le_bytes());
        for number in [self.from, self.to, self.world_size] {
            out.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        out.extend(self.nonce);
        let rumour = &self.rumour;
        for text in [&self.cluster_id, &rumour.dialled, &rumour.dialer, &rumour.control] {
            let text = &text.as_bytes()[..text.len().min(LONGEST_TEXT)];
            out.extend(u16::try_from(text.len()).unwrap_or_default().to_le_bytes());
            out.extend(text);
        }
        out.extend(rumour.generation.to_le_bytes());
        let body = u16::try_from(out.len() - FRAME_START).unwrap_or_default();
        out[PREFACE_BYTES..FRAME_START].copy_from_slice(&body.to_le_bytes());
        out
    }

    /// `theirs` seen from this side, whose own words are `self`.
    pub(crate) fn fit(&self, theirs: &Self) -> Fit {
        let differ = |what: &str, ours: &dyn std::fmt::Display, other: &dyn std::fmt::Display| {
            Fit::Wrong(format!("{what} here is {ours}, there {other}"))
        };
        if self.cluster_id != theirs.cluster_id {
            return differ("the cluster", &format!("{:?}", self.cluster_id), &format!("{:?}", theirs.cluster_id));
        }
        if self.keyed != theirs.keyed {
            let key = |keyed| if keyed { "given" } else { "missing" };
            return differ("the group's key", &key(self.keyed), &key(theirs.keyed));
        }
        if theirs.epoch > self.epoch {
            return Fit::NotYet(format!("the epoch here is {}, there {}", self.epoch, theirs.epoch));
        }
        if theirs.epoch < self.epoch {
            return differ("the epoch", &self.epoch, &theirs.epoch);
        }
        if self.world_size != theirs.world_size {
            return differ("the world size", &self.world_size, &theirs.world_size);
        }
        if self.to != theirs.from {
            return Fit::Wrong(format!("rank {} was expected there, rank {} it is", self.to, theirs.from));
        }
        if self.from != theirs.to {
            return Fit::Wrong(format!("this is rank {}, rank {} was expected", self.from, theirs.to));
        }
        Fit::Fits
    }
}

/// The first bytes of a connection.
pub(crate) fn preface(purpose: u8, verdict: Verdict) -> [u8; PREFACE_BYTES] {
    let [m0, m1, m2, m3] = MAGIC;
    let [v0, v1] = WIRE_VERSION.to_le_bytes();
    [m0, m1, m2, m3, v0, v1, purpose, verdict as u8]
}

/// What the bytes so far are; greetings are exactly as long as they say.
pub(crate) fn hear(bytes: &[u8]) -> Heard {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Heard::Garbage;
    }
    if bytes.len() < PREFACE_BYTES {
        return Heard::Part;
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != WIRE_VERSION {
        return Heard::Version(version);
    }
    if bytes.len() < FRAME_START {
        return Heard::Part;
    }
    let whole = FRAME_START + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    if whole > LONGEST_GREETING || bytes.len() > whole {
        return Heard::Garbage;
    }
    if bytes.len() < whole {
        return Heard::Part;
    }
    decode(bytes).map_or(Heard::Garbage, |(greeting, verdict)| Heard::Greeting(Box::new(greeting), verdict))
}

fn decode(bytes: &[u8]) -> Option<(Greeting, Verdict)> {
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
    let mut body = Reader(&bytes[FRAME_START..]);
    let keyed = match body.array::<1>()? {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    let epoch = u64::from_le_bytes(body.array()?);
    let (from, to, world_size) = (body.number()?, body.number()?, body.number()?);
    let nonce = body.array()?;
    let cluster_id = body.text()?;
    let (dialled, dialer, control) = (body.text()?, body.text()?, body.text()?);
    let generation = u64::from_le_bytes(body.array()?);
    let rumour = Rumour { dialled, dialer, control, generation };
    let whole = body.0.is_empty() && from < world_size && to < world_size;
    let greeting = Greeting { purpose, keyed, epoch, from, to, world_size, nonce, cluster_id, rumour };
    whole.then_some((greeting, verdict))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        if length > LONGEST_TEXT {
            return None;
        }
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting(from: usize, to: usize, world_size: usize, text: &str) -> Greeting {
        let group = Group::new(from, world_size).unwrap();
        let mut greeting = Greeting::new(Purpose::Bootstrap, group, to, 7, text, true);
        let text = text.to_owned();
        greeting.rumour = Rumour { dialled: text.clone(), dialer: String::new(), control: text, generation: u64::MAX };
        greeting
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard_and_a_beginning_is_no_greeting(text in "\\PC{0,60}", to in 0usize..5) {
            let said = greeting(3, to, 5, &text);
            let bytes = said.encode(Verdict::NotYet);
            prop_assert!(bytes.len() <= LONGEST_GREETING);
            for end in 0..bytes.len() {
                prop_assert_eq!(hear(&bytes[..end]), Heard::Part);
            }
            prop_assert_eq!(hear(&bytes), Heard::Greeting(Box::new(said), Verdict::NotYet));
        }

        #[test]
        fn no_bytes_break_hearing(at in 0usize..400, byte: u8, junk in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = greeting(1, 0, 2, "group").encode(Verdict::Welcome);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            hear(&bytes);
            bytes.extend(&junk);
            hear(&bytes);
            hear(&junk);
        }
    }

    #[test]
    fn the_longest_texts_fit() {
        let bytes = greeting(0, 1, 2, &"x".repeat(LONGEST_TEXT)).encode(Verdict::Welcome);
        assert!(matches!(hear(&bytes), Heard::Greeting(..)));
    }

    #[test]
    fn only_what_faces_each_other_fits() {
        let ours = greeting(0, 1, 2, "group");
        assert_eq!(ours.fit(&greeting(1, 0, 2, "group")), Fit::Fits);
        let later = Greeting { epoch: 8, ..greeting(1, 0, 2, "group") };
        assert_eq!(ours.fit(&later), Fit::NotYet("the epoch here is 7, there 8".into()));
        let other = |theirs: Greeting| match ours.fit(&theirs) {
            Fit::Wrong(reason) => reason,
            fit => panic!("{fit:?}"),
        };
        assert_eq!(other(Greeting { epoch: 6, ..later }), "the epoch here is 7, there 6");
        assert_eq!(other(greeting(1, 0, 3, "group")), "the world size here is 2, there 3");
        assert_eq!(other(greeting(1, 1, 2, "group")), "this is rank 0, rank 1 was expected");
        assert_eq!(other(greeting(0, 0, 2, "group")), "rank 1 was expected there, rank 0 it is");
    }
}
