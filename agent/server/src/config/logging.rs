//! The process's logs: text or JSON lines on standard error, filtered by module and level.

use std::io::{self, IsTerminal};

use lockstep_proto::choices::LogFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Filter and form of the logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Valid filter in tracing's syntax.
    pub filter: String,
}

/// Parses a filter. The error describes the mistake in words.
pub(super) fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(filter).map_err(|error| error.to_string())
}

/// Sends this process's logs to standard error. `main` calls this once. Standard output stays free for the program's
/// results. The call has no effect if the process has a subscriber already.
pub fn init(config: &LogConfig) {
    let subscriber = subscriber(config, io::stderr().is_terminal(), io::stderr);
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn subscriber<W>(config: &LogConfig, colour: bool, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = parse_filter(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour);
    // If standard error is closed, an internal error message would panic in the code that logs.
    let lines = lines.log_internal_errors(false);
    match config.format {
        LogFormat::Text => Box::new(lines.finish()),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_current_span(true).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct LogBuffer(Arc<Mutex<Vec<u8>>>);

    impl Write for LogBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the log of two events. One of the events is below the filter.
    fn log_two_events(format: LogFormat) -> String {
        let buffer = LogBuffer::default();
        let writer = buffer.clone();
        let config = LogConfig { format, filter: "info".into() };
        tracing::subscriber::with_default(subscriber(&config, false, move || writer.clone()), || {
            tracing::info!(rank = 2, "joined");
            tracing::debug!("hidden");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_has_one_line_for_an_event() {
        let text = log_two_events(LogFormat::Text);
        assert!(text.contains("INFO") && text.contains("joined rank=2"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn json_has_one_object_for_an_event() {
        let line: serde_json::Value = serde_json::from_str(log_two_events(LogFormat::Json).trim()).unwrap();
        assert_eq!((&line["message"], &line["rank"], &line["level"]), (&"joined".into(), &2.into(), &"INFO".into()));
    }
}
