//! The input of a conversation: lines of a terminal, with an editor and a history, or lines of a pipe.

use std::io::{self, BufRead as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use lockstep_proto::chat::{self, COMMANDS, MAX_INPUT_BYTES};
use rustyline::completion::Completer;
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};

/// Most inputs in the history.
const HISTORY: usize = 1000;

/// Result of one read of the input.
#[derive(Debug, PartialEq)]
pub(super) enum Typed {
    /// Input of one line or several.
    Text(String),
    /// Ctrl-C. The editor drops the line.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Standard input as a terminal or a pipe.
pub(super) enum InputSource {
    Terminal(Box<Terminal>),
    Pipe,
}

pub(super) struct Terminal {
    editor: Editor<ChatHelper, FileHistory>,
    history: Option<PathBuf>,
}

impl InputSource {
    /// Opens standard input.
    ///
    /// # Errors
    /// The line editor does not start in this terminal.
    pub(super) fn open(terminal: bool, history: Option<PathBuf>) -> anyhow::Result<Self> {
        if !terminal {
            return Ok(Self::Pipe);
        }
        // The editor uses the terminal even if the answers go to a file.
        let config = Config::builder().max_history_size(HISTORY)?.behavior(Behavior::PreferTerm).build();
        let mut editor = Editor::with_config(config).context("edit lines in the terminal")?;
        editor.set_helper(Some(ChatHelper));
        let history = history.filter(|path| load_history(&mut editor, path));
        Ok(Self::Terminal(Box::new(Terminal { editor, history })))
    }

    /// Waits for the next input.
    ///
    /// # Errors
    /// Standard input fails, is not UTF-8, or gives a too long input.
    pub(super) fn next(&mut self) -> anyhow::Result<Typed> {
        match self {
            Self::Terminal(terminal) => terminal.next(),
            Self::Pipe => read_piped_input(&mut io::stdin().lock()),
        }
    }
}

/// Loads the history. Returns false if the file cannot hold a history; the conversation works without one.
fn load_history(editor: &mut Editor<ChatHelper, FileHistory>, path: &Path) -> bool {
    let has_folder = path.parent().is_none_or(|folder| std::fs::create_dir_all(folder).is_ok());
    // A read of a pipe would wait for a writer.
    has_folder && (!path.exists() || path.is_file() && editor.load_history(path).is_ok())
}

impl Terminal {
    fn next(&mut self) -> anyhow::Result<Typed> {
        match self.editor.readline("> ") {
            Ok(text) => {
                self.remember(&text);
                Ok(Typed::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(error).context("read the terminal"),
        }
    }

    /// Adds an input to the history file at once, because the process may be killed.
    fn remember(&mut self, text: &str) {
        let added = self.editor.add_history_entry(text).unwrap_or(false);
        if let Some(path) = self.history.as_ref().filter(|_| added)
            && let Err(error) = self.editor.append_history(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot write the history: this conversation goes on without it");
            self.history = None;
        }
    }
}

/// Reads the next input of a pipe.
fn read_piped_input(input: &mut impl io::BufRead) -> anyhow::Result<Typed> {
    let mut text = String::new();
    loop {
        let room = (MAX_INPUT_BYTES + 1 - text.len()) as u64;
        let read = input.by_ref().take(room).read_line(&mut text).context("read standard input")?;
        if text.len() > MAX_INPUT_BYTES {
            bail!("standard input: one input has more than {MAX_INPUT_BYTES} bytes; give less");
        }
        if read == 0 {
            return Ok(if text.is_empty() { Typed::End } else { Typed::Text(text) });
        }
        if chat::is_complete(&text) {
            return Ok(Typed::Text(text));
        }
    }
}

/// Helper of the line editor: it knows incomplete inputs and completes commands.
struct ChatHelper;

impl Helper for ChatHelper {}
impl Highlighter for ChatHelper {}

impl Hinter for ChatHelper {
    type Hint = String;
}

impl Validator for ChatHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match chat::is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for ChatHelper {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        let commands = COMMANDS.iter().filter(|command| typed.starts_with('/') && command.starts_with(typed));
        Ok((0, commands.map(|command| (*command).to_owned()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gives_one_input_after_another() {
        let mut pipe = io::Cursor::new("one\n\ntwo \\\nthree\n\"\"\"\nfour\n\nfive\n\"\"\"\nsix");
        for expected in ["one\n", "\n", "two \\\nthree\n", "\"\"\"\nfour\n\nfive\n\"\"\"\n", "six"] {
            assert_eq!(read_piped_input(&mut pipe).unwrap(), Typed::Text(expected.into()));
        }
        assert_eq!(read_piped_input(&mut pipe).unwrap(), Typed::End);
    }

    #[test]
    fn a_pipe_without_valid_input_fails() {
        assert!(read_piped_input(&mut io::Cursor::new(b"\xff\xfe\n")).is_err());
        let mut endless = io::BufReader::new(io::repeat(b'a'));
        assert!(read_piped_input(&mut endless).unwrap_err().to_string().contains("give less"));
    }

    #[test]
    fn tab_completes_commands() {
        let history = FileHistory::new();
        let complete = |line: &str| ChatHelper.complete(line, line.len(), &Context::new(&history)).unwrap().1;
        assert_eq!(complete("/t"), ["/temperature", "/top-k", "/top-p"]);
        assert!(complete("tell me").is_empty());
    }
}
