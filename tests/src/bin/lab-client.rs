//! A load as a process; prints its report as JSON.
#![expect(clippy::print_stdout, reason = "the report is its output")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::limits::allow_many_files;
use lb_tests::load::{Load, Pattern, Request, run};

/// HTTP load for tests. Without --connections every request has a connection of its own.
#[derive(Parser)]
struct Arguments {
    /// Where to connect to.
    target: SocketAddr,
    /// New connections a second.
    #[arg(long, default_value_t = 100, conflicts_with = "connections", value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Keep this many connections open, and send one request after the other over each.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Milliseconds from an answer to the next request on the same connection.
    #[arg(long, default_value_t = 100, requires = "connections")]
    pause_ms: u64,
    /// Path to GET.
    #[arg(long, default_value = "/")]
    path: String,
    /// GET this many bytes and check them.
    #[arg(long, conflicts_with = "path")]
    download: Option<u64>,
    /// POST this many bytes and check the hash that comes back.
    #[arg(long, conflicts_with_all = ["path", "download"])]
    upload: Option<u64>,
    /// At most this many requests.
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// At most this many seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Milliseconds that a request may take, connecting included.
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    allow_many_files();
    let request = match (arguments.download, arguments.upload) {
        (Some(bytes), _) => Request::Download(bytes),
        (_, Some(bytes)) => Request::Upload(bytes),
        _ => Request::Get(arguments.path),
    };
    let pause = Duration::from_millis(arguments.pause_ms);
    let pattern =
        arguments.connections.map_or(Pattern::NewPerRequest { rate: arguments.rate }, |connections| {
            Pattern::KeepAlive { connections, pause }
        });
    let load = Load {
        target: arguments.target,
        request,
        pattern,
        requests: arguments.requests,
        duration: Duration::from_secs(arguments.seconds),
        timeout: Duration::from_millis(arguments.timeout_ms),
    };
    let report = run(&load).await;
    println!("{}", serde_json::to_string_pretty(&report)?);
    ensure!(
        report.ok == report.attempts && report.ok > 0,
        "{} of {} failed",
        report.attempts - report.ok,
        report.attempts
    );
    Ok(())
}
