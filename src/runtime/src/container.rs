//! One container: what it is given, and the handle on its life.
//!
//! ```text
//!   start ─▶ running ──returns, exits, traps──▶ ended (Exit)
//!               ├──── stop ── asked to end, or ended at once (Exit::Code(143)) if it cannot notice
//!               └──── kill ───────────────────▶ ended (Exit::Killed)
//! ```

use std::sync::Arc;
use std::time::Duration;

use coracle_budget::Budget;
use coracle_network::PodStack;
use coracle_vfs::Mounts;

use crate::http::HttpUsage;
use crate::output::Output;
use crate::run::Control;
use crate::stdin::Stdin;

/// Exit code of a guest that was asked to end and has no way to notice: that of a program that SIGTERM ended.
pub const TERMINATED: i32 = 143;

/// All that a container gets.
pub struct ContainerSpec {
    /// For logs and traces: usually `namespace/pod/container`.
    pub name: String,
    /// The arguments, `argv[0]` included.
    pub args: Vec<String>,
    /// The environment, in order.
    pub env: Vec<(String, String)>,
    /// The files.
    pub mounts: Mounts,
    /// The network.
    pub network: PodStack,
    /// Bytes of linear memory, all of the container's memories together; `None` for the node's default.
    pub memory_limit: Option<u64>,
    /// The memory of its pod, all containers, volumes and streams together.
    pub budget: Arc<Budget>,
    /// Its share of the node's CPUs.
    pub cpu: Cpu,
    /// TCP ports that a 0.1 module which can accept, but not listen by itself, finds as listeners: the first is
    /// descriptor 3, the others follow in this order, and after them come its preopened directories.
    pub listen: Vec<u16>,
    /// Where relative paths begin: an absolute path; `None` for the root. It need not exist; where it does, programs
    /// that do not ask for it find it as a preopened directory `.`.
    pub working_dir: Option<String>,
    /// What it reads.
    pub stdin: Stdin,
    /// Stdin, stdout and stderr say that they are a terminal.
    pub tty: bool,
    /// Takes what the guest prints.
    pub stdout: Arc<dyn Output>,
    /// Takes what the guest prints as errors.
    pub stderr: Arc<dyn Output>,
}

/// A share of the node's CPUs, as Kubernetes counts it: 1,000 millicores are one core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// What it was promised: its weight when others want the CPU, too. None at all still gets a little.
    pub request_millis: u32,
    /// The most it may use; `None` for as much as is free.
    pub limit_millis: Option<u32>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It returned (0), said that it failed (1), or exited with a code.
    Code(i32),
    /// It broke the rules of WebAssembly, or of a host interface.
    Trap {
        /// The reason, then the backtrace; at most [`crate::limits::MESSAGE_BYTES`] bytes.
        message: String,
    },
    /// It wanted more memory than its limit.
    OutOfMemory,
    /// It wanted more memory than its pod had left.
    PodOutOfMemory {
        /// What the pod may use, and did.
        message: String,
    },
    /// The node has no room for its memories, tables or stacks, so that it never ran or could not go on. Its place
    /// is free again; another try may succeed.
    Exhausted {
        /// What there was no room for.
        message: String,
    },
    /// Its node had no memory left, and it was the one to end: [`Container::end_for_memory`], or nobody else was.
    NodeOutOfMemory,
    /// [`Container::kill`] ended it.
    Killed,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time so far, of the guest, of host functions on its behalf, and of what was started beside it.
    pub cpu: Duration,
    /// Bytes of linear memory now.
    pub memory: u64,
    /// Payload bytes it wrote into TCP connections so far.
    pub sent: u64,
    /// Payload bytes it read from TCP connections so far.
    pub received: u64,
    /// TCP connections now.
    pub connections: u64,
    /// Places of the node that its instances take now.
    pub places: u64,
    /// What it answered, if it is a `wasi:http` handler.
    pub http: Option<HttpUsage>,
}

/// A handle on a container. Clones are handles on the same one; dropping the last does not end it.
#[derive(Clone)]
pub struct Container {
    pub(crate) control: Arc<Control>,
}

impl Container {
    /// Waits until the container has ended and all it held is given back. May be called many times.
    pub async fn wait(&self) -> Exit {
        self.control.wait().await
    }

    /// Ends the container, wherever it is: in a tight loop, or waiting in a host call. Does nothing if it has
    /// ended.
    pub fn kill(&self) {
        self.control.kill();
    }

    /// Ends the container as one that its node has no memory for, wherever it is: [`Exit::NodeOutOfMemory`]. Does
    /// nothing if it has ended, or is about to.
    pub fn end_for_memory(&self) {
        self.control.end_for_memory();
    }

    /// Whether somebody has ended it; it may still hold what it held.
    pub fn is_ending(&self) -> bool {
        self.control.ended_from_outside().is_some()
    }

    /// Whether it has ended, and all it held is given back.
    pub fn has_ended(&self) -> bool {
        self.control.has_ended()
    }

    /// Asks the guest to end: its stdin comes to its end; its listeners take no new connections, `accept` hands
    /// out what waits and then fails once; `coracle:lifecycle/stop` says so. A guest that has neither an open stdin
    /// nor a listener, and has not looked at that interface, cannot notice and is ended at once, with [`TERMINATED`] as its code. Does nothing if it was asked before.
    pub fn stop(&self) {
        self.control.stop();
    }

    /// Changes its share of the CPUs from now on, also while it runs.
    pub fn set_cpu(&self, cpu: Cpu) {
        self.control.share.set(cpu);
    }

    /// What it uses now; after its end, what it used.
    pub fn usage(&self) -> Usage {
        self.control.usage()
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("name", &self.control.name()).finish_non_exhaustive()
    }
}
