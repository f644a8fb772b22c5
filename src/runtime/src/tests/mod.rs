//! Whole containers, from the file of a module to how it ended.

mod collected;
mod dense;
mod fairness;
pub(crate) mod guests;
mod handlers;
mod hostile;
mod hostile_components;
mod hostile_http;
mod hostile_requests;
mod lifecycle;
mod p3;
mod pieces;
mod places;
mod prepare;
mod requests;
mod slow_clients;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_budget::Budget;
use coracle_network::{Fabric, PodConfig, PodStack};
use coracle_vfs::Mounts;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::{
    Config, Container, ContainerSpec, Cpu, Exit, Output, PrepareError, Program, Runtime, StartError,
};

/// How long anything in these tests may take before they fail.
const PATIENCE: Duration = Duration::from_secs(60);

const MIB: u64 = 1 << 20;

/// A runtime with a folder of its own.
pub(crate) struct Bench {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) fabric: Arc<Fabric>,
    dir: TempDir,
}

impl Bench {
    /// Must be called in a tokio runtime (the fabric wants one).
    pub(crate) fn new() -> Bench {
        Bench::with_capacity(32)
    }

    fn with_capacity(max_containers: u32) -> Bench {
        Bench::of(|config| config.max_containers = max_containers)
    }

    /// With changes to the runtime's configuration.
    fn of(change: impl FnOnce(&mut Config)) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), 32);
        change(&mut config);
        Bench::on(Runtime::build(config).unwrap(), dir)
    }

    fn on(runtime: Arc<Runtime>, dir: TempDir) -> Bench {
        Bench { runtime, fabric: Fabric::build(coracle_network::Config::default()), dir }
    }

    pub(crate) fn pod(&self) -> PodStack {
        let pod = PodConfig { namespace: "test".into(), name: "pod".into(), ..PodConfig::default() };
        self.fabric.add_pod(pod).unwrap()
    }

    /// Prepares the module `text` (WAT) as if it had been pulled.
    pub(crate) async fn prepare(&self, text: &str) -> Result<Arc<Program>, PrepareError> {
        let digest = format!("sha256:{:064x}", hash(text));
        let path = self.dir.path().join(format!("{:016x}.wasm", hash(text)));
        if !path.exists() {
            std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
        }
        self.runtime.prepare(&digest, &path, "test").await
    }

    pub(crate) fn spec(&self, output: &Arc<Capture>) -> ContainerSpec {
        ContainerSpec {
            budget: Budget::new(None),
            cpu: Cpu::default(),
            listen: Vec::new(),
            name: "test/pod/container".into(),
            args: vec!["guest".into()],
            env: Vec::new(),
            mounts: Mounts::new(),
            network: self.pod(),
            memory_limit: None,
            working_dir: None,
            stdin: crate::Stdin::Closed,
            tty: false,
            stdout: Arc::clone(output) as Arc<dyn Output>,
            stderr: Arc::clone(output) as Arc<dyn Output>,
        }
    }

    /// Starts a guest with changes to its spec.
    pub(crate) async fn start(
        &self,
        text: &str,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> (Container, Arc<Capture>) {
        let program = self.prepare(text).await.unwrap();
        let output = Arc::new(Capture::default());
        let mut spec = self.spec(&output);
        change(&mut spec);
        (self.runtime.start(program, spec).unwrap(), output)
    }

    /// Runs a guest to its end.
    pub(crate) async fn run(&self, text: &str, change: impl FnOnce(&mut ContainerSpec)) -> (Exit, String) {
        let (container, output) = self.start(text, change).await;
        (ended(&container).await, output.text())
    }

    /// Runs one of the built examples to its end.
    pub(crate) async fn run_example(
        &self,
        name: &str,
        args: &[&str],
        change: impl FnOnce(&mut ContainerSpec),
    ) -> (Exit, String) {
        let (container, output) = self.start_example(name, args, change).await;
        (ended(&container).await, output.text())
    }

    /// Starts one of the built examples.
    async fn start_example(
        &self,
        name: &str,
        args: &[&str],
        change: impl FnOnce(&mut ContainerSpec),
    ) -> (Container, Arc<Capture>) {
        let program = self.runtime.prepare(&format!("example:{name}"), &example(name), "test").await.unwrap();
        let output = Arc::new(Capture::default());
        let mut spec = self.spec(&output);
        spec.args = [name].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        change(&mut spec);
        (self.runtime.start(program, spec).unwrap(), output)
    }
}

fn config(dir: &Path, max_containers: u32) -> Config {
    Config { threads: 2, max_containers, default_memory_limit: 64 * MIB, ..Config::new(dir.join("compiled")) }
}

pub(crate) async fn ended(container: &Container) -> Exit {
    tokio::time::timeout(PATIENCE, container.wait()).await.expect("the container ends")
}

pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../guest-examples/built/{name}.wasm"))
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Keeps what a guest prints.
#[derive(Default)]
pub(crate) struct Capture(Mutex<Vec<u8>>);

impl Capture {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }

    /// Waits until the guest has printed this.
    pub(crate) async fn shows(&self, text: &str) {
        let shown = async {
            while !self.text().contains(text) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, shown).await.expect("the guest prints it");
    }
}

impl Output for Capture {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}
