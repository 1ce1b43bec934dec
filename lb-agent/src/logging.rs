//! Where log lines go, and what they look like.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(LogError(format!("log format {s:?}: want human or json"))),
        }
    }
}

/// Logging cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub struct LogError(String);

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sends the process's log lines to standard error. Once per process.
///
/// `level` is a level (`info`) or a filter in tracing's syntax (`lb_agent::health=debug,info`); without it
/// `RUST_LOG` counts, and without that `info`.
///
/// # Errors
/// When the filter makes no sense, or logging is set up already.
pub fn init(format: LogFormat, level: Option<&str>) -> Result<(), LogError> {
    let subscriber = subscriber(format, filter(level)?, std::io::stderr);
    // Takes the lines of the `log` crate too, which the data path's own arrive by.
    subscriber.try_init().map_err(|e| LogError(format!("logging: {e}")))
}

fn filter(level: Option<&str>) -> Result<EnvFilter, LogError> {
    let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|v| !v.is_empty());
    let (origin, text) = match (level, &from_env) {
        (Some(l), _) => ("--log-level", l),
        (None, Some(v)) => (EnvFilter::DEFAULT_ENV, v.as_str()),
        (None, None) => ("default", "info"),
    };
    EnvFilter::try_new(text).map_err(|e| LogError(format!("{origin}: {text:?}: {e}")))
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    writer: W,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        // Colours would end up in journals and files.
        LogFormat::Human => Box::new(builder.with_ansi(false).with_target(false).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_current_span(false).finish()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let s = subscriber(format, filter(Some(level)).unwrap(), move || writer.clone());
        tracing::subscriber::with_default(s, || {
            tracing::debug!("quiet");
            tracing::info!(backend = "superset/superset-1", from = "healthy", "backend is dead");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_are_flat_objects() {
        let text = logged(LogFormat::Json, "info");
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "backend is dead");
        assert_eq!(line["backend"], "superset/superset-1");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn human_lines_are_plain_and_the_level_counts() {
        let text = logged(LogFormat::Human, "info");
        assert!(text.contains("INFO backend is dead backend=\"superset/superset-1\""), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("quiet"), "{text}");
        assert!(logged(LogFormat::Human, "debug").contains("quiet"));
        assert_eq!(logged(LogFormat::Human, "error"), "");
    }

    #[test]
    fn nonsense_is_refused_with_its_origin() {
        let e = filter(Some("lb_agent=loud")).unwrap_err().to_string();
        assert!(e.starts_with("--log-level: \"lb_agent=loud\""), "{e}");
        assert_eq!(
            "text".parse::<LogFormat>().unwrap_err().to_string(),
            "log format \"text\": want human or json"
        );
    }
}
