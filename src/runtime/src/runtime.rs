//! The runtime: programs in, containers out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use coracle_budget::NodeBudget;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use wasmtime::Engine;

use crate::container::{Container, ContainerSpec};
use crate::engine::{Density, Guards, Settings};
use crate::error::{PrepareError, RuntimeError, StartError};
use crate::executor::{Executor, Share};
use crate::limits::MEMORY_MAX;
use crate::places::{Place, Places, Queued};
use crate::preview1::Listeners;
use crate::program::{Compiler, Loader, Program, ProgramKind, Source, loader};
use crate::run::{Control, run};
use crate::{engine, threads};

/// How the runtime is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where compiled code is kept. Made if missing, with mode 0700: what is in it is run.
    pub cache_dir: PathBuf,
    /// How many threads guests run on.
    pub threads: usize,
    /// How many containers may run at once. The host may have room for fewer.
    pub max_containers: u32,
    /// How they are placed in memory.
    pub density: Density,
    /// Memory limit in bytes of a container that has none of its own.
    pub default_memory_limit: u64,
    /// Whether programs of WASI 0.3 run here. Wasmtime calls its support for them experimental, and it costs each
    /// instance some memory.
    pub wasi_p3: bool,
    /// Where modules are compiled.
    pub compiler: Compiler,
    /// CPU time that compiling any module may take; large ones get more.
    pub compile_time: Duration,
    /// Bytes of compiled code on disk; `None` for a part of the disk. What runs is not counted.
    pub cache_size: Option<u64>,
}

/// What a container without a memory limit may use: enough for any ordinary program, and a hundred runaway ones
/// do not bring a small machine down.
const DEFAULT_MEMORY_LIMIT: u64 = 256 << 20;

/// What compiling any module may take: a hundred times what most do, and a module that is made to take for ever
/// does not hold up others for long.
const COMPILE_TIME: Duration = Duration::from_secs(20);

/// The tenant of modules of the node's own: no namespace has this name.
const NODE: &str = "";

/// Containers of a runtime that is not told how many: those of a small node.
const DEFAULT_CONTAINERS: u32 = 128;

impl Config {
    /// A runtime for a small node, on all processors.
    #[must_use]
    pub fn new(cache_dir: PathBuf) -> Config {
        Config {
            cache_dir,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            max_containers: DEFAULT_CONTAINERS,
            density: Density::Auto,
            default_memory_limit: DEFAULT_MEMORY_LIMIT,
            wasi_p3: false,
            compiler: Compiler::InProcess,
            compile_time: COMPILE_TIME,
            cache_size: None,
        }
    }
}

/// Prepares modules and runs containers.
pub struct Runtime {
    pub(crate) engine: Engine,
    loader: Arc<Loader>,
    programs: Mutex<Programs>,
    pub(crate) places: Arc<Places>,
    memory: Arc<NodeBudget>,
    pub(crate) default_memory_limit: u64,
    dense: bool,
    /// Dropped, it ends all containers: each is dropped when its turn is over.
    pub(crate) executor: Executor,
}

/// Programs that are being loaded, or were.
#[derive(Default)]
struct Programs {
    /// By digest and tenant: each waits in their own part of the line of compiles. Weak, so that work nobody waits for
    /// any more is dropped: unpolled it would keep its place in that line for ever.
    loading: BTreeMap<(String, String), WeakLoading>,
    /// By digest.
    loaded: BTreeMap<String, Weak<Program>>,
}

type Load = BoxFuture<'static, Result<Arc<Program>, PrepareError>>;
type Loading = Shared<Load>;
type WeakLoading = WeakShared<Load>;

impl Runtime {
    /// Sets up engine, threads and cache.
    ///
    /// # Errors
    /// If the cache folder is not usable or not ours alone, or the host cannot give the address space or threads.
    pub fn build(config: Config) -> Result<Arc<Runtime>, RuntimeError> {
        Runtime::build_with(config, Guards::of_kernel())
    }

    /// The same as on a kernel that has these guards for stacks.
    pub(crate) fn build_with(config: Config, guards: Guards) -> Result<Arc<Runtime>, RuntimeError> {
        let dense = config.density.is_dense(config.max_containers, guards);
        let settings = Settings { wasi_p3: config.wasi_p3, dense };
        let (engine, capacity) = engine::build(config.max_containers, settings, guards)?;
        let memory = NodeBudget::new(host_memory());
        let programs = loader::Config {
            memory: Arc::clone(&memory),
            cache_dir: config.cache_dir,
            cache_size: config.cache_size,
            compiler: config.compiler,
            compile_time: config.compile_time,
            threads: config.threads,
        };
        let loader = Arc::new(Loader::build(&engine, settings, programs)?);
        // Weak: the clock must not keep the engine, and with it its address space.
        let clock = engine.weak();
        let tick = move || clock.upgrade().iter().for_each(Engine::increment_epoch);
        let executor = threads::guests(config.threads, tick).map_err(RuntimeError::Threads)?;
        Ok(Arc::new(Runtime {
            engine,
            loader,
            programs: Mutex::default(),
            places: Places::new(capacity),
            memory,
            default_memory_limit: config.default_memory_limit,
            dense,
            executor,
        }))
    }

    /// The memory that compilers borrow: what they have is what containers leave that draw from it. It is the host's until
    /// somebody sets another limit.
    pub fn memory(&self) -> &Arc<NodeBudget> {
        &self.memory
    }

    /// Makes a program of the module in the file `wasm`, whose digest is `module_digest`: checked, compiled
    /// or taken from the cache. Callers with the same digest share the work. A few modules are compiled at a time, and
    /// those of one `tenant` (a namespace) do not keep others from theirs.
    ///
    /// # Errors
    /// If the module cannot run here; [`PrepareError::UnknownImport`] names what it wants.
    pub async fn prepare(
        &self,
        module_digest: &str,
        wasm: &Path,
        tenant: &str,
    ) -> Result<Arc<Program>, PrepareError> {
        self.prepare_from(module_digest, tenant, || Source::File(wasm.to_owned())).await
    }

    /// The same for a module in memory, one of the node's own.
    ///
    /// # Errors
    /// As [`Runtime::prepare`].
    pub async fn prepare_bytes(
        &self,
        module_digest: &str,
        wasm: &Bytes,
    ) -> Result<Arc<Program>, PrepareError> {
        self.prepare_from(module_digest, NODE, || Source::Memory(wasm.clone())).await
    }

    /// As [`Runtime::prepare`], for a module in memory that a guest may have written: what is compiled is not kept on
    /// disk.
    ///
    /// # Errors
    /// As [`Runtime::prepare`].
    pub async fn prepare_guest(
        &self,
        module_digest: &str,
        wasm: &Bytes,
        tenant: &str,
    ) -> Result<Arc<Program>, PrepareError> {
        self.prepare_from(module_digest, tenant, || Source::Guest(wasm.clone())).await
    }

    async fn prepare_from(
        &self,
        module_digest: &str,
        tenant: &str,
        source: impl FnOnce() -> Source,
    ) -> Result<Arc<Program>, PrepareError> {
        let key = (module_digest.to_owned(), tenant.to_owned());
        let loading = {
            let mut programs = self.programs.lock();
            if let Some(program) = programs.loaded.get(module_digest).and_then(Weak::upgrade) {
                return Ok(program);
            }
            let loading = programs.loading.get(&key).and_then(WeakLoading::upgrade);
            loading.unwrap_or_else(|| {
                let (loader, source) = (Arc::clone(&self.loader), source());
                let (digest, tenant) = key.clone();
                let loading = async move { loader.load(digest, source, &tenant).await }.boxed().shared();
                if let Some(weak) = loading.downgrade() {
                    programs.loading.insert(key.clone(), weak);
                }
                loading
            })
        };
        let result = loading.clone().await;
        self.loaded(key, &loading, result)
    }

    /// Starts a container. It runs until it ends by itself or is killed, whether anybody holds its handle or not.
    ///
    /// # Errors
    /// [`StartError::Exhausted`] if too many are running, [`StartError::Listen`] if a port is taken,
    /// [`StartError::NotCommand`] for a handler.
    pub fn start(&self, program: Arc<Program>, spec: ContainerSpec) -> Result<Container, StartError> {
        self.start_in(None, program, spec)
    }

    /// The same in a place that the container has waited for, if it has.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub fn start_in(
        &self,
        place: Option<Place>,
        program: Arc<Program>,
        spec: ContainerSpec,
    ) -> Result<Container, StartError> {
        let share = self.executor.share(spec.cpu);
        self.run(place, program, spec, share)
    }

    /// Enters the line for a place, after a start that failed as [`StartError::Exhausted`]: whoever matters more comes
    /// first, of those who matter alike the one that came first. `None` if this node never has as many places as the
    /// program needs.
    pub fn queue(&self, program: &Program, priority: i32) -> Option<Queued> {
        self.places.queue(program.places(), priority)
    }

    /// Starts a container that is due its CPU time together with `other`, whatever its own spec says about it: a
    /// new instance beside a container that runs.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub fn start_beside(
        &self,
        other: &Container,
        program: Arc<Program>,
        spec: ContainerSpec,
    ) -> Result<Container, StartError> {
        self.run(None, program, spec, other.control.share.beside())
    }

    fn run(
        &self,
        place: Option<Place>,
        program: Arc<Program>,
        spec: ContainerSpec,
        share: Arc<Share>,
    ) -> Result<Container, StartError> {
        if program.kind() != ProgramKind::Command {
            return Err(StartError::NotCommand);
        }
        let needed = program.places();
        let place = match place.filter(|place| place.is_for(needed, &self.places)) {
            Some(place) => place,
            None => self.places.take(needed)?,
        };
        let ports = if program.accepts() { &spec.listen[..] } else { &[] };
        let listeners = Listeners::open(&spec.network, ports)?;
        let memory_limit = spec.memory_limit.unwrap_or(self.default_memory_limit).min(MEMORY_MAX);
        let control = Control::new(spec.name.clone(), &spec.stdin, share, memory_limit).taking(needed);
        let control = Arc::new(control);
        let spec = Box::new((spec, listeners));
        let run = run(self.engine.clone(), program, spec, Arc::clone(&control), place);
        self.executor.spawn(&control.share, run, control.ending());
        Ok(Container { control })
    }

    /// Gives a container another memory limit while it runs, `None` for the node's default; false if it cannot have
    /// it: it holds more, or its memory lies where it cannot grow that far.
    pub fn resize_memory(&self, container: &Container, limit: Option<u64>) -> bool {
        let limit = limit.unwrap_or(self.default_memory_limit).min(MEMORY_MAX);
        let control = &container.control;
        // Memories of the dense class never move, and have room up to the limit that they were made with.
        let room = !self.dense || limit <= control.share.memory();
        room && control.set_memory_limit(limit)
    }

    /// How many containers can run at once here.
    pub fn capacity(&self) -> u32 {
        self.places.capacity()
    }

    /// Memory limit in bytes of a container that has none of its own.
    pub fn default_memory_limit(&self) -> u64 {
        self.default_memory_limit
    }

    /// How many containers run now.
    pub fn running(&self) -> u32 {
        self.places.running()
    }

    /// How many of its places for containers are free. An ordinary container takes one.
    pub fn free(&self) -> u32 {
        self.places.free()
    }

    /// How many should be, so that there is room for what is started beside containers.
    pub fn reserve(&self) -> u32 {
        self.places.reserve()
    }

    #[cfg(test)]
    pub(crate) fn engine(&self) -> wasmtime::EngineWeak {
        self.engine.weak()
    }

    /// Replaces the work that was shared by its result. There is one program of a digest, whoever was first.
    fn loaded(
        &self,
        key: (String, String),
        loading: &Loading,
        result: Result<Arc<Program>, PrepareError>,
    ) -> Result<Arc<Program>, PrepareError> {
        let mut programs = self.programs.lock();
        let mine = |known: Loading| known.ptr_eq(loading);
        if programs.loading.get(&key).and_then(WeakLoading::upgrade).is_some_and(mine) {
            programs.loading.remove(&key);
            programs.loading.retain(|_, loading| loading.upgrade().is_some());
            programs.loaded.retain(|_, program| program.strong_count() > 0);
        }
        let program = result?;
        if let Some(known) = programs.loaded.get(&key.0).and_then(Weak::upgrade) {
            return Ok(known);
        }
        programs.loaded.insert(key.0, Arc::downgrade(&program));
        Ok(program)
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// Bytes of memory that the host has; none if nobody knows.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|total| total.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}
