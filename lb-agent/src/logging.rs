//! Where log lines go, and what they look like.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

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

/// Changes the log while the process runs.
pub struct LogHandle {
    lines: reload::Handle<Lines, Registry>,
    make: Box<dyn Fn(LogFormat) -> Lines + Send + Sync>,
}

/// What turns events into lines.
type Lines = Box<dyn Layer<Registry> + Send + Sync>;

impl LogHandle {
    /// Lines look like this from now on.
    pub fn set_format(&self, format: LogFormat) {
        if let Err(e) = self.lines.reload((self.make)(format)) {
            tracing::warn!("agent.log_format: lines look as before: {e}");
        }
    }
}

/// Sends the process's log lines to standard error. Once per process.
///
/// `level` is a level (`info`) or a filter in tracing's syntax (`lb_agent::health=debug,info`); without it
/// `RUST_LOG` counts, and without that `info`.
///
/// # Errors
/// When the filter makes no sense, or logging is set up already.
pub fn init(format: LogFormat, level: Option<&str>) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(format, filter(level)?, std::io::stderr);
    // Takes the lines of the `log` crate too, which the data path's own arrive by.
    subscriber.try_init().map_err(|e| LogError(format!("logging: {e}")))?;
    Ok(handle)
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
) -> (impl tracing::Subscriber + Send + Sync, LogHandle)
where
    W: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    let make = Box::new(move |format| lines(format, writer.clone()));
    let (layer, handle) = reload::Layer::new(make(format));
    (tracing_subscriber::registry().with(layer).with(filter), LogHandle { lines: handle, make })
}

fn lines<W>(format: LogFormat, writer: W) -> Lines
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        // Colours would end up in journals and files.
        LogFormat::Human => layer.with_ansi(false).with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str) -> String {
        let lines = Written::default();
        let writer = lines.clone();
        let (s, _) = subscriber(format, filter(Some(level)).unwrap(), move || writer.clone());
        tracing::subscriber::with_default(s, || {
            tracing::debug!("quiet");
            tracing::info!(backend = "superset/superset-1", from = "healthy", "backend is dead");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn another_format_counts_from_the_next_line_on() {
        let lines = Written::default();
        let writer = lines.clone();
        let filter = filter(Some("info")).unwrap();
        let (s, handle) = subscriber(LogFormat::Human, filter, move || writer.clone());
        tracing::subscriber::with_default(s, || {
            tracing::info!("first");
            handle.set_format(LogFormat::Json);
            tracing::info!(n = 2, "second");
            tracing::debug!("quiet");
            handle.set_format(LogFormat::Human);
            tracing::info!("third");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let [first, second, third] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(first.ends_with(" INFO first") && third.ends_with(" INFO third"), "{text}");
        let second: serde_json::Value = serde_json::from_str(second).unwrap();
        assert_eq!((&second["message"], &second["n"]), (&"second".into(), &2.into()));
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
