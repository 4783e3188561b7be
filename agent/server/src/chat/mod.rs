//! `-i`: a conversation with the model in the head's own terminal, or over a pipe.
//!
//! A thread of its own reads what is typed and writes the answers: both may block for as long as they like, and nothing
//! else waits for them. Standard output carries the answers alone. Commands and forms of input are
//! [`lockstep_proto::chat`]'s, the same as in `lockstep chat`.

mod conversation;
mod input;

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::config::ChatConfig;
use crate::progress;
use crate::signals::Signals;
pub(crate) use conversation::print;

use conversation::Conversation;
use input::{Source, Typed};
use lockstep_api::Api;
use lockstep_proto::chat::Input;

/// Waits until the group serves, then talks until the input ends or `/quit`. May be dropped at any time; the terminal is
/// then as it was.
///
/// # Errors
/// Standard input or output fails; off a terminal also an answer that could not be had.
pub async fn run(api: Api, config: ChatConfig, signals: Signals) -> anyhow::Result<()> {
    let terminal = io::stdin().is_terminal();
    let _restored = Restored::at_the_end();
    progress::wait_until_served(api.status(), io::stderr().is_terminal()).await?;
    let source = Source::open(terminal, config.history)?;
    let conversation = Conversation::new(api, signals, Handle::current(), terminal, config.throughput);
    let (done, ended) = oneshot::channel();
    let talk = move || done.send(converse(source, conversation)).ok();
    std::thread::Builder::new().name("chat".into()).spawn(talk).context("start the conversation's thread")?;
    ended.await.context("the conversation's thread ended")?
}

fn converse(mut source: Source, mut conversation: Conversation) -> anyhow::Result<()> {
    conversation.greet();
    let mut interrupted = false;
    loop {
        match source.next()? {
            Typed::End => return Ok(()),
            Typed::Interrupted if interrupted => return Ok(()),
            Typed::Interrupted => {
                interrupted = true;
                conversation::tell("[Ctrl-C again ends the conversation]");
            }
            Typed::Text(text) => {
                interrupted = false;
                if !conversation.take(Input::parse(&text))? {
                    return Ok(());
                }
            }
        }
    }
}

/// Puts the terminal's modes back: the line editor may be in the middle of a line when the process ends.
struct Restored(Option<rustix::termios::Termios>);

impl Restored {
    fn at_the_end() -> Self {
        Self(rustix::termios::tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(modes) = &self.0 {
            rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, modes).ok();
        }
    }
}
