//! The runtime: programs in, containers out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use wasmtime::Engine;

use crate::container::{Container, ContainerSpec};
use crate::engine::{Density, Settings};
use crate::error::{PrepareError, RuntimeError, StartError};
use crate::executor::{Executor, Share};
use crate::limits::MEMORY_MAX;
use crate::preview1::Listeners;
use crate::program::{Compiler, Loader, Program, ProgramKind, Source, loader};
use crate::run::{Control, Place, run};
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
    programs: Mutex<BTreeMap<String, Prepared>>,
    pub(crate) running: Arc<AtomicU32>,
    pub(crate) capacity: u32,
    pub(crate) default_memory_limit: u64,
    dense: bool,
    /// Dropped, it ends all containers: each is dropped when its turn is over.
    pub(crate) executor: Executor,
}

/// A program that is being loaded, or was.
enum Prepared {
    /// Weak, so that work nobody waits for any more is dropped: unpolled it would keep its place in the line of
    /// compiles for ever.
    Loading(WeakLoading),
    Loaded(Weak<Program>),
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
        let dense = config.density.is_dense(config.max_containers);
        let settings = Settings { wasi_p3: config.wasi_p3, dense };
        let (engine, capacity) = engine::build(config.max_containers, settings)?;
        let programs = loader::Config {
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
            programs: Mutex::new(BTreeMap::new()),
            running: Arc::new(AtomicU32::new(0)),
            capacity,
            default_memory_limit: config.default_memory_limit,
            dense,
            executor,
        }))
    }

    /// Makes a program of the module in the file `wasm`, whose digest is `module_digest`: checked, compiled
    /// or taken from the cache. Callers with the same digest share the work.
    ///
    /// # Errors
    /// If the module cannot run here; [`PrepareError::UnknownImport`] names what it wants.
    pub async fn prepare(&self, module_digest: &str, wasm: &Path) -> Result<Arc<Program>, PrepareError> {
        self.prepare_from(module_digest, || Source::File(wasm.to_owned())).await
    }

    /// The same for a module in memory.
    ///
    /// # Errors
    /// As [`Runtime::prepare`].
    pub async fn prepare_bytes(
        &self,
        module_digest: &str,
        wasm: &Bytes,
    ) -> Result<Arc<Program>, PrepareError> {
        self.prepare_from(module_digest, || Source::Memory(wasm.clone())).await
    }

    /// As [`Runtime::prepare_bytes`], for a module that a guest may have written: what is compiled is not kept on
    /// disk.
    ///
    /// # Errors
    /// As [`Runtime::prepare`].
    pub async fn prepare_guest(
        &self,
        module_digest: &str,
        wasm: &Bytes,
    ) -> Result<Arc<Program>, PrepareError> {
        self.prepare_from(module_digest, || Source::Guest(wasm.clone())).await
    }

    async fn prepare_from(
        &self,
        module_digest: &str,
        source: impl FnOnce() -> Source,
    ) -> Result<Arc<Program>, PrepareError> {
        let loading = {
            let mut programs = self.programs.lock();
            let loading = match programs.get(module_digest) {
                Some(Prepared::Loading(loading)) => loading.upgrade(),
                Some(Prepared::Loaded(program)) => match program.upgrade() {
                    Some(program) => return Ok(program),
                    None => None,
                },
                None => None,
            };
            loading.unwrap_or_else(|| {
                let loader = Arc::clone(&self.loader);
                let (digest, source) = (module_digest.to_owned(), source());
                let loading = async move { loader.load(digest, source).await }.boxed().shared();
                if let Some(weak) = loading.downgrade() {
                    programs.insert(module_digest.to_owned(), Prepared::Loading(weak));
                }
                loading
            })
        };
        let result = loading.clone().await;
        self.loaded(module_digest, &loading, &result);
        result
    }

    /// Starts a container. It runs until it ends by itself or is killed, whether anybody holds its handle or not.
    ///
    /// # Errors
    /// [`StartError::Exhausted`] if too many are running, [`StartError::Listen`] if a port is taken,
    /// [`StartError::NotCommand`] for a handler.
    pub fn start(&self, program: Arc<Program>, spec: ContainerSpec) -> Result<Container, StartError> {
        let share = self.executor.share(spec.cpu);
        self.run(program, spec, share)
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
        self.run(program, spec, other.control.share.beside())
    }

    fn run(
        &self,
        program: Arc<Program>,
        spec: ContainerSpec,
        share: Arc<Share>,
    ) -> Result<Container, StartError> {
        if program.kind() != ProgramKind::Command {
            return Err(StartError::NotCommand);
        }
        let place = Place::take(&self.running, self.capacity)?;
        let ports = if program.accepts() { &spec.listen[..] } else { &[] };
        let listeners = Listeners::open(&spec.network, ports)?;
        let memory_limit = spec.memory_limit.unwrap_or(self.default_memory_limit).min(MEMORY_MAX);
        let control = Arc::new(Control::new(spec.name.clone(), &spec.stdin, share, memory_limit));
        let run = run(self.engine.clone(), program, (spec, listeners), Arc::clone(&control), place);
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
        self.capacity
    }

    /// Memory limit in bytes of a container that has none of its own.
    pub fn default_memory_limit(&self) -> u64 {
        self.default_memory_limit
    }

    /// How many containers run now.
    pub fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn engine(&self) -> wasmtime::EngineWeak {
        self.engine.weak()
    }

    /// Replaces the work that was shared by its result, once.
    fn loaded(&self, digest: &str, loading: &Loading, result: &Result<Arc<Program>, PrepareError>) {
        let mut programs = self.programs.lock();
        match programs.get(digest) {
            Some(Prepared::Loading(current))
                if current.upgrade().is_some_and(|current| current.ptr_eq(loading)) => {}
            _ => return,
        }
        programs.retain(|_, prepared| match prepared {
            Prepared::Loading(loading) => loading.upgrade().is_some(),
            Prepared::Loaded(program) => program.strong_count() > 0,
        });
        match result {
            Ok(program) => {
                programs.insert(digest.to_owned(), Prepared::Loaded(Arc::downgrade(program)));
            }
            Err(_) => {
                programs.remove(digest);
            }
        }
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}
