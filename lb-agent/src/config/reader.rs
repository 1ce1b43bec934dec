//! What is read of a file: remembers where each key stands, collects what is wrong, and goes on.

use toml::de::DeValue;

use super::{ConfigError, Source, digest};

/// What is wrong with one value, and what to do.
pub(super) struct Bad {
    pub(super) reason: String,
    pub(super) advice: String,
}

impl Bad {
    pub(super) fn new(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { reason: reason.into(), advice: advice.into() }
    }

    /// The value has another type.
    pub(super) fn type_of(value: &DeValue<'_>, wanted: &str) -> Self {
        Self::new(format!("is {}", with_article(value.type_str())), format!("give {wanted}"))
    }
}

fn with_article(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {type_name}")
}

/// A value together with the path of its key.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) key: String,
    pub(super) value: T,
}

/// What was found under a key. An error has been reported where there was one.
pub(super) enum Found<T> {
    Value(T),
    Absent,
    Wrong,
}

impl<T> Found<T> {
    /// The value, or this one where there is none; `None` when there is a wrong one.
    pub(super) fn or(self, default: T) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent => Some(default),
            Self::Wrong => None,
        }
    }

    /// For keys without a default: outer `None` when there is a wrong value.
    pub(super) fn optional(self) -> Option<Option<T>> {
        match self {
            Self::Value(value) => Some(Some(value)),
            Self::Absent => Some(None),
            Self::Wrong => None,
        }
    }
}

/// Collects positions and errors of one file.
pub(super) struct Reader {
    source: Source,
    errors: Vec<ConfigError>,
    /// Offsets at which lines begin.
    line_starts: Vec<usize>,
}

impl Reader {
    pub(super) fn new(file: &str, text: &str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        let digest = digest(text.as_bytes());
        let source = Source { file: file.to_owned(), digest, ..Source::default() };
        Self { source, errors: Vec::new(), line_starts }
    }

    /// Reports an error about a key.
    pub(super) fn error(&mut self, key: &str, reason: impl Into<String>, advice: impl Into<String>) {
        self.errors.push(self.source.error(key, reason, advice));
    }

    /// Reports that the text is not TOML.
    pub(super) fn syntax_error(&mut self, error: &toml::de::Error) {
        let line = self.line_of(error.span().map_or(0, |span| span.start));
        self.source.lines.insert("syntax".to_owned(), line);
        self.error("syntax", one_line(error.message()), "correct the TOML; nothing else was checked");
    }

    /// Whether an error about this key or something in it was reported.
    pub(super) fn has_error_within(&self, key: &str) -> bool {
        let within = |e: &ConfigError| {
            e.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.errors.iter().any(within)
    }

    pub(super) fn finish(self) -> (Source, Vec<ConfigError>) {
        (self.source, self.errors)
    }

    fn line_of(&self, offset: usize) -> u32 {
        u32::try_from(self.line_starts.partition_point(|&start| start <= offset)).unwrap_or(u32::MAX)
    }

    /// Notes where a key stands.
    pub(super) fn remember(&mut self, key: &str, offset: usize) {
        let line = self.line_of(offset);
        self.source.lines.insert(key.to_owned(), line);
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
