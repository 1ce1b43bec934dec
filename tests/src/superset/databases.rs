//! PostgreSQL and Redis on the host for services: each as its own user, with data of its own, without the system's services.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stand::Stand;
use crate::lab::{SERVICES, wait_until};
use crate::packet::world::Family;
use crate::proof::progress;

/// Names of the programs on the stand.
pub const POSTGRES: &str = "postgres";
/// See [`POSTGRES`].
pub const REDIS: &str = "redis";
/// The database of what the charts show; Superset's own is `superset`.
pub const SALES: &str = "sales";

/// Debian's place for the programs of PostgreSQL 15.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const LIMIT: Duration = Duration::from_secs(30);

impl Stand {
    /// Where PostgreSQL and Redis listen.
    #[must_use]
    pub fn services(&self) -> IpAddr {
        self.lab.topology().services(Family::V4)
    }

    /// Starts what does not run of both, and makes the databases.
    ///
    /// # Errors
    /// When one does not start.
    pub fn ensure_databases(&mut self) -> Result<()> {
        self.ensure_postgres()?;
        self.ensure_redis()
    }

    /// Starts PostgreSQL unless it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub fn ensure_postgres(&mut self) -> Result<()> {
        if self.runs(POSTGRES) {
            return Ok(());
        }
        let data = self.place.data().join(POSTGRES);
        if !data.exists() {
            self.init_postgres(&data)?;
        }
        // Of a server that was killed; the lab has no other.
        let _ = std::fs::remove_file(data.join("postmaster.pid"));
        let mut server = as_user(POSTGRES, &data, &program("postgres"));
        server.arg("-D").arg(&data).args(["-h", &self.services().to_string()]);
        // Nothing here must outlive a power cut.
        for setting in ["unix_socket_directories=", "max_connections=300", "fsync=off"] {
            server.args(["-c", setting]);
        }
        self.start(POSTGRES, SERVICES, &mut server)?;
        self.wait_for(POSTGRES, LIMIT, |stand| stand.psql("postgres", "select 1").is_ok())?;
        for database in ["superset", SALES] {
            let known = format!("select 1 from pg_database where datname = '{database}'");
            if self.psql("postgres", &known)?.is_empty() {
                self.psql("postgres", &format!("create database {database}"))?;
            }
        }
        Ok(())
    }

    fn init_postgres(&self, data: &Path) -> Result<()> {
        progress(&format!("making PostgreSQL's data in {}", data.display()));
        // Renamed when it is whole.
        let fresh = owned_directory(POSTGRES, &data.with_extension("new"))?;
        let mut init = as_user(POSTGRES, &fresh, &program("initdb"));
        init.args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "-D"]).arg(&fresh);
        checked(&mut init)?;
        let access = fresh.join("pg_hba.conf");
        // The lab's networks alone can reach it.
        std::fs::write(&access, "host all all 10.77.0.0/16 trust\n")
            .and_then(|()| std::fs::rename(&fresh, data))
            .with_context(|| format!("make {}", data.display()))
    }

    /// What a statement gives, one row a line.
    ///
    /// # Errors
    /// When PostgreSQL does not answer, or with an error.
    pub fn psql(&self, database: &str, statement: &str) -> Result<String> {
        let host = self.services().to_string();
        let program = program("psql").to_string_lossy().into_owned();
        let options = ["-h", &host, "-U", "postgres", "-d", database, "-qAtX", "-c", statement];
        let words: Vec<&str> = std::iter::once(program.as_str()).chain(options).collect();
        self.lab.exec(SERVICES, &words)
    }

    /// Waits until a `pg_sleep` is under way. Returns the number of the replica that asked for it.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn wait_for_query(&self) -> Result<u8> {
        let replicas = self.wait_for_queries(1, LIMIT)?;
        let first = replicas.first().context("no query is under way")?;
        (1..=self.replicas())
            .find(|n| self.replica(*n).ip() == *first)
            .with_context(|| format!("a query of {first}"))
    }

    /// Waits until so many `pg_sleep` are under way. Returns the addresses of who asked for them.
    ///
    /// # Errors
    /// When there are fewer within `limit`.
    pub fn wait_for_queries(&self, count: usize, limit: Duration) -> Result<Vec<IpAddr>> {
        let statement = "select host(client_addr) from pg_stat_activity \
                         where state = 'active' and query ilike '%pg_sleep(%' and pid <> pg_backend_pid()";
        let mut found = Vec::new();
        wait_until(&format!("{count} queries are under way"), limit, || {
            let rows = self.psql(SALES, statement).unwrap_or_default();
            found = rows.lines().filter_map(|row| row.parse().ok()).collect();
            found.len() >= count
        })
        .with_context(|| format!("{} are", found.len()))?;
        Ok(found)
    }

    /// Starts Redis unless it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub fn ensure_redis(&mut self) -> Result<()> {
        if self.runs(REDIS) {
            return Ok(());
        }
        let data = owned_directory(REDIS, &self.place.data().join(REDIS))?;
        let mut server = as_user(REDIS, &data, Path::new("/usr/bin/redis-server"));
        server.args(["--bind", &self.services().to_string(), "--protected-mode", "no", "--dir"]).arg(&data);
        // Sessions and cache: nothing of it is missed when it is gone.
        server.args(["--save", "", "--appendonly", "no"]);
        self.start(REDIS, SERVICES, &mut server)?;
        self.wait_for(REDIS, LIMIT, |stand| stand.ping_redis().is_ok())
    }

    fn ping_redis(&self) -> Result<()> {
        let address = SocketAddr::new(self.services(), 6379);
        self.lab.in_ns(SERVICES, || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            ensure!(&answer == b"+PONG", "Redis says {answer:?}");
            Ok(())
        })?
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(PROGRAMS).join(name)
}

/// A command that another user runs in a directory of theirs.
fn as_user(user: &str, dir: &Path, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(program);
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", dir)
        .env("LC_ALL", "C.UTF-8");
    command
}

/// A directory that is this user's alone.
fn owned_directory(user: &str, dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let entry = nix::unistd::User::from_name(user).context("look up a user")?;
    let entry = entry.with_context(|| format!("no user {user}: run \"cargo xtask setup --for superset\""))?;
    std::os::unix::fs::chown(dir, Some(entry.uid.as_raw()), Some(entry.gid.as_raw()))
        .with_context(|| format!("give {} to {user}", dir.display()))?;
    Ok(dir.to_owned())
}

fn checked(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    Ok(())
}
