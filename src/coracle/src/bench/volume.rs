//! `coracle bench volume`: many small files in a volume in memory, made, read and removed by a guest; and by the same
//! guest through wasmtime-wasi on the host's own memory filesystem, in the same process.
//!
//! The peer is wasmtime-wasi as its documentation sets it up, whose calls of the host run on threads beside the
//! guest's; its figures with calls on the guest's own thread are shown, too.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use coracle_budget::Budget;
use coracle_network::{Fabric, PodConfig, PodStack};
use coracle_runtime::{Config, ContainerSpec, Cpu, Exit, Output, Program, Runtime, Stdin};
use coracle_vfs::{MountOptions, Mounts, Volume};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

use crate::{cli::BenchVolume, guests, ui};

/// How many times as fast as the peer this is meant to be.
const TARGET: f64 = 5.0;

/// Where the volume is for the guest.
const MOUNT: &str = "/data";

/// Runs the command.
pub(crate) async fn measure(args: BenchVolume) -> anyhow::Result<()> {
    let cache = tempfile::tempdir().context("cannot make a folder")?;
    let ours = Ours::new(cache.path(), &args).await?;
    let peer = Peer::new(&args)?;
    let (mut own, mut beside, mut inline) = (Vec::new(), Vec::new(), Vec::new());
    // In turns, so that whatever else the machine does meets all of them.
    for _ in 0..args.runs {
        own.push(ours.run().await?);
        beside.push(peer.run(false).await?);
        inline.push(peer.run(true).await?);
    }
    ui::line(&format!("{} files of {} bytes, median of {} runs:", args.files, args.bytes, args.runs));
    let own = median(&mut own);
    let beside = median(&mut beside);
    own.report("a volume in memory", args.files);
    beside.report("wasmtime-wasi on tmpfs", args.files);
    median(&mut inline).report("the same on the guest's thread", args.files);
    let ratio = beside.total().as_secs_f64() / own.total().as_secs_f64();
    ui::line(&format!("{ratio:.1} times as fast as wasmtime-wasi on tmpfs (target {TARGET:.1})"));
    Ok(())
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
struct Times {
    write: Duration,
    read: Duration,
    remove: Duration,
}

impl Times {
    /// From the guest's own words.
    fn parse(text: &str) -> anyhow::Result<Times> {
        let micros = |word: &str| {
            let mut words = text.split_whitespace().skip_while(|other| *other != word);
            let number = words.nth(1).and_then(|number| number.parse().ok());
            number.map(Duration::from_micros).with_context(|| format!("the guest said {text:?}"))
        };
        Ok(Times { write: micros("write")?, read: micros("read")?, remove: micros("remove")? })
    }

    fn total(&self) -> Duration {
        self.write + self.read + self.remove
    }

    fn report(&self, what: &str, files: u32) {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(files.max(1));
        ui::line(&format!(
            "  {what:<31} {:7.1} ms  (each: create and write {:.1} µs, read {:.1} µs, remove {:.1} µs)",
            self.total().as_secs_f64() * 1e3,
            each(self.write),
            each(self.read),
            each(self.remove)
        ));
    }
}

fn median(times: &mut [Times]) -> Times {
    times.sort_unstable_by_key(Times::total);
    times[times.len() / 2]
}

fn arguments(args: &BenchVolume) -> Vec<String> {
    ["files".to_owned(), MOUNT.to_owned(), args.files.to_string(), args.bytes.to_string()].into()
}

/// The guest as a container.
struct Ours {
    runtime: Arc<Runtime>,
    program: Arc<Program>,
    stack: PodStack,
    args: Vec<String>,
}

impl Ours {
    async fn new(cache: &Path, args: &BenchVolume) -> anyhow::Result<Ours> {
        let runtime = Runtime::build(Config { max_containers: 4, ..Config::new(cache.join("compiled")) })?;
        let wasm = guests::FILES.wasm;
        let digest = coracle_runtime::digest(wasm);
        let program = runtime.prepare_bytes(&digest, &wasm.into()).await?;
        let fabric = Fabric::build(coracle_network::Config::default());
        let pod = PodConfig { namespace: "bench".into(), name: "volume".into(), ..PodConfig::default() };
        let stack = fabric.add_pod(pod).context("no address for the pod")?;
        Ok(Ours { runtime, program, stack, args: arguments(args) })
    }

    async fn run(&self) -> anyhow::Result<Times> {
        let budget = Budget::new(Some(1 << 30));
        let mut mounts = Mounts::new();
        mounts.add(MOUNT, &Volume::memory_of(Some(1 << 30), &budget), &MountOptions::default())?;
        let output = Arc::new(Printed::default());
        let spec = ContainerSpec {
            budget,
            cpu: Cpu::default(),
            listen: Vec::new(),
            name: "bench/volume".into(),
            args: self.args.clone(),
            env: Vec::new(),
            mounts,
            network: self.stack.clone(),
            memory_limit: None,
            working_dir: None,
            stdin: Stdin::Closed,
            tty: false,
            stdout: output.clone(),
            stderr: output.clone(),
        };
        let exit = self.runtime.start(self.program.clone(), spec)?.wait().await;
        let text = output.text();
        ensure!(exit == Exit::Code(0), "the guest ended with {exit:?}: {text}");
        Times::parse(&text)
    }
}

/// What a guest prints.
#[derive(Default)]
struct Printed(Mutex<Vec<u8>>);

impl Printed {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Output for Printed {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

/// The guest in wasmtime-wasi.
struct Peer {
    engine: Engine,
    component: Component,
    linker: Linker<PeerState>,
    folder: std::path::PathBuf,
    args: Vec<String>,
}

struct PeerState {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for PeerState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Peer {
    fn new(args: &BenchVolume) -> anyhow::Result<Peer> {
        let engine = Engine::default();
        let component = Component::new(&engine, guests::FILES.wasm).map_err(foreign)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(foreign)?;
        Ok(Peer { engine, component, linker, folder: args.folder.clone(), args: arguments(args) })
    }

    async fn run(&self, inline: bool) -> anyhow::Result<Times> {
        let folder = tempfile::tempdir_in(&self.folder)
            .with_context(|| format!("cannot make a folder in {}", self.folder.display()))?;
        let (stdout, stderr) = (MemoryOutputPipe::new(4_096), MemoryOutputPipe::new(4_096));
        let mut wasi = WasiCtx::builder();
        wasi.args(&self.args)
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .allow_blocking_current_thread(inline)
            .preopened_dir(folder.path(), MOUNT, FsPerms::ReadWrite)
            .map_err(foreign)?;
        let state = PeerState { wasi: wasi.build(), table: ResourceTable::new() };
        let mut store = Store::new(&self.engine, state);
        let (component, linker) = (self.component.clone(), self.linker.clone());
        let run = async move {
            let command = Command::instantiate_async(&mut store, &component, &linker).await?;
            command.wasi_cli_run().call_run(&mut store).await
        };
        let ended = tokio::spawn(run).await.context("the measurement ended early")?;
        let text = String::from_utf8_lossy(&stdout.contents()).into_owned();
        let said = String::from_utf8_lossy(&stderr.contents()).into_owned();
        ensure!(matches!(ended, Ok(Ok(()))), "the guest ended with {ended:?}: {said}");
        Times::parse(&text)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn foreign(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways do all of it; how fast is for release builds to say.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_small_run_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        measure(BenchVolume { files: 20, bytes: 100, runs: 1, folder: folder.path().into() }).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_guest_is_understood() {
        let times = Times::parse("write 10 read 20 remove 30\n").unwrap();
        assert_eq!(times.total(), Duration::from_micros(60));
        assert!(Times::parse("write 10 read").is_err());
    }
}
