//! `-i` on a real terminal: `script` gives the agent a pseudo-terminal, and passes typed keys and output on.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockstep_tests::group::fixture;
use lockstep_tests::process::{LONGEST_WAIT, program};

/// Bytes that the line editor writes when it waits for a line (bracketed paste, in xterm's form).
const PROMPT: &str = "\x1b[?2004h";
/// Bytes that the line editor writes when it has read a line, and keys are signals again.
const TAKEN: &str = "\x1b[?2004l";
const ENTER: &str = "\r";
const UP: &str = "\x1b[A";
const CTRL_C: &str = "\x03";
/// Text that follows each answer.
const FIGURES: &str = "tokens/s after the first";

/// Agent in a terminal of its own. Dropping the value ends it.
struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
    /// Number of prompts that the test has answered.
    prompts: usize,
}

impl Terminal {
    fn start(model: &Path, home: &Path) -> Self {
        let agent = program("lockstep-agent");
        let line = format!(
            "stty cols 80 rows 24; exec {} -i --throughput --port off --grpc-port off plain -m {}",
            agent.display(),
            model.display()
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        command.env("HOME", home).env("TERM", "xterm").env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("run script, of util-linux");
        let mut output = child.stdout.take().expect("its output");
        let shown = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                kept.lock().expect("what is shown").push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self { child, shown, prompts: 0 }
    }

    fn shown(&self) -> String {
        self.shown.lock().expect("what is shown").clone()
    }

    fn press(&mut self, keys: &str) {
        self.child.stdin.as_mut().expect("its input").write_all(keys.as_bytes()).expect("type");
    }

    /// Waits for the next prompt, then types a line.
    fn type_line(&mut self, line: &str) {
        self.await_prompt();
        self.press(line);
        self.press(ENTER);
    }

    fn await_prompt(&mut self) {
        self.prompts += 1;
        self.await_count(PROMPT, self.prompts);
    }

    /// Waits until `text` has appeared `count` times.
    fn await_count(&mut self, text: &str, count: usize) {
        self.await_that(&format!("`{text}` {count} times"), |shown| shown.matches(text).count() >= count);
    }

    fn await_that(&mut self, what: &str, is_true: impl Fn(&str) -> bool) {
        let began = Instant::now();
        while !is_true(&self.shown()) {
            assert!(began.elapsed() < LONGEST_WAIT, "not shown: {what}; but\n{}", self.shown());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the end of the program. Returns true if it ended without an error.
    fn await_success(&mut self) -> bool {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("look at a process") {
                return status.success();
            }
            assert!(began.elapsed() < LONGEST_WAIT, "it goes on:\n{}", self.shown());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal ends with `script`, and that ends the agent.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Makes a model that does not end an answer by itself: random weights and a long context.
fn make_endless_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Path::new(&fixture("llama2")).to_owned();
    for file in ["generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::os::unix::fs::symlink(model.join(file), folder.path().join(file)).expect("a link");
    }
    let config = std::fs::read_to_string(model.join("config.json")).expect("a configuration");
    let config = config.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 1000000");
    std::fs::write(folder.path().join("config.json"), config).expect("write");
    folder
}

#[test]
fn a_conversation_runs_in_a_terminal() {
    let (model, home) = (make_endless_model(), tempfile::tempdir().expect("a folder"));
    let mut terminal = Terminal::start(model.path(), home.path());
    terminal.type_line("/help");
    terminal.await_count("/system TEXT", 1);
    terminal.type_line("/temperature 0");
    terminal.type_line("/max-tokens 8");
    terminal.type_line("What is a ring?");
    terminal.await_count(FIGURES, 1);

    // The input has several lines: the first line does not end it, and there is no new prompt.
    terminal.type_line("Two \\");
    terminal.press("lines.\r");
    terminal.await_count(FIGURES, 2);

    // An endless answer is shown as it grows, until Ctrl-C.
    terminal.type_line("/max-tokens");
    terminal.type_line("Go on");
    terminal.await_count(TAKEN, terminal.prompts);
    let answer = |shown: &str| shown.rsplit(TAKEN).next().map_or(0, str::len);
    terminal.await_that("the begin of the answer", |shown| answer(shown) > 20);
    for _ in 0..3 {
        let before = terminal.shown().len();
        terminal.await_that("more of the answer", |shown| shown.len() > before);
        assert_eq!(terminal.shown().matches(FIGURES).count(), 2, "the answer ended by itself");
    }
    terminal.press(CTRL_C);
    terminal.await_count("[stopped]", 1);

    // The program goes on, and remembers typed lines.
    terminal.type_line("/max-tokens 3");
    terminal.type_line("And then?");
    terminal.await_count(FIGURES, 4);
    terminal.await_prompt();
    terminal.press(UP);
    terminal.await_count("> And then?", 1);
    terminal.press(ENTER);
    terminal.await_count(FIGURES, 5);

    // At a prompt Ctrl-C drops the line. Twice in a row it ends the program.
    terminal.await_prompt();
    terminal.press("half a line");
    terminal.press(CTRL_C);
    terminal.await_count("Ctrl-C again ends", 1);
    terminal.await_prompt();
    terminal.press(CTRL_C);
    assert!(terminal.await_success(), "{}", terminal.shown());

    // The next program finds the typed lines in its history.
    let mut next = Terminal::start(model.path(), home.path());
    next.await_prompt();
    next.press(UP);
    next.await_count("> And then?", 1);
    next.press(UP);
    next.await_count("> /max-tokens 3", 1);
    next.press(CTRL_C);
    next.type_line("/quit");
    assert!(next.await_success(), "{}", next.shown());
}
