//! Standard error, shared: prefixed log lines of every process, this program's own words, and progress bars. Lines can be
//! held back for a while, so that an answer on the same terminal stays whole.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::MultiProgress;

/// Lines held back at most; the oldest go first.
const MOST_HELD: usize = 1000;

/// ANSI colours of the prefixes, by process.
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
    lost: usize,
}

impl Console {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|said| said.is_empty());
        Self { bars: MultiProgress::new(), terminal, colour, held: Mutex::new(None) }
    }

    /// Whether bars can be drawn.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// A line that process `index`, called `who`, wrote.
    pub(super) fn log(&self, index: usize, who: &str, line: &str) {
        self.put(prefixed(self.colour.then(|| COLOURS[index % COLOURS.len()]), who, line));
    }

    /// This program's own words.
    pub(super) fn say(&self, line: &str) {
        self.put(prefixed(self.colour.then_some(1), "lockstep", line));
    }

    /// Several lines without a prefix.
    pub(super) fn block(&self, text: &str) {
        self.put(text.trim_end().to_owned());
    }

    /// Takes the bars away.
    pub(super) fn finish(&self) {
        let _ = self.bars.clear();
    }

    /// Holds lines back until `release`.
    pub(super) fn hold(&self) {
        self.held().get_or_insert_with(Held::default);
    }

    /// Writes what was held back.
    pub(super) fn release(&self) {
        let Some(held) = self.held().take() else { return };
        if held.lost > 0 {
            self.write(&format!("({} older lines are left out)", held.lost));
        }
        for line in held.lines {
            self.write(&line);
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: String) {
        if let Some(held) = self.held().as_mut() {
            if held.lines.len() == MOST_HELD {
                held.lines.pop_front();
                held.lost += 1;
            }
            held.lines.push_back(line);
            return;
        }
        self.write(&line);
    }

    fn write(&self, line: &str) {
        // Where standard error is closed, nothing can be told to anybody.
        let write = || drop(writeln!(std::io::stderr().lock(), "{line}"));
        if self.terminal { self.bars.suspend(write) } else { write() }
    }
}

fn prefixed(colour: Option<u8>, who: &str, line: &str) -> String {
    match colour {
        Some(colour) => format!("\x1b[{colour}m{who:>9} |\x1b[0m {line}"),
        None => format!("{who:>9} | {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Console, MOST_HELD, prefixed};

    #[test]
    fn prefixes() {
        assert_eq!(prefixed(None, "head", "x"), "     head | x");
        assert_eq!(prefixed(Some(36), "worker-0", "x"), "\x1b[36m worker-0 |\x1b[0m x");
    }

    #[test]
    fn holding_is_bounded() {
        let console = Console::new();
        console.hold();
        for line in 0..MOST_HELD + 5 {
            console.log(0, "head", &line.to_string());
        }
        let held = console.held().take().unwrap();
        assert_eq!((held.lines.len(), held.lost), (MOST_HELD, 5));
        assert!(held.lines[0].ends_with("| 5"));
    }
}
