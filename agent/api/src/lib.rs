//! The client half of a head: it serves gRPC and HTTP, and turns text into token ids and back.
//!
//! The crate knows neither ranks nor the group. [`Inference`] is its interface to the head.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod access;
mod block_feed;
mod grammar;
mod grpc;
mod guard;
mod http;
mod metrics;
mod model;
mod output;
#[cfg(test)]
mod parity;
mod places;
mod serve;
mod service;
mod session;
mod text;

pub use block_feed::BlockFeed;
pub use grammar::{Grammar, GrammarError, Grammars, Guide};
pub use grpc::cluster::{ClusterService, MAX_STATUS_BYTES};
pub use grpc::{ReflectionError, serve as serve_grpc};
pub use guard::{AllowedOrigins, ApiKeys, ClientAccess, CurrentTls, KeysError, ReadSecret};
pub use http::serve as serve_http;
pub use metrics::{CONTENT_TYPE as METRICS_CONTENT_TYPE, Metrics, Outcome};
pub use model::{EngineFacts, ModelText, Text};
pub use output::reasoning::ReasoningStyle;
pub use output::tools::{Function, ToolStyle, forced_call_grammar};
pub use output::{OutputFormat, OutputParser, OutputPiece, StyleChoice, ToolFormat};
pub use places::{Busy, Place, PlaceLimits, Places, raise_file_limit};
pub use serve::{Protocol, serve as serve_connections};
pub use service::{Command, Event, EventStream, FinishReason, InFlight, Inference, Liveness, ServeError, Submission};
pub use session::{Answer, Api, Delta, Finish, GenerateInput, PromptInput, RequestError, request_id};
pub use text::{ChatMessage, ChatTemplates, Conversation, PromptEnding, TextError, Tokenizer, ToolCall};
