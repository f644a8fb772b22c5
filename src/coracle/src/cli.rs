//! The command line: what can be asked, with examples. No behaviour.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use coracle_runtime::Density;

/// The Kubernetes API on WebAssembly: one binary that is the whole cluster.
#[derive(Debug, Parser)]
#[command(
    name = "coracle",
    version,
    args_override_self = true,
    after_help = "Examples:\n  coracle demo                       a cluster with an application, in one command\n  \
                  coracle up                         a one-machine cluster in the foreground\n  \
                  coracle push app.wasm registry.local/app:1\n\nThen:\n  export KUBECONFIG=…                (the path that `up` prints)\n  kubectl get nodes"
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten)]
    pub log: Log,
}

/// Logging options, for every command.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// What to log: error, warn, info, debug, trace, or a filter like `coracle_node=debug,warn`
    /// [default: warn,coracle=info; warn for the demo]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "CORACLE_LOG",
        value_parser = log_filter
    )]
    pub log_level: Option<String>,
    /// How to log; `auto` is human on a terminal and JSON elsewhere
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
}

/// Checks a filter: levels, and `TARGET=LEVEL`, between commas. A word that is no level would be taken for the
/// name of a target, and everything else would fall silent.
fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',') {
        let level = directive.rsplit('=').next().unwrap_or_default();
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!("{level:?} is not a level; the levels are {}", LEVELS.join(", ")));
        }
    }
    Ok(text.to_owned())
}

/// The forms a log line can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line for people.
    Human,
    /// One JSON object a line.
    Json,
    /// Human on a terminal, JSON elsewhere.
    Auto,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a one-machine cluster: API server, controllers, scheduler and one node
    #[command(
        after_help = "Examples:\n  coracle up\n  coracle up --data-dir ./cluster --listen 127.0.0.1:0\n  coracle up --node-name edge-1 --log-level debug\n  coracle up --dashboard 127.0.0.1:8001\n\n\
                            Ends in order on Ctrl-C or SIGTERM; a second signal ends it at once."
    )]
    Up(Up),
    /// Run a cluster with a demo application in it
    #[command(
        after_help = "Examples:\n  coracle demo\n  coracle demo --data-dir ./demo --listen 127.0.0.1:0"
    )]
    Demo(Demo),
    /// Push a Wasm file into the cluster's embedded registry
    #[command(
        after_help = "Examples:\n  coracle push app.wasm registry.local/app:1\n  coracle push --kubeconfig ./cluster/kubeconfig app.wasm registry.local/team/app:v2"
    )]
    Push(Push),
    /// Measure this build on this machine
    #[command(subcommand)]
    Bench(Bench),
    /// Print the version
    Version,
    /// Compile a module for a node, which starts this process
    #[command(hide = true)]
    Compile {
        /// What to do, as the node wrote it
        order: String,
    },
}

/// `coracle up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// Where the cluster keeps everything [default: coracle/cluster in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the API server listens, and on which address the ports of services do; port 0 picks a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// The node's name [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Serve the dashboard there too, and print its URL; choose a loopback address
    #[arg(long, value_name = "IP:PORT")]
    pub dashboard: Option<SocketAddr>,
    /// What the node may do
    #[command(flatten)]
    pub node: NodeOptions,
}

/// Containers on one node unless told otherwise: what the pool of the fast class carries within the kernel's usual
/// limit on mappings.
const MAX_CONTAINERS: u32 = 11_000;

/// `--density`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DensityOption {
    /// Fast, unless more containers are wanted than the host has room for that way
    Auto,
    /// The fastest code
    Fast,
    /// The most containers; loops over memory take longer
    Dense,
}

impl From<DensityOption> for Density {
    fn from(option: DensityOption) -> Density {
        match option {
            DensityOption::Auto => Density::Auto,
            DensityOption::Fast => Density::Fast,
            DensityOption::Dense => Density::Dense,
        }
    }
}

/// Options of the node.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeOptions {
    /// Run programs of WASI 0.3, too; support for them is experimental
    #[arg(long)]
    pub wasi_p3: bool,
    /// How containers are placed in memory: for speed, or for more than ten thousand of them
    #[arg(long, value_enum, default_value_t = DensityOption::Auto)]
    pub density: DensityOption,
    /// How many containers may run at once
    #[arg(long, value_name = "COUNT", default_value_t = MAX_CONTAINERS, value_parser = clap::value_parser!(u32).range(1..=65_000))]
    pub max_containers: u32,
    /// Compiled code kept on disk, in MiB [default: a tenth of the disk, at most 16 GiB]
    #[arg(long, value_name = "MIB")]
    pub cache_size: Option<u64>,
    /// Talk to this registry without TLS; those on this machine's loopback always are [repeatable]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
    /// Which images run, by their cosign signatures: a list of `prefix`, `keys` (files or PEM) and `mode`
    /// (require, warn, allow, reject) in YAML
    #[arg(long, value_name = "FILE")]
    pub image_policy: Option<PathBuf>,
    /// CPU time that compiling a small module may take, in seconds
    #[arg(long, hide = true, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub compile_seconds: u64,
    /// What pods may reach outside the cluster where no NetworkPolicy and no annotation says
    #[arg(long, value_enum, default_value_t = Egress::Allow)]
    pub egress: Egress,
    /// What pods have to end, hooks and all, when this process is told to end [default: half a second]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub shutdown_grace: Option<u64>,
}

impl Default for NodeOptions {
    fn default() -> NodeOptions {
        NodeOptions {
            wasi_p3: false,
            density: DensityOption::Auto,
            max_containers: MAX_CONTAINERS,
            cache_size: None,
            insecure_registry: Vec::new(),
            image_policy: None,
            compile_seconds: 20,
            egress: Egress::Allow,
            shutdown_grace: None,
        }
    }
}

/// What pods may reach outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Egress {
    /// Everything but this host, as in Kubernetes
    Allow,
    /// Nothing but what a NetworkPolicy's ipBlock or coracle.dev/egress-hosts names
    Deny,
}

impl From<Egress> for coracle_node::Egress {
    fn from(egress: Egress) -> coracle_node::Egress {
        match egress {
            Egress::Allow => coracle_node::Egress::Allow,
            Egress::Deny => coracle_node::Egress::Deny,
        }
    }
}

/// `coracle demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where the demo's cluster keeps everything [default: coracle/demo in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the API server listens, and on which address the ports of services do; port 0 picks a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
}

/// `coracle push`.
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The Wasm module or component
    #[arg(value_name = "FILE.wasm")]
    pub file: PathBuf,
    /// What it will be called, e.g. registry.local/app:1
    #[arg(value_name = "registry.local/NAME:TAG")]
    pub reference: String,
    /// The cluster's kubeconfig [default: that of `coracle up` in its default data folder]
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// `coracle bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Time from the start of the process to a Ready node, empty and with objects in the store
    #[command(after_help = "Example:\n  coracle bench startup --runs 10 --objects 1000")]
    Startup(BenchStartup),
    /// Time from the creation of pods to their readiness, and their memory
    #[command(after_help = "Example:\n  coracle bench pods --count 1000")]
    Pods(BenchPods),
    /// Time from a change of an EndpointSlice to the first connection that goes by it, beside few services and many
    #[command(after_help = "Example:\n  coracle bench services --services 10000")]
    Services(BenchServices),
    /// Decisions of the scheduler a second, without the API: a curve up to so many nodes
    #[command(after_help = "Example:\n  coracle bench scheduler --nodes 5000 --pods 150000")]
    Scheduler(BenchScheduler),
    /// Round trips and throughput between two modules of a pod, and between two processes over the kernel's loopback
    #[command(after_help = "Example:\n  coracle bench loopback --rounds 100000 --megabytes 4000")]
    Loopback(BenchLoopback),
    /// Requests to a wasi:http component a second, through a NodePort, beside what `wasmtime serve` does with it
    #[command(after_help = "Example:\n  coracle bench http --connections 64 --seconds 10")]
    Http(BenchHttp),
    /// What `bench http` compares with
    #[command(hide = true)]
    HttpPeer {
        /// The component to serve
        component: PathBuf,
    },
    /// Small files in a volume in memory, against wasmtime-wasi on the host's memory filesystem
    #[command(after_help = "Example:\n  coracle bench volume --files 10000 --bytes 4096")]
    Volume(BenchVolume),
    /// Containers that the runtime starts a second, warm, without API and agent
    #[command(after_help = "Example:\n  coracle bench spawn --threads 2")]
    Spawn(BenchSpawn),
    /// What idle pods cost the runtime, and how fairly busy ones share it, without API and agent
    #[command(
        after_help = "Examples:\n  coracle bench density\n  coracle bench density --count 50000 --density dense"
    )]
    Density(BenchDensity),
}

/// `coracle bench spawn`.
#[derive(Debug, Args)]
pub(crate) struct BenchSpawn {
    /// How many containers each run starts
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub count: u32,
    /// How many runs; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// How many containers are started one after the other first
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub singles: u32,
    /// Threads that guests run on [default: one for each processor]
    #[arg(long)]
    pub threads: Option<usize>,
}

/// `coracle bench density`.
#[derive(Debug, Args)]
pub(crate) struct BenchDensity {
    /// Only this measurement: so many idle pods, in this process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_000))]
    pub count: Option<u32>,
    /// How they are placed in memory
    #[arg(long, requires = "count")]
    pub density: Option<DensityOption>,
    /// The idle pods run a web server of WASI 0.2 that waits for connections, not a module of 0.1 that sleeps
    #[arg(long, requires = "count")]
    pub web: bool,
}

/// `coracle bench volume`.
#[derive(Debug, Args)]
pub(crate) struct BenchVolume {
    /// How many files the guest makes, reads and removes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub files: u32,
    /// Bytes of each
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    pub bytes: u32,
    /// How often each of the ways is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// A folder of the host for the comparison, in memory
    #[arg(long, default_value = "/dev/shm")]
    pub folder: PathBuf,
}

/// `coracle bench startup`.
#[derive(Debug, Args)]
pub(crate) struct BenchStartup {
    /// How often to start
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// How many objects the second measurement finds in the store
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub objects: u32,
}

/// `coracle bench pods`.
#[derive(Debug, Args)]
pub(crate) struct BenchPods {
    /// How many pods the ReplicationController asks for
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub count: u32,
    /// How many single pods are created and deleted one after the other, first alone and then beside the others
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub singles: u32,
    /// Give the pods of the ReplicationController an HTTP readiness probe each second
    #[arg(long)]
    pub probes: bool,
}

/// `coracle bench services`.
#[derive(Debug, Args)]
pub(crate) struct BenchServices {
    /// How many other services there are the second time; the first time there are ten
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=50_000))]
    pub services: u32,
    /// How often the endpoint comes and goes
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rounds: u32,
}

/// `coracle bench loopback`.
#[derive(Debug, Args)]
pub(crate) struct BenchLoopback {
    /// How often 64 bytes go there and back
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub rounds: u32,
    /// How much is moved in writes of 64 KiB
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub megabytes: u32,
    /// What one of the two processes is started with
    #[arg(long, hide = true)]
    pub peer: Vec<String>,
}

/// `coracle bench http`.
#[derive(Debug, Args)]
pub(crate) struct BenchHttp {
    /// How many clients ask at the same time, each on a connection of its own
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// How often each is measured, in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// A wasmtime binary to compare with, instead of this binary's own copy of what it does
    #[arg(long, value_name = "PATH")]
    pub wasmtime: Option<PathBuf>,
}

/// `coracle bench scheduler`.
#[derive(Debug, Args)]
pub(crate) struct BenchScheduler {
    /// How many nodes the largest cluster has
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub nodes: u32,
    /// How many pods are placed on them; smaller clusters get their share
    #[arg(long, default_value_t = 150_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pods: u32,
    /// Decides among equal nodes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}
