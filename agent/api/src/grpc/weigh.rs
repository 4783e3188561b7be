//! Memory that a gRPC request needs once it is decoded.
//!
//! Two bytes of a body can become a message of a hundred bytes. So the head weighs a body before it decodes it, by the
//! descriptors of the services.

use std::collections::HashMap;

use prost::{DecodeError, Message as _};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// Memory of a message, of a text beyond the bytes that spell it, and of a number, at most.
const MESSAGE_BYTES: usize = 512;
const TEXT_BYTES: usize = 64;
const NUMBER_BYTES: usize = 8;
/// Bytes before each message of a body: a mark of compression and the message's length.
const PREFIX_BYTES: usize = 5;
/// Most levels of messages within messages, as prost has it.
const MAX_LEVELS: usize = 100;

/// Types of the requests of all methods that take one request.
#[derive(Debug, Default)]
pub(super) struct RequestTypes {
    /// Type of the request by the path of its method.
    requests: HashMap<String, String>,
    /// Kind of each field by its number, for each type.
    fields: HashMap<String, HashMap<u64, FieldKind>>,
}

#[derive(Debug)]
enum FieldKind {
    Number,
    Text,
    Message(String),
}

impl RequestTypes {
    /// Reads encoded sets of descriptors.
    ///
    /// # Errors
    /// A set does not parse.
    pub(super) fn from_descriptors(sets: &[&[u8]]) -> Result<Self, DecodeError> {
        let mut types = Self::default();
        for file in sets.iter().map(|set| FileDescriptorSet::decode(*set)).collect::<Result<Vec<_>, _>>()? {
            for file in file.file {
                let package = file.package().to_owned();
                for service in &file.service {
                    for method in service.method.iter().filter(|method| !method.client_streaming()) {
                        let path = format!("/{package}.{}/{}", service.name(), method.name());
                        types.requests.insert(path, method.input_type().to_owned());
                    }
                }
                file.message_type.into_iter().for_each(|message| types.add(&format!(".{package}"), message));
            }
        }
        Ok(types)
    }

    /// Adds a type and the types within it, such as the entries of its maps.
    fn add(&mut self, scope: &str, message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        let fields = message.field.iter().map(|field| {
            let kind = match field.r#type() {
                Type::Message | Type::Group => FieldKind::Message(field.type_name().to_owned()),
                Type::String | Type::Bytes => FieldKind::Text,
                _ => FieldKind::Number,
            };
            (u64::from(field.number().unsigned_abs()), kind)
        });
        self.fields.insert(name.clone(), fields.collect());
        message.nested_type.into_iter().for_each(|nested| self.add(&name, nested));
    }

    /// Returns true if a method with this path takes one request.
    pub(super) fn has_method(&self, path: &str) -> bool {
        self.requests.contains_key(path)
    }

    /// Returns the most memory that a body of a method and its messages need. Returns `None` if a message is malformed.
    pub(super) fn weigh(&self, path: &str, body: &[u8]) -> Option<usize> {
        let request = self.requests.get(path)?;
        let (mut weight, mut rest) = (2 * body.len(), body);
        while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX_BYTES>() {
            let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            // The service refuses a message that breaks off.
            let Some((message, after)) = after.split_at_checked(length) else { break };
            weight += self.weigh_message(request, message, 0)?;
            rest = after;
        }
        Some(weight)
    }

    fn weigh_message(&self, name: &str, mut rest: &[u8], level: usize) -> Option<usize> {
        let fields = self.fields.get(name).filter(|_| level < MAX_LEVELS)?;
        let mut weight = MESSAGE_BYTES;
        while !rest.is_empty() {
            let key = take_number(&mut rest)?;
            let length = match key & 7 {
                0 => {
                    take_number(&mut rest)?;
                    0
                }
                1 => 8,
                2 => usize::try_from(take_number(&mut rest)?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (value, after) = rest.split_at_checked(length)?;
            rest = after;
            weight += match fields.get(&(key >> 3)) {
                Some(FieldKind::Message(name)) => self.weigh_message(name, value, level + 1)?,
                Some(FieldKind::Text) => TEXT_BYTES,
                // Each number of a list ends with a byte below 128, or has four or eight bytes.
                Some(FieldKind::Number) => NUMBER_BYTES * (1 + value.iter().filter(|byte| **byte < 128).count()),
                None => 0,
            };
        }
        Some(weight)
    }
}

/// Takes a number of variable length from the beginning of the bytes.
fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 127) << shift;
        if *byte < 128 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use lockstep_proto::DESCRIPTORS;
    use lockstep_proto::v1::generate_request::Prompt;
    use lockstep_proto::v1::{ChatMessage, ChatRequest, GenerateRequest, Sampling, TokenIds, ToolCall};

    use super::*;

    const GENERATE: &str = "/lockstep.v1.Inference/Generate";
    const CHAT: &str = "/lockstep.v1.Inference/Chat";

    fn body(message: &[u8]) -> Vec<u8> {
        [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
    }

    #[test]
    fn messages_and_numbers_weigh_more_than_text() {
        let types = RequestTypes::from_descriptors(&[DESCRIPTORS]).unwrap();
        let weigh = |path: &str, message: Vec<u8>| types.weigh(path, &body(&message)).unwrap();
        let text = GenerateRequest { prompt: Some(Prompt::Text("x".repeat(1 << 20))), ..Default::default() };
        assert!((2 << 20..3 << 20).contains(&weigh(GENERATE, text.encode_to_vec())), "a text is there twice");
        let ids = TokenIds { ids: (0..100_000).collect() };
        let ids = GenerateRequest { prompt: Some(Prompt::TokenIds(ids)), ..Default::default() };
        assert!((1_000_000..2_000_000).contains(&weigh(GENERATE, ids.encode_to_vec())), "8 bytes each");
        let sampling = Sampling { logit_bias: (0..100).map(|id| (id, 1.0)).collect(), ..Default::default() };
        let biases = GenerateRequest { sampling: Some(sampling), ..Default::default() };
        assert!(weigh(GENERATE, biases.encode_to_vec()) > 100 * MESSAGE_BYTES);
        let calls = vec![ToolCall::default(); 1000];
        let chat = ChatRequest {
            messages: vec![ChatMessage { tool_calls: calls, ..Default::default() }; 10],
            ..Default::default()
        };
        assert!(weigh(CHAT, chat.encode_to_vec()) > 10_000 * MESSAGE_BYTES);
        assert!(size_of::<ChatMessage>() + size_of::<crate::text::ChatMessage>() <= MESSAGE_BYTES);
    }

    #[test]
    fn malformed_messages_have_no_weight() {
        let types = RequestTypes::from_descriptors(&[DESCRIPTORS]).unwrap();
        let two = [body(&[]), body(&[0x12, 0])].concat();
        assert_eq!(types.weigh(CHAT, &two), Some(2 * two.len() + 3 * MESSAGE_BYTES), "all messages count");
        for cut in [&[][..], &[0, 0, 0], &[0, 255, 255, 255, 255, 1]] {
            assert_eq!(types.weigh(CHAT, cut), Some(2 * cut.len()), "the service refuses it");
        }
        for malformed in [&[0x12][..], &[0x12, 5, 0], &[0x13], &[0x80; 11], &[0x12, 2, 0x12, 9]] {
            assert_eq!(types.weigh(CHAT, &body(malformed)), None, "{malformed:?}");
        }
        assert_eq!(types.weigh("/lockstep.v1.Inference/Other", &two), None);
        assert!(types.has_method(GENERATE) && !types.has_method("/lockstep.v1.Inference/Other"));
    }
}
