//! What is sent to check a backend: the configuration accepts it when it can be sent, and not otherwise.

use super::*;
use crate::health::probe::Probe;
use crate::health::request::{self, RequestError};
use crate::model::Header;

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
fn agrees(key: &str, text: &str, sendable: &Result<(), RequestError>) {
    let file = with_health(&format!("{key} = {}", quoted(text)));
    match parse("lb.toml", &file) {
        Ok(config) => {
            assert_eq!(*sendable, Ok(()), "{key} {text:?} was accepted");
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

/// The headers of the first service's checks.
fn headers(lines: &str) -> Result<Vec<Header>, Vec<String>> {
    let config = parse("lb.toml", &with_health(lines)).map_err(|_| errors(&with_health(lines)))?;
    prepare(&config);
    match &config.services[0].health.probe {
        ProbeKind::Http { headers, .. } => Ok(headers.clone()),
        ProbeKind::Tcp => panic!("checks are of HTTP by default"),
    }
}

#[test]
fn headers_are_values_by_name() {
    let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
    let both = vec![header("cookie", "session=a; b=\"c\""), header("x-probe", "")];
    let inline = "headers = { Cookie = 'session=a; b=\"c\"', X-Probe = \"\" }";
    assert_eq!(headers(inline), Ok(both.clone()));
    let table = "[service.health.headers]\nCookie = 'session=a; b=\"c\"'\nX-Probe = \"\"";
    assert_eq!(headers(table), Ok(both));
    assert_eq!(headers("path = \"/\""), Ok(vec![]));
    assert_eq!(headers("headers = {}"), Ok(vec![]));
}

#[test]
fn each_wrong_header_is_named_and_its_value_is_not() {
    let rows = [
        (
            "headers = { \"X Y\" = \"v\" }",
            "10: service[0].health.headers.\"X Y\": is not a name of a header; use",
        ),
        (
            "headers = { Host = \"h\" }",
            "10: service[0].health.headers.Host: is set by the check itself, or does not",
        ),
        (
            "headers = { Connection = \"close\" }",
            "10: service[0].health.headers.Connection: is set by the check",
        ),
        (
            "headers = { Cookie = \"a\\nb\" }",
            "10: service[0].health.headers.Cookie: has a value that is too long or",
        ),
        (
            "headers = { Cookie = \"gehe\u{ed}m\" }",
            "10: service[0].health.headers.Cookie: has a value that is too",
        ),
        ("headers = { Cookie = 3 }", "10: service[0].health.headers.Cookie: is an integer; give a string"),
        ("headers = \"Cookie: a\"", "10: service[0].health.headers: is a string; give a table"),
        (
            "headers = { Cookie = \"a\", cookie = \"b\" }",
            "10: service[0].health.headers.cookie: is the header of service[0].health.headers.Cookie: upper and",
        ),
        (
            "type = \"tcp\"\nheaders = {}",
            "11: service[0].health.headers: has no meaning for checks of type \"tcp\"",
        ),
    ];
    for (lines, want) in rows {
        let got = headers(lines).unwrap_err();
        assert!(got.len() == 1 && got[0].starts_with(want), "{lines}\n{got:#?}");
        assert!(!got[0].contains("gehe"), "a secret: {}", got[0]);
    }
    let lines = "[service.health.headers]\n\"\" = \"v\"\nCookie = \"a\"\nTE = \"trailers\"\nX = 1.5";
    let lines_of_errors: Vec<_> =
        headers(lines).unwrap_err().iter().map(|e| e.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(lines_of_errors, ["11", "13", "14"], "all of them, each where it stands");
    let many: String = (0..33).map(|n| format!("X-{n} = \"v\"\n")).collect();
    let got = headers(&format!("[service.health.headers]\n{many}")).unwrap_err();
    assert_eq!(got, ["10: service[0].health.headers: has 33 headers; 32 is the most"]);
}

proptest! {
    #[test]
    fn a_path_or_host_is_accepted_when_it_can_be_sent(
        text in "/?[a-z0-9/?:@%.#é \\\\\"\\[\\]\r\n-]{0,8}",
    ) {
        agrees("path", &text, &request::path(&text).map(drop));
        agrees("host", &text, &request::host(&text).map(drop));
    }

    #[test]
    fn a_header_is_accepted_when_it_can_be_sent(
        name in "[A-Za-z_: é-]{0,4}|host|Expect",
        value in "[a-z0-9=;, é\"\\\\\u{7f}\r\n\t-]{0,6}",
    ) {
        let found = headers(&format!("headers = {{ {} = {} }}", quoted(&name), quoted(&value)));
        assert_eq!(found.is_ok(), request::header(&name, &value).is_ok(), "{found:?}");
    }
}
