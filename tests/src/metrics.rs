//! Reading metrics in Prometheus's text format.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Every sample of one scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    all: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Samples {
    /// Reads the body of an answer of `/metrics`. Labels must not contain quotes, commas or braces; ours do not.
    ///
    /// # Errors
    /// The first line that is no sample.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let all = lines
            .map(|line| sample(line).with_context(|| format!("metrics: {line:?}")))
            .collect::<Result<_>>()?;
        Ok(Self { all })
    }

    /// The sum of all samples of this name with these labels, other labels whatever they are.
    ///
    /// # Errors
    /// When there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let matches = |s: &&Sample| {
            s.name == name && labels.iter().all(|(key, value)| s.labels.get(*key).is_some_and(|v| v == value))
        };
        let found: Vec<f64> = self.all.iter().filter(matches).map(|s| s.value).collect();
        if found.is_empty() {
            bail!("metrics: no {name} with {labels:?}");
        }
        Ok(found.iter().sum())
    }

    /// Values of one label among the samples of this name that are not 0, with their values.
    #[must_use]
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut found = BTreeMap::new();
        for s in self.all.iter().filter(|s| s.name == name && s.value != 0.0) {
            if let Some(key) = s.labels.get(label) {
                *found.entry(key.clone()).or_default() += s.value;
            }
        }
        found
    }
}

fn sample(line: &str) -> Result<Sample> {
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').context("no closing brace")?),
        None => (series, ""),
    };
    let pairs = labels.split(',').filter(|pair| !pair.is_empty());
    let label = |pair: &str| {
        let (key, value) = pair.split_once("=\"")?;
        Some((key.to_owned(), value.strip_suffix('"')?.to_owned()))
    };
    Ok(Sample {
        name: name.to_owned(),
        labels: pairs.map(|pair| label(pair).context("no label")).collect::<Result<_>>()?,
        value: value.parse().context("no number")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a Text.\n# TYPE a counter\na{x=\"1\",y=\"p\"} 3\na{x=\"1\",y=\"q\"} 4\na{x=\"2\",y=\"p\"} 0\nb 0.5\n";

    #[test]
    fn sums_and_labels() {
        let samples = Samples::parse(TEXT).unwrap();
        assert_eq!(samples.sum("a", &[("x", "1")]).unwrap(), 7.0);
        assert_eq!(samples.sum("a", &[("x", "1"), ("y", "q")]).unwrap(), 4.0);
        assert_eq!(samples.sum("b", &[]).unwrap(), 0.5);
        assert_eq!(samples.by_label("a", "x"), BTreeMap::from([("1".to_owned(), 7.0)]));
    }

    #[test]
    fn what_is_absent_or_wrong_is_an_error() {
        let samples = Samples::parse(TEXT).unwrap();
        assert!(samples.sum("a", &[("x", "3")]).is_err());
        assert!(samples.sum("c", &[]).is_err());
        for wrong in ["a", "a x", "a{x=\"1\" 1", "a{x} 1"] {
            assert!(Samples::parse(wrong).is_err(), "{wrong}");
        }
    }
}
