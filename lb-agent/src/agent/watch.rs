//! Looks whether the configuration file is another one (`agent.watch`).
//!
//! By reading it. The kernel's word of changes (inotify) knows nothing of those that another host makes on a network file system,
//! is lost with a directory that is replaced, and has to be asked for at each link of a path; a small file that is
//! read once a second costs next to nothing, and whatever became of it, its text is what counts.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::config::digest;

/// How often.
pub const LOOK: Duration = Duration::from_secs(1);

/// What is known of the file's text, by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The text that was made the best of.
    taken: u64,
    /// Another one, at the last look.
    next: Option<u64>,
}

impl Watch {
    /// The text with this digest was read.
    #[must_use]
    pub const fn new(taken: u64) -> Self {
        Self { taken, next: None }
    }

    /// Returns when the file at `path` is another one. May be dropped at any time.
    pub async fn changed(&mut self, path: PathBuf) {
        loop {
            sleep(LOOK).await;
            let path = path.clone();
            let read = spawn_blocking(move || std::fs::read(path).ok()).await;
            if self.look(read.ok().flatten().map(|text| digest(&text))) {
                return;
            }
        }
    }

    /// Says whether what was found now is to be read. Not while it changes from look to look, as somebody may be in the
    /// middle of writing it; not while nothing is there, as something may be about to take its place; and once only.
    fn look(&mut self, found: Option<u64>) -> bool {
        let Some(found) = found.filter(|found| *found != self.taken) else {
            self.next = None;
            return false;
        };
        let is_settled = self.next.replace(found) == Some(found);
        if is_settled {
            *self = Self::new(found);
        }
        is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_text_counts_when_it_was_the_same_twice() {
        let rows: &[(&str, &[u64], &[bool])] = &[
            ("as it was", &[1, 1, 1], &[false; 3]),
            ("replaced", &[1, 2, 2, 2, 2], &[false, false, true, false, false]),
            ("written bit by bit", &[2, 3, 4, 4, 4], &[false, false, false, true, false]),
            ("undone at once", &[2, 1, 2, 2], &[false, false, false, true]),
            ("gone for a moment", &[0, 2, 0, 2, 2], &[false, false, false, false, true]),
            ("gone and back", &[0, 0, 1, 1], &[false; 4]),
            ("there and back", &[2, 2, 1, 1, 1], &[false, true, false, true, false]),
        ];
        for (name, found, want) in rows {
            let mut watch = Watch::new(1);
            let seen: Vec<bool> = found.iter().map(|n| watch.look((*n != 0).then_some(*n))).collect();
            assert_eq!(&seen, want, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_replaced_is_noticed_in_two_looks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.toml");
        std::fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(digest(b"one"));
        let quiet = tokio::time::timeout(LOOK * 5, watch.changed(path.clone())).await;
        assert!(quiet.is_err(), "nothing has changed");
        std::fs::write(&path, "two").unwrap();
        let seen = tokio::time::timeout(LOOK * 3, watch.changed(path.clone())).await;
        assert!(seen.is_ok());
        assert_eq!(watch, Watch::new(digest(b"two")));
    }
}
