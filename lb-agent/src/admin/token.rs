//! The secret that lets somebody change things over TCP.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

/// A shorter token could be guessed.
pub const TOKEN_MIN: usize = 16;
/// A longer one is something else than a token.
const TOKEN_MAX: usize = 1024;
/// Permissions that a token's file must not have: any for others, writing for its group.
const OPEN_TO_OTHERS: u32 = 0o027;

/// `agent.admin_token_file`. It is read for each request, so that the token can be replaced while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile(PathBuf);

/// What is in the file.
pub struct Token(Vec<u8>);

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
#[error("agent.admin_token_file: {path}: {why}")]
pub struct TokenError {
    path: String,
    why: Fault,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("cannot be read: {0}; make the file, or leave the key out")]
    Io(#[from] io::Error),
    #[error("is no file; name a file that holds the token")]
    NoFile,
    #[error("is open to others (mode {0:04o}); chmod it to 0600 or 0640")]
    Open(u32),
    #[error("is empty; put a token into it, as from \"openssl rand -hex 32\"")]
    Empty,
    #[error("holds {0} characters; a token has {TOKEN_MIN} to {TOKEN_MAX}, as from \"openssl rand -hex 32\"")]
    Length(usize),
    #[error("holds something else than one word of visible ASCII; make one by \"openssl rand -hex 32\"")]
    NotAscii,
}

impl TokenFile {
    /// The file at this path, which need not exist yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the token.
    ///
    /// # Errors
    /// When there is none, others may read it, or it cannot be a token.
    pub fn read(&self) -> Result<Token, TokenError> {
        self.try_read().map_err(|why| TokenError { path: self.0.display().to_string(), why })
    }

    fn try_read(&self) -> Result<Token, Fault> {
        // Opening a pipe without a writer would wait for one.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.0)?;
        let metadata = file.metadata()?;
        let mode = metadata.permissions().mode() & 0o7777;
        if !metadata.is_file() {
            return Err(Fault::NoFile);
        }
        if mode & OPEN_TO_OTHERS != 0 {
            return Err(Fault::Open(mode));
        }
        let mut bytes = Vec::new();
        file.take(2 * TOKEN_MAX as u64).read_to_end(&mut bytes)?;
        let token = bytes.trim_ascii();
        match token.len() {
            0 => Err(Fault::Empty),
            TOKEN_MIN..=TOKEN_MAX if token.iter().all(u8::is_ascii_graphic) => Ok(Token(token.to_owned())),
            TOKEN_MIN..=TOKEN_MAX => Err(Fault::NotAscii),
            other => Err(Fault::Length(other)),
        }
    }
}

impl Token {
    /// Whether this is the token. The time that it takes tells nothing but the token's length.
    #[must_use]
    pub fn is(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn read(text: &str, mode: u32) -> Result<Token, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        let error = TokenFile::new(file.path().to_owned()).read();
        error.map_err(|e| {
            let text = e.to_string();
            assert!(!text.contains('\n'), "{text}");
            text.strip_prefix(&format!("agent.admin_token_file: {}: ", file.path().display()))
                .unwrap()
                .to_owned()
        })
    }

    #[test]
    fn a_token_is_one_word_of_a_file_that_is_closed_to_others() {
        for (text, mode) in
            [(TOKEN.to_owned(), 0o600), (format!("{TOKEN}\n"), 0o640), (format!(" {TOKEN}\r\n"), 0o400)]
        {
            let token = read(&text, mode).unwrap();
            assert!(token.is(TOKEN.as_bytes()));
            for wrong in
                ["", "0", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef0", "0123456789abcdef\n"]
            {
                assert!(!token.is(wrong.as_bytes()), "{wrong:?}");
            }
            assert!(!format!("{token:?}").contains(TOKEN));
        }
        for (text, mode, why) in [
            (TOKEN, 0o644, "is open to others (mode 0644)"),
            (TOKEN, 0o601, "is open to others (mode 0601)"),
            (TOKEN, 0o620, "is open to others (mode 0620)"),
            ("", 0o600, "is empty"),
            (" \n\t\n", 0o600, "is empty"),
            ("short", 0o600, "holds 5 characters; a token has 16 to 1024"),
            ("0123456789abcdef\n0123456789abcdef", 0o600, "holds something else than one word"),
            ("0123456789abcdefä", 0o600, "holds something else than one word"),
            (&"x".repeat(1025), 0o600, "holds 1025 characters"),
        ] {
            let error = read(text, mode).unwrap_err();
            assert!(error.starts_with(why), "{error}");
            assert!(text.len() < 6 || !error.contains(text), "the secret is nobody's business: {error}");
        }
    }

    #[test]
    fn what_is_no_file_is_no_token() {
        let error = |path: &str| TokenFile::new(path.into()).read().unwrap_err().to_string();
        assert!(error("/nonexistent/token").contains("cannot be read: No such file"));
        assert!(error("/proc/self").contains("is no file"));
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(error(pipe.to_str().unwrap()).contains("is no file"));
    }
}
