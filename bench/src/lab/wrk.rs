//! HTTP load by wrk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_tests::lab::{CLIENT, Lab};

use super::cpu;

/// Connections at once.
const CONNECTIONS: &str = "64";

/// What wrk did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    /// Requests that were answered.
    pub(super) requests: f64,
    /// Requests a second.
    pub(super) rate: f64,
}

/// Sends requests over 64 connections at once, from the client's CPU; with `new_connections` each gets its own.
///
/// # Errors
/// When wrk fails, or more than one request in a thousand does.
pub(super) fn run(lab: &Lab, target: SocketAddr, seconds: u32, new_connections: bool) -> Result<Outcome> {
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--connections", CONNECTIONS, "--duration", &format!("{seconds}s")]);
    if new_connections {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(format!("http://{target}/"));
    let output = cpu::on(cpu::CLIENT_CPU, || lab.output(CLIENT, &mut command))??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {} {said}", String::from_utf8_lossy(&output.stderr).trim());
    parse(&said)
}

fn parse(text: &str) -> Result<Outcome> {
    let lines = || text.lines().map(str::trim);
    let requests = lines().find_map(|line| line.split_once(" requests in ")?.0.parse().ok());
    let rate = lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    let requests: f64 =
        requests.with_context(|| format!("no number of requests in what wrk said: {text}"))?;
    let failed: f64 = lines().filter_map(failures).sum();
    ensure!(requests > 0.0 && failed * 1000.0 <= requests, "{failed} of {requests} requests failed: {text}");
    Ok(Outcome { requests, rate: rate.with_context(|| format!("no rate in what wrk said: {text}"))? })
}

/// Failures of one line: `Socket errors: connect 0, read 3, write 0, timeout 0` or `Non-2xx or 3xx responses: 5`.
fn failures(line: &str) -> Option<f64> {
    if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
        return count.trim().parse().ok();
    }
    let counts = line.strip_prefix("Socket errors:")?.split(',');
    Some(counts.filter_map(|part| part.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// One GET.
///
/// # Errors
/// When the answer is not 200.
pub(super) fn get(target: SocketAddr) -> Result<()> {
    let limit = Duration::from_secs(1);
    let mut stream =
        TcpStream::connect_timeout(&target, limit).with_context(|| format!("connect to {target}"))?;
    stream.set_read_timeout(Some(limit)).context("set a timeout")?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").context("send a GET")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("read the answer of {target}"))?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{target} answers {answer:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 2s test @ http://10.77.9.100:80/\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.43ms  276.66us   4.42ms   76.38%\n  \
        40000 requests in 2.01s, 8.24MB read\nERRORS\nRequests/sec:  19900.50\nTransfer/sec:      4.10MB\n";

    #[test]
    fn reads_what_wrk_says() {
        let outcome = parse(&SAID.replace("ERRORS\n", "")).unwrap();
        assert_eq!(outcome, Outcome { requests: 40000.0, rate: 19900.5 });
        let few = SAID.replace("ERRORS", "  Socket errors: connect 0, read 3, write 0, timeout 2");
        assert_eq!(parse(&few).unwrap(), outcome);
    }

    #[test]
    fn many_failures_are_an_error() {
        for line in
            ["  Socket errors: connect 0, read 40, write 1, timeout 0", "  Non-2xx or 3xx responses: 41"]
        {
            assert!(parse(&SAID.replace("ERRORS", line)).is_err(), "{line}");
        }
        assert!(parse("").is_err());
    }
}
