//! What is typed: lines of a terminal, with an editor and a history, or of a pipe.

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

/// Inputs that the history keeps.
const HISTORY: usize = 1000;

/// What came.
#[derive(Debug, PartialEq)]
pub enum Typed {
    /// One input, of one line or several.
    Text(String),
    /// Ctrl-C; what had been typed is forgotten.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Standard input.
pub enum Source {
    Terminal(Box<Terminal>),
    Pipe,
}

pub struct Terminal {
    editor: Editor<Words, FileHistory>,
    history: Option<PathBuf>,
}

impl Source {
    /// # Errors
    /// There is no terminal to edit lines in.
    pub fn open(terminal: bool, history: Option<PathBuf>) -> anyhow::Result<Self> {
        if !terminal {
            return Ok(Self::Pipe);
        }
        // Answers may go to a file; lines are edited in the terminal all the same.
        let config = Config::builder().max_history_size(HISTORY)?.behavior(Behavior::PreferTerm).build();
        let mut editor = Editor::with_config(config).context("edit lines in the terminal")?;
        editor.set_helper(Some(Words));
        let history = history.filter(|path| remembers(&mut editor, path));
        Ok(Self::Terminal(Box::new(Terminal { editor, history })))
    }

    /// Waits for the next input.
    ///
    /// # Errors
    /// Standard input fails, is not UTF-8, or too long at once.
    pub fn next(&mut self) -> anyhow::Result<Typed> {
        match self {
            Self::Terminal(terminal) => terminal.next(),
            Self::Pipe => piped(&mut io::stdin().lock()),
        }
    }
}

/// Loads the history; false where there can be none, which is no reason not to talk.
fn remembers(editor: &mut Editor<Words, FileHistory>, path: &Path) -> bool {
    let made = path.parent().is_none_or(|folder| std::fs::create_dir_all(folder).is_ok());
    // Reading a pipe would wait for somebody to write to it.
    made && (!path.exists() || path.is_file() && editor.load_history(path).is_ok())
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

    /// Kept at once: the process may be killed.
    fn remember(&mut self, text: &str) {
        let added = self.editor.add_history_entry(text).unwrap_or(false);
        if let Some(path) = self.history.as_ref().filter(|_| added)
            && let Err(error) = self.editor.append_history(path)
        {
            tracing::warn!(path = %path.display(), %error, "the history is not kept");
            self.history = None;
        }
    }
}

/// The next input of a pipe.
fn piped(input: &mut impl io::BufRead) -> anyhow::Result<Typed> {
    let mut text = String::new();
    loop {
        let room = (MAX_INPUT_BYTES + 1 - text.len()) as u64;
        let read = input.by_ref().take(room).read_line(&mut text).context("read standard input")?;
        if text.len() > MAX_INPUT_BYTES {
            bail!("standard input: more than {MAX_INPUT_BYTES} bytes at once; give less");
        }
        if read == 0 {
            return Ok(if text.is_empty() { Typed::End } else { Typed::Text(text) });
        }
        if chat::is_complete(&text) {
            return Ok(Typed::Text(text));
        }
    }
}

/// What the editor knows of the language: which inputs go on, and the commands.
struct Words;

impl Helper for Words {}
impl Highlighter for Words {}

impl Hinter for Words {
    type Hint = String;
}

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match chat::is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Words {
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
    fn a_pipe_is_read_input_by_input() {
        let mut pipe = io::Cursor::new("one\n\ntwo \\\nthree\n\"\"\"\nfour\n\nfive\n\"\"\"\nsix");
        for expected in ["one\n", "\n", "two \\\nthree\n", "\"\"\"\nfour\n\nfive\n\"\"\"\n", "six"] {
            assert_eq!(piped(&mut pipe).unwrap(), Typed::Text(expected.into()));
        }
        assert_eq!(piped(&mut pipe).unwrap(), Typed::End);
    }

    #[test]
    fn a_pipe_of_nonsense_ends_it() {
        assert!(piped(&mut io::Cursor::new(b"\xff\xfe\n")).is_err());
        let mut endless = io::BufReader::new(io::repeat(b'a'));
        assert!(piped(&mut endless).unwrap_err().to_string().contains("give less"));
    }

    #[test]
    fn commands_are_completed() {
        let history = FileHistory::new();
        let complete = |line: &str| Words.complete(line, line.len(), &Context::new(&history)).unwrap().1;
        assert_eq!(complete("/t"), ["/temperature", "/top-k", "/top-p"]);
        assert!(complete("tell me").is_empty());
    }
}
