//! A cluster in a child process: started, measured from outside, ended.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, timeout},
};

use crate::connection::Connection;

/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `coracle up`, killed when dropped.
pub(crate) struct Cluster {
    child: Child,
    /// From the start of the process to the line that says that the node is Ready.
    pub startup: Duration,
    /// Its API.
    pub connection: Connection,
}

impl Cluster {
    /// Starts this very binary on `dir` and waits until it is ready.
    pub(crate) async fn start(dir: &Path) -> anyhow::Result<Cluster> {
        let binary = std::env::current_exe().context("cannot find the binary")?;
        let started = Instant::now();
        let mut child = Command::new(binary)
            .args([
                "up",
                "--listen",
                "127.0.0.1:0",
                "--node-name",
                "bench",
                "--log-level",
                "error",
                "--data-dir",
            ])
            .arg(dir)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the cluster")?;
        let mut lines =
            BufReader::new(child.stdout.take().context("the child has no standard output")?).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.context("the cluster does not get ready")??;
        let startup = started.elapsed();
        let Some(kubeconfig) =
            line.as_deref().and_then(|l| l.split_once("KUBECONFIG=")).map(|(_, path)| path)
        else {
            bail!("the cluster ended instead of getting ready");
        };
        let connection = Connection::open(Path::new(kubeconfig.trim()))?;
        Ok(Cluster { child, startup, connection })
    }

    /// Resident memory of the process in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    /// CPU time of the process so far, user and system.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(self.proc("stat")?).context("cannot read the child's CPU time")?;
        cpu_of(&stat).context("the child's CPU time is not as expected")
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).context("the child has ended")?;
        Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .await
            .context("cannot stop the cluster")?;
        timeout(PATIENCE, self.child.wait()).await.context("the cluster does not stop")??;
        Ok(())
    }

    fn status(&self, field: &str) -> anyhow::Result<u64> {
        let status =
            std::fs::read_to_string(self.proc("status")?).context("cannot read the child's memory")?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(field))
            .with_context(|| format!("no {field} in it"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("memory is not a number")?;
        Ok(kib << 10)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        Ok(format!("/proc/{}/{file}", self.child.id().context("the child has ended")?))
    }
}

/// CPU time, user and system, in the text of a `/proc/…/stat`.
pub(crate) fn cpu_of(stat: &str) -> Option<Duration> {
    // The second field is the name in parentheses and may hold anything; count from its end.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    // utime and stime in USER_HZ, which is 100 on every Linux that Rust supports.
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}
