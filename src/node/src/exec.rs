//! New instances in a running pod: `kubectl exec`, exec probes and exec hooks.
//!
//! A module has no shell beside it, so what is run is, in this order: the module file that `argv[0]` names in the
//! container's filesystem, the node's toolbox if it has an applet of that name, or the container's own module. It
//! gets the container's files, network, environment and memory limit, and shares its CPU time and the pod's memory. It
//! ends with the container at the latest.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use coracle_network::PodStack;
use coracle_runtime::{
    Container, ContainerSpec, Cpu, Output, PrepareError, Program, Stdin, StdinWriter, digest,
};
use coracle_vfs::{Mounts, OpenOptions, VfsError};
use k8s_openapi::{api::core::v1::Container as Spec, apimachinery::pkg::api::resource::Quantity};
use parking_lot::Mutex;

use crate::{
    context::Context, handle::PodHandle, images::chain, logs::ContainerLog, resources, volumes::PodVolumes,
};

/// Instances beside a pod's containers at one time: probes, hooks and a few people. Each holds a place of the
/// node, and memory of the pod.
const EXECS_PER_POD: usize = 32;

/// Largest module that is run from a container's filesystem; it is held in memory while it is compiled.
const MODULE_BYTES: usize = 64 << 20;

/// The commands of the toolbox: `applets::ALL` of the guest example, and its own name.
const APPLETS: &[&str] = &[
    "[", "basename", "cat", "cp", "cut", "date", "dirname", "du", "echo", "env", "false", "find", "grep",
    "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mv", "nc", "nslookup", "printenv", "printf",
    "ps", "pwd", "readlink", "rm", "rmdir", "seq", "sh", "sleep", "sort", "stat", "tail", "tar", "tee",
    "test", "toolbox", "touch", "true", "uname", "uniq", "wc", "wget", "which", "whoami",
];

/// Where an instance's input comes from and its output goes.
pub(crate) struct ExecIo {
    pub(crate) stdin: Stdin,
    pub(crate) stdout: Arc<dyn Output>,
    pub(crate) stderr: Arc<dyn Output>,
    pub(crate) tty: bool,
}

/// Nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// The container does not run.
    #[error("container not found (\"{0}\")")]
    NotRunning(String),
    /// `argv[0]` names nothing that can be run.
    #[error("exec: \"{0}\": {1}")]
    NotFound(String, &'static str),
    /// It could be run, but not now or not here.
    #[error("{0}")]
    Failed(String),
}

/// What a running container was given: what a new instance beside it gets, too.
pub(crate) struct Running {
    pub(crate) program: Arc<Program>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Mounts,
    pub(crate) stack: PodStack,
    /// The pod's.
    pub(crate) volumes: Arc<PodVolumes>,
    /// Its memory limit now, as its spec has or had it.
    pub(crate) memory: Mutex<Option<Quantity>>,
    pub(crate) working_dir: Option<String>,
    /// The container's stdin, if its spec asks for one.
    pub(crate) stdin: Option<StdinWriter>,
    pub(crate) tty: bool,
    pub(crate) log: Arc<ContainerLog>,
    pub(crate) container: Container,
}

impl Running {
    /// The memory limit that it has now, if its spec has one.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        resources::bytes(self.memory.lock().as_ref())
    }

    /// Gives it the memory limit of a spec while it runs; false if that cannot be.
    pub(crate) fn resize_memory(&self, context: &Context, spec: &Spec) -> bool {
        let resized = context.runtime.resize_memory(&self.container, resources::memory_limit(spec));
        if resized {
            *self.memory.lock() = resources::spelled_memory(spec);
        }
        resized
    }
}

/// A pod's running containers by name, and the instances that were started beside them.
#[derive(Default)]
pub(crate) struct Guests(Mutex<BTreeMap<Box<str>, Guest>>);

struct Guest {
    running: Arc<Running>,
    execs: Vec<(usize, Container)>,
}

impl Guests {
    /// A container runs.
    pub(crate) fn set(&self, name: &str, running: Arc<Running>) {
        let guest = Guest { running, execs: Vec::new() };
        if let Some(old) = self.0.lock().insert(name.into(), guest) {
            old.end();
        }
    }

    /// A container has ended: what was started beside it ends, too.
    pub(crate) fn clear(&self, name: &str) {
        if let Some(old) = self.0.lock().remove(name) {
            old.end();
        }
    }

    /// All containers have ended.
    pub(crate) fn clear_all(&self) {
        std::mem::take(&mut *self.0.lock()).into_values().for_each(|guest| guest.end());
    }

    /// Every running container, with the instances beside it.
    pub(crate) fn all(&self) -> Vec<(Box<str>, Arc<Running>, Vec<Container>)> {
        let guests = self.0.lock();
        let beside = |guest: &Guest| guest.execs.iter().map(|(_, container)| container.clone()).collect();
        guests.iter().map(|(name, guest)| (name.clone(), guest.running.clone(), beside(guest))).collect()
    }

    /// What a running container was given.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Running>> {
        self.0.lock().get(name).map(|guest| guest.running.clone())
    }

    /// The pod's network, while a container runs.
    pub(crate) fn stack(&self) -> Option<PodStack> {
        self.0.lock().values().next().map(|guest| guest.running.stack.clone())
    }

    /// Starts an instance beside a container that still runs, and keeps it until [`Guests::ended`].
    fn begin(
        &self,
        name: &str,
        running: &Arc<Running>,
        start: impl FnOnce() -> Result<Container, ExecError>,
    ) -> Result<(usize, Container), ExecError> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let mut guests = self.0.lock();
        if guests.values().map(|guest| guest.execs.len()).sum::<usize>() >= EXECS_PER_POD {
            return Err(ExecError::Failed(format!(
                "too many exec sessions: {EXECS_PER_POD} run in this pod"
            )));
        }
        let guest = guests.get_mut(name).filter(|guest| Arc::ptr_eq(&guest.running, running));
        let guest = guest.ok_or_else(|| ExecError::NotRunning(name.to_owned()))?;
        let (number, container) = (NEXT.fetch_add(1, Ordering::Relaxed), start()?);
        guest.execs.push((number, container.clone()));
        Ok((number, container))
    }

    fn ended(&self, name: &str, number: usize) {
        if let Some(guest) = self.0.lock().get_mut(name) {
            guest.execs.retain(|(other, _)| *other != number);
        }
    }
}

impl Guest {
    fn end(self) {
        self.execs.iter().for_each(|(_, container)| container.kill());
    }
}

impl std::fmt::Debug for Guests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.lock().keys()).finish()
    }
}

/// The node's toolbox: one module with many commands.
#[derive(Debug, Default)]
pub(crate) struct Toolbox {
    module: Option<Bytes>,
    digest: OnceLock<String>,
    /// Kept once it was used, so that the next use need not load it.
    program: Mutex<Option<Arc<Program>>>,
}

impl Toolbox {
    pub(crate) fn new(module: Option<Bytes>) -> Toolbox {
        Toolbox { module, ..Toolbox::default() }
    }

    /// Sees to it that the toolbox says so if it is to run a command that it does not have: any other name that it
    /// is started under it takes for that of its container.
    pub(crate) fn introduce(&self, program: &Program, argv: &mut Vec<String>) {
        let Some(module) = &self.module else { return };
        let known = argv.first().is_none_or(|command| applet(command).is_some());
        if !known && program.digest() == self.digest.get_or_init(|| digest(module)) {
            argv.insert(0, "toolbox".to_owned());
        }
    }

    async fn program(&self, context: &Context) -> Option<Result<Arc<Program>, PrepareError>> {
        let module = self.module.as_ref()?;
        if let Some(program) = &*self.program.lock() {
            return Some(Ok(program.clone()));
        }
        let digest = self.digest.get_or_init(|| digest(module));
        let program = context.runtime.prepare_bytes(digest, module).await;
        if let Ok(program) = &program {
            *self.program.lock() = Some(program.clone());
        }
        Some(program)
    }
}

/// Starts a new instance inside the pod: of the module file that `argv[0]` names in the container's filesystem or
/// the node's toolbox, otherwise of the container's own module, with that argv.
pub(crate) async fn start(
    context: &Arc<Context>,
    handle: &Arc<PodHandle>,
    container: &str,
    mut argv: Vec<String>,
    io: ExecIo,
) -> Result<Container, ExecError> {
    let not_running = || ExecError::NotRunning(container.to_owned());
    let running = handle.running(container).ok_or_else(not_running)?;
    let Some(command) = argv.first().filter(|command| !command.is_empty()) else {
        return Err(ExecError::Failed("you must specify at least one command for the container".into()));
    };
    let key = handle.key();
    let program = program(context, &running, command, &key.namespace).await?;
    let name = format!("{}/{}/{container}: {command}", key.namespace, key.name);
    context.toolbox.introduce(&program, &mut argv);
    let spec = ContainerSpec {
        budget: handle.budget.clone(),
        // It shares that of the container.
        cpu: Cpu::default(),
        listen: Vec::new(),
        name,
        args: argv,
        env: running.env.clone(),
        mounts: running.mounts.clone(),
        network: running.stack.clone(),
        memory_limit: running.memory_limit(),
        working_dir: running.working_dir.clone(),
        stdin: io.stdin,
        tty: io.tty,
        stdout: io.stdout,
        stderr: io.stderr,
    };
    let begin = || {
        let instance = context.runtime.start_beside(&running.container, program, spec);
        instance.map_err(|error| ExecError::Failed(chain(&error)))
    };
    let (number, instance) = handle.guests.begin(container, &running, begin)?;
    let (ended, handle, container) = (instance.clone(), handle.clone(), container.to_owned());
    context.tasks.spawn(async move {
        ended.wait().await;
        handle.guests.ended(&container, number);
    });
    Ok(instance)
}

/// What to run for `argv[0]`.
async fn program(
    context: &Arc<Context>,
    running: &Arc<Running>,
    command: &str,
    namespace: &str,
) -> Result<Arc<Program>, ExecError> {
    let failed = |error: PrepareError| ExecError::Failed(format!("exec: \"{command}\": {}", chain(&error)));
    let (look, name) = (running.clone(), command.to_owned());
    let found = tokio::task::spawn_blocking(move || module_file(&look, &name)).await;
    if let Some((digest, module)) = found.map_err(|error| ExecError::Failed(error.to_string()))?? {
        return context.runtime.prepare_guest(&digest, &module, namespace).await.map_err(failed);
    }
    if applet(command).is_some()
        && let Some(program) = context.toolbox.program(context).await
    {
        return program.map_err(failed);
    }
    Ok(running.program.clone())
}

/// The command of the toolbox that a path names.
fn applet(command: &str) -> Option<&str> {
    let name = command.rsplit('/').next().unwrap_or(command);
    APPLETS.contains(&name).then_some(name)
}

/// The module file of that name in the container's filesystem, with its digest. Blocking.
fn module_file(running: &Running, command: &str) -> Result<Option<(String, Bytes)>, ExecError> {
    let root = running.mounts.root();
    for path in places(command, running) {
        let options = OpenOptions { read: true, follow: true, ..OpenOptions::default() };
        let mut magic = [0; 4];
        match root.open_file(&path, options).and_then(|file| file.read_at(0, &mut magic)) {
            Ok(4) if magic == *b"\0asm" => {}
            Ok(_) => return Err(ExecError::NotFound(command.to_owned(), "exec format error")),
            Err(VfsError::IsDirectory) => continue,
            Err(_) => continue,
        }
        let module = match root.read(&path, MODULE_BYTES) {
            Ok(module) => Bytes::from(module),
            Err(error) => return Err(ExecError::Failed(format!("exec: \"{command}\": {error}"))),
        };
        return Ok(Some((digest(&module), module)));
    }
    Ok(None)
}

/// Where a command of that name may lie, as paths from the root: itself if it is a path, else each folder of
/// `PATH`.
fn places(command: &str, running: &Running) -> Vec<String> {
    let join = |dir: &str| format!("{dir}/{command}").trim_start_matches('/').to_owned();
    if command.starts_with('/') {
        return vec![command.trim_start_matches('/').to_owned()];
    }
    let dir = running.working_dir.as_deref().unwrap_or_default();
    if command.contains('/') {
        return vec![join(dir)];
    }
    let path = running.env.iter().rev().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value);
    path.split(':').filter(|dir| dir.starts_with('/')).map(join).collect()
}
