//! A redis-server of a test's own, which the test may kill, start again and empty.

use crate::free_port;
use anyhow::{Context, ensure};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How to run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RedisSetup {
    /// One node that owns all slots of a cluster.
    pub cluster: bool,
    /// Write every command to disk before its answer (`appendfsync always`), so that nothing is lost by a kill.
    pub durable: bool,
}

/// A running redis-server with a data folder of its own.
pub struct RedisServer {
    setup: RedisSetup,
    port: u16,
    folder: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub fn start(setup: RedisSetup) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        // The cluster bus takes the port plus 10,000, so the port must be below 55,536.
        let port = std::iter::repeat_with(free_port)
            .take(100)
            .filter_map(Result::ok)
            .find(|p| *p < 55_000)
            .context("no free port")?;
        let mut server = Self { setup, port, folder, process: None };
        server.run()?;
        if setup.cluster {
            redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383).exec(&mut server.client()?)?;
            server.wait_for(|c| {
                redis::cmd("CLUSTER").arg("INFO").query::<String>(c).is_ok_and(|i| i.contains("cluster_state:ok"))
            })?;
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The id of the process, to stop or kill it.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Its data folder.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A plain blocking connection.
    pub fn client(&self) -> anyhow::Result<redis::Connection> {
        Ok(redis::Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(5))?)
    }

    /// Kills it as a crash would (SIGKILL).
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts it again on the same port and data.
    pub fn run(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "it runs");
        let yes = |on: bool| if on { "yes" } else { "no" };
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", if self.setup.durable { "always" } else { "everysec" }])
            .args(["--cluster-enabled", yes(self.setup.cluster), "--repl-diskless-sync-delay", "0"])
            .args(["--lazyfree-lazy-expire", "yes", "--dir"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server could not be started: is it installed?")?;
        self.process = Some(process);
        self.wait_for(|c| redis::cmd("PING").query::<String>(c).is_ok())
    }

    fn wait_for(&self, ready: impl Fn(&mut redis::Connection) -> bool) -> anyhow::Result<()> {
        let give_up = Instant::now() + Duration::from_secs(20);
        while Instant::now() < give_up {
            if self.client().is_ok_and(|mut c| ready(&mut c)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("redis-server on port {} did not become ready", self.port)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
