//! A test server as a process, which can be killed. Prints a line when it listens; ends on SIGTERM.
#![expect(clippy::print_stdout, reason = "the line says that clients may come")]

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use lb_tests::limits::allow_many_files;
use lb_tests::server::{Server, listen};

/// HTTP server for tests: /health, /, /bytes?n=, /hash (POST), /sleep?ms=, /hang, /stats.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// What it calls itself in `server` headers.
    #[arg(long, default_value = "lab-server")]
    name: String,
    /// Accept connections and never answer.
    #[arg(long)]
    silent: bool,
    /// Begin every answer, except that to GET /health, and reset the connection.
    #[arg(long)]
    cuts: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    allow_many_files();
    let server = Server::new(&arguments.name, arguments.silent).with_cuts(arguments.cuts);
    let mut listeners = tokio::task::JoinSet::new();
    for address in arguments.listen {
        let listener = listen(address).with_context(|| format!("listen on {address}"))?;
        let server = server.clone();
        listeners.spawn(async move { server.serve(listener).await });
    }
    println!("{} listens", arguments.name);
    match listeners.join_next().await.context("nothing to listen on")?? {
        Ok(never) => match never {},
        Err(e) => Err(e).context("accept"),
    }
}
