//! Reading the output of `cargo test`.

use std::collections::BTreeSet;
use std::fmt;

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Ran and succeeded.
    pub(crate) passed: usize,
    /// Failed, or belong to a test program that died (counted as one).
    pub(crate) failed: usize,
    /// Ignored, or said that they cannot run here.
    pub(crate) skipped: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Adds up the lines of one `cargo test`, standard output and error in one stream.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    counts: Counts,
    /// The program that runs and the tests in it that said `SKIPPED`; libtest calls those passed.
    running: Option<BTreeSet<String>>,
}

impl Counter {
    /// Reads one line.
    pub(crate) fn line(&mut self, line: &str) {
        if is_start(line) {
            self.close();
            self.running = Some(BTreeSet::new());
        } else if let Some(result) = line.trim().strip_prefix("test result: ") {
            self.result(result);
        } else if let Some((_, rest)) = line.split_once("SKIPPED: ")
            && let Some(running) = &mut self.running
        {
            running.insert(rest.split(": ").next().unwrap_or(rest).to_owned());
        }
    }

    /// The sum, after the last line.
    pub(crate) fn finish(mut self) -> Counts {
        self.close();
        self.counts
    }

    /// A program that ended without a result died: that is a failure.
    fn close(&mut self) {
        if self.running.take().is_some() {
            self.counts.failed += 1;
        }
    }

    fn result(&mut self, result: &str) {
        let number = |what: &str| {
            let words: Vec<&str> = result.split([' ', ';']).filter(|w| !w.is_empty()).collect();
            words.windows(2).find(|w| w[1] == what).and_then(|w| w[0].parse().ok()).unwrap_or(0)
        };
        let said = self.running.take().map_or(0, |tests| tests.len());
        let passed: usize = number("passed");
        let skipped = said.min(passed);
        self.counts.passed += passed - skipped;
        self.counts.skipped += skipped + number("ignored");
        self.counts.failed += number("failed");
    }
}

/// Whether cargo starts another test program here.
fn is_start(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("Running ") && line.ends_with(')') || line.starts_with("Doc-tests ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Counts {
        let mut counter = Counter::default();
        text.lines().for_each(|l| counter.line(l));
        counter.finish()
    }

    #[test]
    fn adds_up_programs() {
        let counts = count(
            "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\
             test a ... ok\n\
             test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             Running tests/b.rs (target/debug/deps/b-2)\n\
             test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n\
             Doc-tests lb_common\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(counts.to_string(), "9 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn skipped_tests_are_not_passed() {
        let counts = count(
            "Running tests/lab.rs (target/debug/deps/lab-1)\n\
             SKIPPED: download: needs root\n\
             test upload ... SKIPPED: upload: needs root: really\n\
             SKIPPED: upload: needs root\n\
             test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(counts, Counts { passed: 2, failed: 0, skipped: 2 });
    }

    #[test]
    fn a_test_program_that_dies_is_a_failure() {
        let counts = count(
            "Running tests/a.rs (target/debug/deps/a-1)\nrunning 3 tests\n\
             error: test failed, to rerun pass `--test a`\n\
             Running tests/b.rs (target/debug/deps/b-1)\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             Running tests/c.rs (target/debug/deps/c-1)\n",
        );
        assert_eq!(counts, Counts { passed: 1, failed: 2, skipped: 0 });
    }
}
