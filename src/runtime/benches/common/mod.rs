//! What benchmarks of the runtime have in common.

use std::fmt::Display;
use std::sync::Arc;

use coracle_budget::Budget;
use coracle_network::{Fabric, PodConfig, PodStack};
use coracle_runtime::{Container, ContainerSpec, Cpu, Output, Program, Runtime};
use coracle_vfs::Mounts;

/// A runtime, and a pod for its containers.
pub(crate) struct Bench {
    pub(crate) runtime: Arc<Runtime>,
    pod: PodStack,
}

struct Nowhere;

impl Output for Nowhere {
    fn write(&self, _bytes: &[u8]) {}
}

impl Bench {
    pub(crate) fn new(runtime: Arc<Runtime>) -> Bench {
        let fabric = Fabric::build(coracle_network::Config::default());
        let pod = PodConfig { namespace: "bench".into(), name: "pod".into(), ..PodConfig::default() };
        Bench { runtime, pod: fabric.add_pod(pod).expect("an address") }
    }

    /// Starts a container that may use so much memory, `None` for what the runtime lets any have.
    pub(crate) fn start(&self, program: &Arc<Program>, memory_limit: Option<u64>) -> Container {
        let spec = ContainerSpec {
            budget: Budget::new(None),
            cpu: Cpu::default(),
            listen: Vec::new(),
            name: "bench".into(),
            args: vec!["guest".into()],
            env: Vec::new(),
            mounts: Mounts::new(),
            network: self.pod.clone(),
            memory_limit,
            working_dir: None,
            stdin: coracle_runtime::Stdin::Closed,
            tty: false,
            stdout: Arc::new(Nowhere),
            stderr: Arc::new(Nowhere),
        };
        self.runtime.start(Arc::clone(program), spec).expect("there is room")
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
pub(crate) fn say(what: &str, figure: impl Display) {
    println!("{what:<48} {figure}");
}
