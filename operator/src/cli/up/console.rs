//! Shared standard error: log lines of every process with a prefix, messages of `lockstep up`, and progress bars. Lines
//! can be held back for a while, so that they do not interrupt an answer on the same terminal.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::MultiProgress;

/// Largest number of lines that are held back. The oldest lines are dropped first.
const MAX_HELD: usize = 1000;

/// ANSI colours of the prefixes of processes.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

pub(super) struct Console {
    bars: MultiProgress,
    terminal: bool,
    colour: bool,
    held: Mutex<Option<Held>>,
}

#[derive(Default)]
struct Held {
    lines: VecDeque<String>,
    /// Number of lines that were dropped.
    dropped: usize,
}

impl Console {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { bars: MultiProgress::new(), terminal, colour, held: Mutex::new(None) }
    }

    /// Returns true if standard error is a terminal, so that bars can be drawn.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Writes a log line of the process with this index and name.
    pub(super) fn log(&self, index: usize, name: &str, line: &str) {
        self.write_or_hold(with_prefix(self.colour.then(|| COLOURS[index % COLOURS.len()]), name, line));
    }

    /// Writes a message of `lockstep up`.
    pub(super) fn print(&self, line: &str) {
        self.write_or_hold(with_prefix(self.colour.then_some(1), "lockstep", line));
    }

    /// Writes several lines without a prefix.
    pub(super) fn print_block(&self, text: &str) {
        self.write_or_hold(text.trim_end().to_owned());
    }

    /// Removes the progress bars.
    pub(super) fn clear_bars(&self) {
        let _ = self.bars.clear();
    }

    /// Holds lines back until `release`.
    pub(super) fn hold(&self) {
        self.held().get_or_insert_with(Held::default);
    }

    /// Writes the lines that were held back, and holds back no more.
    pub(super) fn release(&self) {
        let Some(held) = self.held().take() else { return };
        if held.dropped > 0 {
            self.write(&format!("({} older lines were dropped)", held.dropped));
        }
        for line in held.lines {
            self.write(&line);
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_or_hold(&self, line: String) {
        if let Some(held) = self.held().as_mut() {
            if held.lines.len() == MAX_HELD {
                held.lines.pop_front();
                held.dropped += 1;
            }
            held.lines.push_back(line);
            return;
        }
        self.write(&line);
    }

    fn write(&self, line: &str) {
        // If standard error is closed, there is no place for the line.
        let write = || drop(writeln!(std::io::stderr().lock(), "{line}"));
        if self.terminal { self.bars.suspend(write) } else { write() }
    }
}

/// Puts a name before a line, in a colour if one is given.
fn with_prefix(colour: Option<u8>, name: &str, line: &str) -> String {
    match colour {
        Some(colour) => format!("\x1b[{colour}m{name:>9} |\x1b[0m {line}"),
        None => format!("{name:>9} | {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Console, MAX_HELD, with_prefix};

    #[test]
    fn lines_have_prefixes() {
        assert_eq!(with_prefix(None, "head", "x"), "     head | x");
        assert_eq!(with_prefix(Some(36), "worker-0", "x"), "\x1b[36m worker-0 |\x1b[0m x");
    }

    #[test]
    fn holding_is_bounded() {
        let console = Console::new();
        console.hold();
        for line in 0..MAX_HELD + 5 {
            console.log(0, "head", &line.to_string());
        }
        let held = console.held().take().unwrap();
        assert_eq!((held.lines.len(), held.dropped), (MAX_HELD, 5));
        assert!(held.lines[0].ends_with("| 5"));
    }
}
