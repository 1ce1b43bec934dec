//! What the demo writes: headings, sentences with a verdict, and a table that is redrawn in place.

use std::fmt::Write as _;
use std::io::{IsTerminal, Stdout, Write, stdout};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::is_ending;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "1;31";

/// Standard output, and the account of what was claimed on it.
///
/// Failures to write are ignored: whoever closed the output does not want to read, and the exit status still
/// tells.
#[derive(Debug)]
pub(super) struct Screen {
    out: Stdout,
    terminal: bool,
    colours: bool,
    claims: usize,
    broken: Vec<String>,
    /// Lines of the table that is on the screen and may be drawn over.
    drawn: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        let out = stdout();
        let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = out.is_terminal() && !dumb;
        let colours = terminal && unset("NO_COLOR");
        Self { out, terminal, colours, claims: 0, broken: Vec::new(), drawn: 0 }
    }

    /// Whether a table can be redrawn in place.
    pub(super) const fn is_live(&self) -> bool {
        self.terminal
    }

    /// A title, with space above.
    pub(super) fn heading(&mut self, text: &str) {
        let text = self.paint(BOLD, text);
        self.write(&format!("\n{text}\n"));
    }

    /// A line as it is.
    pub(super) fn line(&mut self, text: &str) {
        let text = if text.is_empty() { String::new() } else { format!("  {text}") };
        self.write(&format!("{text}\n"));
    }

    /// A command that the reader could type, and what it printed.
    pub(super) fn command(&mut self, command: &str, output: &str) {
        let command = self.paint(BOLD, &format!("$ {command}"));
        self.write(&format!("          {command}\n"));
        for line in output.lines() {
            let line = self.paint(DIM, line);
            self.write(&format!("          {line}\n"));
        }
    }

    /// Further words to the sentence before.
    pub(super) fn note(&mut self, text: &str) {
        let text = self.paint(DIM, text);
        self.write(&format!("          {text}\n"));
    }

    /// A sentence that was checked.
    pub(super) fn claim(&mut self, holds: bool, text: &str) {
        self.claims += 1;
        let verdict = if holds { self.paint(GREEN, "ok    ") } else { self.paint(RED, "FAILED") };
        self.write(&format!("  {verdict}  {text}\n"));
        if !holds {
            self.broken.push(text.to_owned());
        }
    }

    /// Draws a table over the one before.
    pub(super) fn draw(&mut self, lines: &[String]) {
        // Off and on again: what is too long for the terminal is cut, not wrapped, so that the count is right.
        let (before, after, end) =
            if self.terminal { ("\x1b[?7l", "\x1b[?7h", "\x1b[K\n") } else { ("", "", "\n") };
        let mut text = before.to_owned();
        if self.drawn > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "\x1b[{}A", self.drawn);
        }
        for line in lines {
            let _ = write!(text, "    {line}{end}");
        }
        text.push_str(after);
        self.write(&text);
        self.drawn = if self.terminal { lines.len() } else { 0 };
    }

    /// The whole in a line.
    ///
    /// # Errors
    /// When a claim did not hold.
    pub(super) fn verdict(&mut self, took: Duration) -> Result<String> {
        let count = self.claims;
        match self.broken.as_slice() {
            [] => Ok(format!("All {count} checks hold. It took {:.0} s.", took.as_secs_f64())),
            [first, more @ ..] => bail!("{} of {count} checks failed: {first}", 1 + more.len()),
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&mut self, text: &str) {
        if is_ending() {
            // What fails now fails because the lab is being removed.
            return;
        }
        self.drawn = 0;
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

/// A count with a comma between thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn one_broken_claim_breaks_the_whole() {
        let mut screen = Screen::new();
        screen.claim(true, "two is two");
        assert!(screen.verdict(Duration::ZERO).is_ok());
        screen.claim(false, "two is three");
        screen.claim(true, "three is three");
        let error = screen.verdict(Duration::ZERO).unwrap_err().to_string();
        assert_eq!(error, "1 of 3 checks failed: two is three");
    }
}
