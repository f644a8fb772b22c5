//! `coracle bench loopback`: two modules of one pod, and beside them two native processes that run the same loops
//! over the kernel's loopback.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use coracle_budget::Budget;
use coracle_network::{Fabric, PodConfig, PodStack};
use coracle_runtime::{ContainerSpec, Cpu, Exit, Output, Program, Runtime, Stdin};
use coracle_vfs::Mounts;
use tokio::{net::TcpListener, process::Command, time::Instant};

use crate::{cli::BenchLoopback, guests, ui};

#[path = "../../../../guest-examples/loopback/src/peer.rs"]
mod peer;

/// Where the modules meet; a pod has all ports for itself.
const PORT: u16 = 7000;

/// What a round trip may take at the median.
const ROUND_TRIP: Duration = Duration::from_micros(12);

/// Runs the command.
pub(crate) async fn run(args: BenchLoopback) -> anyhow::Result<()> {
    if !args.peer.is_empty() {
        let began = Instant::now();
        ui::line(&peer::run(&args.peer, &|| began.elapsed())?);
        return Ok(());
    }
    let guests = Guests::start().await?;
    let (rounds, bytes) = (args.rounds.to_string(), (u64::from(args.megabytes) * 1_000_000).to_string());
    let ours = numbers::<2>(&guests.pair(["pong", "ping"], &rounds).await?)?;
    let theirs = numbers::<2>(&native(["pong", "ping"], &rounds).await?)?;
    let micros = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e6;
    let trip = |who: &str, [median, p99]: [u64; 2]| {
        let (median, p99) = (micros(median), micros(p99));
        ui::line(&format!("64 bytes there and back, {who}: median {median:.1} µs (p99 {p99:.1})"));
    };
    trip("two modules", ours);
    trip("two processes", theirs);
    let faster = micros(theirs[0]) / micros(ours[0]);
    let met = Duration::from_nanos(ours[0]) < ROUND_TRIP && faster >= 2.0;
    ui::line(&format!("  {faster:.1} times as fast (wanted: 2, and under 12 µs): {}", verdict(met)));

    let ours = numbers::<1>(&guests.pair(["sink", "source"], &bytes).await?)?;
    let theirs = numbers::<1>(&native(["sink", "source"], &bytes).await?)?;
    let rate = |nanos: u64| f64::from(args.megabytes) / 1e3 / Duration::from_nanos(nanos).as_secs_f64();
    ui::line(&format!("64 KiB writes, two modules: {:.2} GB/s", rate(ours[0])));
    ui::line(&format!("64 KiB writes, two processes: {:.2} GB/s", rate(theirs[0])));
    let ratio = rate(ours[0]) / rate(theirs[0]);
    ui::line(&format!("  {ratio:.2} of the kernel's loopback (wanted: 1): {}", verdict(ratio >= 1.0)));
    Ok(())
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

fn numbers<const N: usize>(report: &str) -> anyhow::Result<[u64; N]> {
    let numbers: Result<Vec<u64>, _> = report.split_whitespace().map(str::parse).collect();
    let numbers = numbers.with_context(|| format!("not a report: {report:?}"))?;
    numbers.try_into().map_err(|_| anyhow::anyhow!("not a report: {report:?}"))
}

/// A pod for modules.
struct Guests {
    runtime: Arc<Runtime>,
    program: Arc<Program>,
    stack: PodStack,
    _fabric: Arc<Fabric>,
    _dir: tempfile::TempDir,
}

impl Guests {
    async fn start() -> anyhow::Result<Guests> {
        let dir = tempfile::tempdir().context("cannot make a folder")?;
        let runtime = Runtime::build(coracle_runtime::Config::new(dir.path().join("compiled")))?;
        let wasm = Bytes::from_static(guests::LOOPBACK.wasm);
        let program = runtime.prepare_bytes("bench:loopback", &wasm).await?;
        let fabric = Fabric::build(coracle_network::Config::default());
        let pod = PodConfig { name: "loopback".to_owned(), ..PodConfig::default() };
        let stack = fabric.add_pod(pod)?;
        Ok(Guests { runtime, program, stack, _fabric: fabric, _dir: dir })
    }

    /// Runs both modes to their end, and answers what the second one reports.
    async fn pair(&self, modes: [&str; 2], amount: &str) -> anyhow::Result<String> {
        let (server, _) = self.container(modes[0], "0")?;
        let (client, report) = self.container(modes[1], amount)?;
        let (server, client) = tokio::join!(server.wait(), client.wait());
        let report = report.text();
        ensure!(server == Exit::Code(0) && client == Exit::Code(0), "{server:?}, {client:?}: {report}");
        Ok(report)
    }

    fn container(
        &self,
        mode: &str,
        amount: &str,
    ) -> anyhow::Result<(coracle_runtime::Container, Arc<Report>)> {
        let report = Arc::new(Report::default());
        let port = PORT.to_string();
        let spec = ContainerSpec {
            name: format!("bench/{mode}"),
            args: ["loopback", mode, &port, amount].map(str::to_owned).to_vec(),
            env: Vec::new(),
            mounts: Mounts::new(),
            network: self.stack.clone(),
            memory_limit: None,
            budget: Budget::new(None),
            cpu: Cpu::default(),
            listen: Vec::new(),
            working_dir: None,
            stdin: Stdin::Closed,
            tty: false,
            stdout: report.clone(),
            stderr: report.clone(),
        };
        Ok((self.runtime.start(self.program.clone(), spec)?, report))
    }
}

/// What a module prints.
#[derive(Default)]
struct Report(Mutex<Vec<u8>>);

impl Output for Report {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

impl Report {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// The same in two processes of this very binary, over the kernel's loopback.
async fn native(modes: [&str; 2], amount: &str) -> anyhow::Result<String> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port is free")?;
    let port = free.local_addr()?.port().to_string();
    drop(free);
    let binary = std::env::current_exe().context("cannot find the binary")?;
    let spawn = |mode: &str, amount: &str| {
        let mut command = Command::new(&binary);
        command.args(["bench", "loopback"]).stdout(Stdio::piped()).kill_on_drop(true);
        for word in [mode, port.as_str(), amount] {
            command.args(["--peer", word]);
        }
        command.spawn().context("cannot start a process")
    };
    let (server, client) = (spawn(modes[0], "0")?, spawn(modes[1], amount)?);
    let (server, client) = tokio::try_join!(server.wait_with_output(), client.wait_with_output())?;
    if !server.status.success() || !client.status.success() {
        bail!("a native process failed");
    }
    Ok(String::from_utf8_lossy(&client.stdout).into_owned())
}
