//! Logs: text or JSON lines on standard error, filtered by module and level.

use std::io::{self, IsTerminal};

use lockstep_proto::choices::LogFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// In tracing's syntax; checked.
    pub filter: String,
}

/// Whether `filter` is one; the error says what is wrong with it.
pub(super) fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(filter).map_err(|error| error.to_string())
}

/// Sends this process's logs to standard error; to be called once, by `main`. Standard output stays free for what a
/// caller reads. Where logs are taken already, nothing changes.
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
    // Where standard error is closed, a word about it would panic in whatever was logging.
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
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What two events look like, one of them below the filter.
    fn logged(format: LogFormat) -> String {
        let buffer = Buffer::default();
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
    fn text_is_one_line_for_an_event() {
        let text = logged(LogFormat::Text);
        assert!(text.contains("INFO") && text.contains("joined rank=2"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn json_is_one_object_for_an_event() {
        let line: serde_json::Value = serde_json::from_str(logged(LogFormat::Json).trim()).unwrap();
        assert_eq!((&line["message"], &line["rank"], &line["level"]), (&"joined".into(), &2.into(), &"INFO".into()));
    }
}
