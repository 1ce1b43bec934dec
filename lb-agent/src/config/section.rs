//! A TOML table, read key by key.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::{At, Bad, Found, Reader};

/// A table whose keys are being read.
pub(super) struct Section<'a> {
    path: String,
    table: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a DeTable<'a>) -> Self {
        Self { path: String::new(), table: Some(table), known: Vec::new() }
    }

    /// Path of a key in this section.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key.
    pub(super) fn read<T>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, Bad>,
    ) -> Found<T> {
        let Some(value) = self.value(reader, key) else { return Found::Absent };
        match convert(value.get_ref()) {
            Ok(value) => Found::Value(value),
            Err(bad) => {
                reader.error(&self.key(key), bad.reason, bad.advice);
                Found::Wrong
            }
        }
    }

    /// The value of a key that must be there, with the path of the key.
    pub(super) fn required<T>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        example: &str,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, Bad>,
    ) -> Option<At<T>> {
        match self.read(reader, key, convert) {
            Found::Value(value) => Some(At { key: self.key(key), value }),
            Found::Wrong => None,
            Found::Absent => {
                reader.error(&self.key(key), "is missing", format!("add it, as {key} = {example}"));
                None
            }
        }
    }

    /// The values of an array; what is wrong among them is reported and left out.
    pub(super) fn list<T>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        convert: impl Fn(&DeValue<'_>) -> Result<T, Bad>,
    ) -> Found<Vec<At<T>>> {
        let Some(value) = self.value(reader, key) else { return Found::Absent };
        let path = self.key(key);
        let DeValue::Array(array) = value.get_ref() else {
            let bad = Bad::type_of(value.get_ref(), "an array, as [\"...\"]");
            reader.error(&path, bad.reason, bad.advice);
            return Found::Wrong;
        };
        let mut out = Vec::new();
        for (i, value) in array.iter().enumerate() {
            let key = format!("{path}[{i}]");
            reader.remember(&key, value.span().start);
            out.extend(good(reader, key, convert(value.get_ref())));
        }
        Found::Value(out)
    }

    /// The entries of a table that may have any keys; what is wrong among them is reported and left out.
    pub(super) fn entries<T>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        convert: impl Fn(&str, &DeValue<'_>) -> Result<T, Bad>,
    ) -> Found<Vec<At<T>>> {
        let Some(value) = self.value(reader, key) else { return Found::Absent };
        let path = self.key(key);
        let Some(table) = as_table(reader, &path, value) else { return Found::Wrong };
        let mut out = Vec::new();
        for (name, value) in table {
            let key = format!("{path}.{}", printable(name.get_ref()));
            reader.remember(&key, value.span().start);
            out.extend(good(reader, key, convert(name.get_ref(), value.get_ref())));
        }
        Found::Value(out)
    }

    /// A sub-table; an empty one when it is absent.
    pub(super) fn table(&mut self, reader: &mut Reader, key: &'static str) -> Section<'a> {
        let (value, path) = (self.value(reader, key), self.key(key));
        let table = value.and_then(|value| as_table(reader, &path, value));
        Section { path, table, known: Vec::new() }
    }

    /// An array of tables; empty when it is absent.
    pub(super) fn tables(&mut self, reader: &mut Reader, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(reader, key) else { return Vec::new() };
        let path = self.key(key);
        let DeValue::Array(array) = value.get_ref() else {
            reader.error(&path, "is not an array of tables", format!("write [[{}]]", without_indices(&path)));
            return Vec::new();
        };
        let mut out = Vec::new();
        for (i, value) in array.iter().enumerate() {
            let path = format!("{path}[{i}]");
            reader.remember(&path, value.span().start);
            if let Some(table) = as_table(reader, &path, value) {
                out.push(Section { path, table: Some(table), known: Vec::new() });
            }
        }
        out
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, reader: &mut Reader) {
        for (key, _) in self.table.into_iter().flat_map(|t| t.iter()) {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let path = self.key(&printable(name));
            reader.remember(&path, key.span().start);
            let advice = match nearest(name, &self.known) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            reader.error(&path, "unknown key", advice);
        }
    }

    fn value(&mut self, reader: &mut Reader, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        let value = self.table?.get(key)?;
        reader.remember(&self.key(key), value.span().start);
        Some(value)
    }
}

/// A value with its key; what is wrong is reported.
fn good<T>(reader: &mut Reader, key: String, value: Result<T, Bad>) -> Option<At<T>> {
    match value {
        Ok(value) => Some(At { key, value }),
        Err(bad) => {
            reader.error(&key, bad.reason, bad.advice);
            None
        }
    }
}

fn as_table<'a>(reader: &mut Reader, path: &str, value: &'a Spanned<DeValue<'a>>) -> Option<&'a DeTable<'a>> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(table);
    }
    let bad = Bad::type_of(value.get_ref(), "a table");
    reader.error(path, bad.reason, bad.advice);
    None
}

/// `service[0].backend` as it is written in a header.
fn without_indices(path: &str) -> String {
    let names = path.split('.').map(|part| part.split('[').next().unwrap_or(part));
    names.collect::<Vec<_>>().join(".")
}

/// A key as it is; quoted when it would need quotes in TOML, so that an error stays on one line.
fn printable(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { format!("{name:?}") }
}

/// The known key that is most like this one, when it is like one at all.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let allowed = |known: &str| (known.len().max(name.len()) / 3).max(1);
    known
        .iter()
        .map(|&k| (distance(name, k), k))
        .filter(|&(d, k)| d <= allowed(k) || (name.len() > 3 && (k.contains(name) || name.contains(k))))
        .min()
        .map(|(_, k)| k)
}

/// Edits from one to the other (Levenshtein). `b` is short; only the start of a long `a` counts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut before = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let edit = (before + usize::from(x != *y)).min(left + 1).min(*cell + 1);
            before = std::mem::replace(cell, edit);
            left = edit;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, want) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }

    #[test]
    fn nearest_is_near_or_nothing() {
        let known = ["interval", "timeout", "rise", "expect_status"];
        let cases = [
            ("intervall", Some("interval")),
            ("time_out", Some("timeout")),
            ("status", Some("expect_status")),
            ("colour", None),
            ("", None),
        ];
        for (name, want) in cases {
            assert_eq!(nearest(name, &known), want, "{name}");
        }
    }
}
