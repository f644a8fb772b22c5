//! A node's runtime by itself, without API and agent, and guests to measure it with.

use std::sync::Arc;

use anyhow::Context;
use coracle_budget::Budget;
use coracle_network::{Fabric, PodConfig, PodStack};
use coracle_runtime::{
    Config, Container, ContainerSpec, Cpu, Density, Output, Program, Runtime, Stdin, digest,
};
use coracle_vfs::Mounts;
use ipnet::Ipv4Net;
use tempfile::TempDir;

/// Room for 131,070 pods.
const POD_CIDR: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 128, 0, 0), 15);

/// What a pod of the measurements may hold in memory.
const POD_MEMORY: u64 = 64 << 20;

/// Touches four pages of its 17 (as many as Rust programs have) and sleeps for an hour:
///
/// ```text
/// (module
///     (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
///     (memory (export "memory") 17)
///     (func (export "_start")
///         (i32.store (i32.const 4096) (i32.const 1))
///         (i32.store (i32.const 8192) (i32.const 1))
///         (i32.store (i32.const 12288) (i32.const 1))
///         (i32.store (i32.const 16) (i32.const 1))
///         (i64.store (i32.const 24) (i64.const 3600000000000))
///         (drop (call $poll (i32.const 0) (i32.const 256) (i32.const 1) (i32.const 512)))))
/// ```
pub(crate) const SLEEP: &[u8] =
    b"\x00asm\x01\x00\x00\x00\x01\x0c\x02`\x04\x7f\x7f\x7f\x7f\x01\x7f`\x00\x00\x02&\x01\x16wasi_snaps\
    hot_preview1\x0bpoll_oneoff\x00\x00\x03\x02\x01\x01\x05\x03\x01\x00\x11\x07\x13\x02\x06memory\
    \x02\x00\x06_start\x00\x01\x0a?\x01=\x00A\x80 A\x016\x02\x00A\x80\xc0\x00A\x016\x02\x00A\x80\xe0\
    \x00A\x016\x02\x00A\x10A\x016\x02\x00A\x18B\x80\xc0\xe2\x85\xe3\xe8\x007\x03\x00A\x00A\x80\x02A\
    \x01A\x80\x04\x10\x00\x1a\x0b";

/// Never returns: `(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))`.
pub(crate) const SPIN: &[u8] =
    b"\x00asm\x01\x00\x00\x00\x01\x04\x01`\x00\x00\x03\x02\x01\x00\x05\x03\x01\x00\x01\x07\x13\x02\x06\
    memory\x02\x00\x06_start\x00\x00\x0a\x09\x01\x07\x00\x03@\x0c\x00\x0b\x0b";

/// A runtime with a network and a folder of its own.
pub(crate) struct Lab {
    pub(crate) runtime: Arc<Runtime>,
    fabric: Arc<Fabric>,
    _dir: TempDir,
}

impl Lab {
    /// Room for so many containers, on `threads` threads or all that there are.
    pub(crate) fn build(containers: u32, density: Density, threads: Option<usize>) -> anyhow::Result<Lab> {
        let dir = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut config = Config::new(dir.path().join("compiled"));
        (config.max_containers, config.density) = (containers, density);
        config.threads = threads.unwrap_or(config.threads);
        let runtime = Runtime::build(config).context("cannot start the runtime")?;
        anyhow::ensure!(
            runtime.capacity() >= containers,
            "this machine has room for {} containers of this class, not for {containers}",
            runtime.capacity()
        );
        let network = coracle_network::Config { pod_cidr: POD_CIDR, ..coracle_network::Config::default() };
        Ok(Lab { runtime, fabric: Fabric::build(network), _dir: dir })
    }

    /// A compiled program.
    pub(crate) async fn program(&self, wasm: &'static [u8]) -> anyhow::Result<Arc<Program>> {
        let bytes = bytes::Bytes::from_static(wasm);
        self.runtime.prepare_bytes(&digest(wasm), &bytes).await.context("cannot compile the guest")
    }

    /// A pod of its own.
    pub(crate) fn pod(&self, name: &str) -> anyhow::Result<PodStack> {
        let config = PodConfig {
            namespace: "bench".into(),
            name: name.into(),
            uid: name.into(),
            ..PodConfig::default()
        };
        self.fabric.add_pod(config).context("cannot add a pod to the network")
    }

    /// Starts a container of a pod.
    pub(crate) fn start(
        &self,
        program: &Arc<Program>,
        pod: &PodStack,
        cpu: Cpu,
        output: Arc<dyn Output>,
    ) -> anyhow::Result<Container> {
        let spec = ContainerSpec {
            name: "bench".into(),
            args: vec!["guest".into()],
            env: Vec::new(),
            mounts: Mounts::new(),
            network: pod.clone(),
            memory_limit: Some(POD_MEMORY),
            budget: Budget::new(Some(POD_MEMORY)),
            cpu,
            listen: Vec::new(),
            working_dir: None,
            stdin: Stdin::Closed,
            tty: false,
            stdout: Arc::clone(&output),
            stderr: output,
        };
        self.runtime.start(Arc::clone(program), spec).context("cannot start a container")
    }
}

/// Throws away what it is given.
pub(crate) struct Nowhere;

impl Output for Nowhere {
    fn write(&self, _bytes: &[u8]) {}
}
