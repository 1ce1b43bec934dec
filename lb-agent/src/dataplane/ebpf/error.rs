//! What the kernel and aya say, in one line.

use std::error::Error;

use crate::dataplane::DataplaneError;

/// An error with all of its causes.
pub(super) fn failure(what: impl Into<String>, error: &dyn Error) -> DataplaneError {
    because(what, causes(error))
}

/// An error with a cause of our own.
pub(super) fn because(what: impl Into<String>, why: impl Into<String>) -> DataplaneError {
    DataplaneError { what: what.into(), source: anyhow::Error::msg(why.into()) }
}

/// The error and its causes, outermost first. aya repeats a cause in some messages and leaves it out of others.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = cause.source();
    }
    out
}

/// The number of the first operating system error among the causes.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(code) = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            return Some(code);
        }
        next = e.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::maps::MapError;
    use std::io;

    #[test]
    fn causes_are_on_one_line_and_said_once() {
        let io_error = || io::Error::from_raw_os_error(libc::E2BIG);
        let map = MapError::CreateError { name: "FLOWS".into(), io_error: io_error() };
        let text = causes(&map);
        assert_eq!(text, "failed to create map `FLOWS`: Argument list too long (os error 7)");
        assert_eq!(os_error(&map), Some(libc::E2BIG));
        assert_eq!(causes(&MapError::from(io_error())), "Argument list too long (os error 7)");
    }
}
