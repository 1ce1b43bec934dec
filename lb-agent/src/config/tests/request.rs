//! What is sent to check a backend: the configuration accepts it when it can be sent, and not otherwise.

use super::*;
use crate::health::probe::Probe;
use crate::health::request::{self, RequestError};

/// A valid file with these lines in `[service.health]`.
fn with_health(lines: &str) -> String {
    with(&[(10, lines)])
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Every check that a configuration asks for can be prepared.
fn prepare(config: &Config) {
    for service in &config.services {
        for backend in &service.backends {
            Probe::new(backend.address, &service.health).unwrap();
        }
    }
}

/// Accepted and prepared, or refused in a line that names the key.
fn agrees(key: &str, text: &str, sendable: Result<(), RequestError>) {
    let file = with_health(&format!("{key} = {}", quoted(text)));
    match parse("lb.toml", &file) {
        Ok(config) => {
            assert_eq!(sendable, Ok(()), "{key} {text:?} was accepted");
            prepare(&config);
        }
        Err(errors) => {
            assert!(sendable.is_err(), "{key} {text:?}: {errors}");
            assert_eq!(errors.errors().len(), 1, "{errors}");
            let error = &errors.errors()[0];
            assert_eq!((error.key.as_str(), error.line), (&*format!("service[0].health.{key}"), Some(10)));
        }
    }
}

proptest! {
    #[test]
    fn a_path_or_host_is_accepted_when_it_can_be_sent(
        text in "/?[a-z0-9/?:@%.#é \\\\\"\\[\\]\r\n-]{0,8}",
    ) {
        agrees("path", &text, request::path(&text).map(drop));
        agrees("host", &text, request::host(&text).map(drop));
    }
}
