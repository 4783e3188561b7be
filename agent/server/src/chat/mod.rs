//! `-i`: a conversation with the model in the head's own terminal, or over a pipe.
//!
//! A thread of its own reads the input and writes the answers. Both may block, and no other task waits for them. Standard
//! output carries only the answers. [`lockstep_proto::chat`] defines the commands and the forms of input, and `lockstep
//! chat` uses the same ones.

mod input;
mod session;

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::config::ChatConfig;
use crate::progress;
use crate::signals::Signals;
pub(crate) use session::print;

use input::{InputSource, Typed};
use lockstep_api::Api;
use lockstep_proto::chat::Input;
use session::ChatSession;

/// Waits until the group serves, and then talks until the input ends or the user types `/quit`. A caller may drop the
/// future at any time, and the terminal then has its former modes.
///
/// # Errors
/// Standard input or output fails. Without a terminal, also a question fails.
pub(crate) async fn run(api: Api, config: ChatConfig, signals: Signals) -> anyhow::Result<()> {
    let terminal = io::stdin().is_terminal();
    let _restored = RestoredTerminal::save_modes();
    progress::wait_until_served(api.status(), io::stderr().is_terminal()).await?;
    let source = InputSource::open(terminal, config.history)?;
    let session = ChatSession::new(api, signals, Handle::current(), terminal, config.throughput);
    let (done, ended) = oneshot::channel();
    let run = move || done.send(talk(source, session)).ok();
    std::thread::Builder::new().name("chat".into()).spawn(run).context("start the conversation's thread")?;
    ended.await.context("the conversation's thread ended")?
}

fn talk(mut source: InputSource, mut session: ChatSession) -> anyhow::Result<()> {
    session.greet();
    let mut interrupted = false;
    loop {
        match source.next()? {
            Typed::End => return Ok(()),
            Typed::Interrupted if interrupted => return Ok(()),
            Typed::Interrupted => {
                interrupted = true;
                session::print_notice("[Ctrl-C again ends the conversation]");
            }
            Typed::Text(text) => {
                interrupted = false;
                if !session.handle_input(Input::parse(&text))? {
                    return Ok(());
                }
            }
        }
    }
}

/// Restores the terminal's modes on drop. The line editor may be in the middle of a line when the process ends.
struct RestoredTerminal(Option<rustix::termios::Termios>);

impl RestoredTerminal {
    fn save_modes() -> Self {
        Self(rustix::termios::tcgetattr(io::stdin()).ok())
    }
}

impl Drop for RestoredTerminal {
    fn drop(&mut self) {
        if let Some(modes) = &self.0 {
            rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Now, modes).ok();
        }
    }
}
