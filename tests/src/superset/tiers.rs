//! What stands beside the replicas: nginx, which ends TLS in front of each, and a WebSocket server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::REPLICAS;
use super::place::source;
use super::stand::Stand;
use crate::lab::backend_host;

/// How the programs' names begin on the stand; the replica's number follows.
pub const HTTPS: &str = "https";
/// See [`HTTPS`].
pub const WEBSOCKET: &str = "websocket";

const LIMIT: Duration = Duration::from_secs(20);

impl Stand {
    /// Where browsers connect to with TLS.
    #[must_use]
    pub fn https_vip(&self) -> SocketAddr {
        SocketAddr::new(self.vip().ip(), 443)
    }

    /// Where WebSocket clients connect to.
    #[must_use]
    pub fn websocket_vip(&self) -> SocketAddr {
        SocketAddr::new(self.vip().ip(), 8080)
    }

    /// What ends TLS in front of a replica, numbered from 1.
    #[must_use]
    pub fn https(&self, n: u8) -> SocketAddr {
        SocketAddr::new(self.replica(n).ip(), 443)
    }

    /// The WebSocket server beside a replica.
    #[must_use]
    pub fn websocket(&self, n: u8) -> SocketAddr {
        SocketAddr::new(self.replica(n).ip(), 8080)
    }

    /// The certificate of [`Stand::https_vip`], which is its own authority.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.place.run().join("certificate.pem")
    }

    /// The Python of the virtual environment.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.venv.program("python")
    }

    /// Starts what does not run of both kinds.
    ///
    /// # Errors
    /// When one does not start.
    pub fn ensure_tiers(&mut self) -> Result<()> {
        self.ensure_certificate()?;
        for n in 1..=REPLICAS {
            self.ensure_https(n)?;
            self.ensure_websocket(n)?;
        }
        Ok(())
    }

    fn ensure_certificate(&self) -> Result<()> {
        let path = self.certificate();
        if path.exists() {
            return Ok(());
        }
        let name = format!("subjectAltName=IP:{}", self.vip().ip());
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "3650", "-subj", "/CN=superset.example.com", "-addext", &name, "-keyout"])
            .arg(self.place.run().join("key.pem"))
            .arg("-out")
            .arg(&path)
            .output()
            .context("start openssl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openssl: {}: {}", output.status, said.trim());
        Ok(())
    }

    fn ensure_https(&mut self, n: u8) -> Result<()> {
        let name = format!("{HTTPS}-{n}");
        if self.runs(&name) {
            return Ok(());
        }
        let dir = self.place.run().join(&name);
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let template = std::fs::read_to_string(source("nginx.conf")).context("read nginx.conf")?;
        let text = template
            .replace("DIRECTORY", &dir.to_string_lossy())
            .replace("ADDRESS", &self.https(n).to_string())
            .replace("REPLICA", &self.replica(n).to_string());
        let config = dir.join("nginx.conf");
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        // Its files are below root's home, where no other user gets.
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(&config).args(["-g", "user root;"]);
        self.start(&name, &backend_host(n), &mut nginx)?;
        let address = self.https(n);
        self.wait_for(&name, LIMIT, |stand| stand.accepts(&backend_host(n), address))
    }

    fn ensure_websocket(&mut self, n: u8) -> Result<()> {
        let name = format!("{WEBSOCKET}-{n}");
        if self.runs(&name) {
            return Ok(());
        }
        let address = self.websocket(n);
        let mut server = Command::new(self.python());
        server.arg(source("echo.py")).args([&name, &address.ip().to_string(), &address.port().to_string()]);
        self.start(&name, &backend_host(n), &mut server)?;
        self.wait_for(&name, LIMIT, |stand| stand.lab().get(&backend_host(n), address, "/health").is_ok())
    }

    /// Whether somebody accepts connections there.
    fn accepts(&self, host: &str, address: SocketAddr) -> bool {
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        self.lab().in_ns(host, connect).unwrap_or(false)
    }
}
