//! Makes programs of modules: from the cache, or by a compiler, a few at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_budget::NodeBudget;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use rayon::ThreadPool;
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::oneshot;
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as Command3Pre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::cache::{self, Cache, Loaded, Pin, Temporary};
use super::compile::{Facts, compile};
use super::costly::Costly;
use super::inspect::Kind;
use super::line::{self, Grant, Line, Need};
use super::process::{Input, Process, need};
use super::worker::Answer;
use super::{Entry, Program};
use crate::engine::Settings;
use crate::error::{PrepareError, RuntimeError};
use crate::limits::{MEMORIES, MODULE_BYTES, TABLES};
use crate::state::State;
use crate::{lifecycle, linker, places, preview1, threads};

/// Modules compiled at the same time. A large interpreter takes a few hundred megabytes while it is compiled;
/// each uses all compiler threads, so more at once would not be faster.
const COMPILES: usize = 3;

/// Where modules are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// In a process of its own, with limits on its time and memory: this binary is run with `compile` and an order
    /// as its arguments, and has to call [`crate::compile_process`] with the latter.
    Process(PathBuf),
    /// In this process, without limits: for modules that are trusted.
    InProcess,
}

/// How programs are made.
pub(crate) struct Config {
    pub(crate) cache_dir: PathBuf,
    pub(crate) cache_size: Option<u64>,
    pub(crate) compiler: Compiler,
    pub(crate) compile_time: Duration,
    pub(crate) threads: usize,
    /// What the compilers' memory is lent from.
    pub(crate) memory: Arc<NodeBudget>,
}

/// Where a module comes from.
pub(crate) enum Source {
    File(PathBuf),
    Memory(Bytes),
    /// Written by a guest: its code is kept for as long as it runs, because guests could fill the disk with such.
    Guest(Bytes),
}

/// Makes programs of modules.
pub(crate) struct Loader {
    shop: Arc<Shop>,
    line: Line,
    /// What is being compiled now, by its name in the cache: who asks for the same waits for it, too. Weak, so that it
    /// ends when nobody does any more.
    making: Mutex<BTreeMap<String, WeakMake>>,
}

type Making = BoxFuture<'static, Result<Arc<Program>, PrepareError>>;
type Make = Shared<Making>;
type WeakMake = WeakShared<Making>;

/// What it takes to make programs.
struct Shop {
    engine: Engine,
    settings: Settings,
    /// What made the code in the cache.
    maker: u64,
    linker: Linker<State>,
    /// What core modules are linked to.
    modules: wasmtime::Linker<State>,
    cache: Cache,
    place: Place,
    costly: Arc<Costly>,
}

/// Where the compiler is.
enum Place {
    Process(Process),
    Here(ThreadPool),
}

/// A module that is to be compiled.
struct Order {
    name: String,
    source: Source,
}

/// Code that a compiler has written.
enum Written {
    File(Temporary),
    Memory(File),
}

impl Loader {
    /// # Errors
    /// If the cache folder is not usable, or threads cannot be started.
    pub(crate) fn build(engine: &Engine, settings: Settings, config: Config) -> Result<Loader, RuntimeError> {
        let failed = |error: wasmtime::Error| RuntimeError::Engine {
            containers: 0,
            source: Arc::from(error.into_boxed_dyn_error()),
        };
        let linker = linker::build(engine, settings).map_err(failed)?;
        let mut modules = wasmtime::Linker::new(engine);
        preview1::add_to_linker(&mut modules).map_err(failed)?;
        lifecycle::add_to_modules(&mut modules).map_err(failed)?;
        let place = match config.compiler {
            Compiler::Process(binary) => {
                Place::Process(Process::new(binary, config.threads, config.compile_time))
            }
            Compiler::InProcess => {
                Place::Here(threads::compilers(config.threads).map_err(RuntimeError::Threads)?)
            }
        };
        let seconds = match &place {
            Place::Process(process) => process.seconds(),
            Place::Here(_) => 0,
        };
        let cache = Cache::open(config.cache_dir.clone(), config.cache_size)?;
        let shop = Shop {
            engine: engine.clone(),
            settings,
            maker: cache::maker(engine),
            linker,
            modules,
            cache,
            place,
            costly: Arc::new(Costly::open(&config.cache_dir, seconds)),
        };
        Ok(Loader {
            shop: Arc::new(shop),
            line: Line::new(COMPILES, config.memory),
            making: Mutex::default(),
        })
    }

    /// Loads what was compiled before, or has it compiled for this tenant, as long as somebody waits for it. Who was
    /// compiled before does not wait for who takes long to.
    pub(crate) async fn load(
        &self,
        digest: String,
        source: Source,
        tenant: &str,
    ) -> Result<Arc<Program>, PrepareError> {
        let name = Cache::name(&digest, self.shop.maker);
        if let Some(program) = self.known(&digest, &name).await? {
            return program;
        }
        self.shop.costly.may_try(&name)?;
        let place = self.line.enter(tenant, self.shop.need(&source)?).await;
        self.shop.costly.may_try(&name)?;
        // Somebody else may have been faster.
        if let Some(program) = self.known(&digest, &name).await? {
            return program;
        }
        self.make(digest, Order { name, source }, place).await
    }

    /// The program, if it was compiled before.
    async fn known(
        &self,
        digest: &str,
        name: &str,
    ) -> Result<Option<Result<Arc<Program>, PrepareError>>, PrepareError> {
        let (shop, digest, name) = (Arc::clone(&self.shop), digest.to_owned(), name.to_owned());
        blocking(move || shop.load(digest, &name)).await
    }

    /// Has a module compiled, unless it is being compiled already; then the place is given back.
    fn make(&self, digest: String, order: Order, place: line::Place) -> Make {
        let mut making = self.making.lock();
        making.retain(|_, made| made.upgrade().is_some_and(|made| made.peek().is_none()));
        if let Some(made) = making.get(&order.name).and_then(WeakMake::upgrade) {
            return made;
        }
        let (shop, name) = (Arc::clone(&self.shop), order.name.clone());
        let make = async move {
            let name = order.name.clone();
            let made = Arc::clone(&shop).make(digest, order, place.grant()).await;
            if let Err(PrepareError::TooCostly { limit }) = &made {
                shop.costly.remember(name, limit);
                shop.costly.save();
            }
            drop(place);
            made
        };
        let made = match &self.shop.place {
            Place::Process(_) => make.boxed(),
            // The threads go on with it, so that it counts until it is done.
            Place::Here(_) => {
                let task = tokio::spawn(make);
                async move { task.await.map_err(|_| PrepareError::Ended)? }.boxed()
            }
        };
        let made = made.shared();
        making.extend(made.downgrade().map(|weak| (name, weak)));
        made
    }
}

impl Shop {
    /// The program, if it was compiled before.
    fn load(&self, digest: String, name: &str) -> Option<Result<Arc<Program>, PrepareError>> {
        let (facts, loaded, pin) = self.cache.load(&self.engine, name)?;
        Some(self.link(digest, &facts, &loaded, Some(pin)))
    }

    /// The memory that its compile needs.
    fn need(&self, source: &Source) -> Result<Need, PrepareError> {
        match &self.place {
            Place::Process(_) => open(source).map(|(_, bytes)| need(bytes)),
            Place::Here(_) => Ok(Need::NONE),
        }
    }

    async fn make(
        self: Arc<Shop>,
        digest: String,
        order: Order,
        grant: Option<&Grant>,
    ) -> Result<Arc<Program>, PrepareError> {
        let grant = grant.ok_or(PrepareError::NoMemory)?;
        let keep = !matches!(order.source, Source::Guest(_));
        let name = order.name;
        let (facts, code) = match &self.place {
            Place::Process(process) => self.compile_apart(process, order.source, grant).await?,
            Place::Here(_) => Arc::clone(&self).compile_here(order.source).await?,
        };
        blocking(move || {
            let (loaded, pin) = self.loaded(&name, &facts, &code, keep)?;
            self.link(digest, &facts, &loaded, pin)
        })
        .await?
    }

    /// Has a module compiled in a process of its own. On a full disk the code is written into memory.
    async fn compile_apart(
        &self,
        process: &Process,
        source: Source,
        grant: &Grant,
    ) -> Result<(Facts, Written), PrepareError> {
        let broken = |error: std::io::Error| PrepareError::Compiler(Arc::new(error));
        if let Ok(temporary) = self.cache.temporary() {
            let (input, bytes) = open(&source)?;
            let code = temporary.file().try_clone().map_err(broken)?;
            match process.compile(self.settings, input, bytes, code, grant).await? {
                Answer::NotWritten(error) => tracing::warn!(error, "compiled code cannot be kept"),
                answer => return Ok((answer.facts()?, Written::File(temporary))),
            }
        }
        let (input, bytes) = open(&source)?;
        let memory = memfd_create("code", MemfdFlags::CLOEXEC).map_err(|error| broken(error.into()))?;
        let memory = File::from(memory);
        let code = memory.try_clone().map_err(broken)?;
        let facts = process.compile(self.settings, input, bytes, code, grant).await?.facts()?;
        Ok((facts, Written::Memory(memory)))
    }

    /// Compiles a module on the compiler's threads.
    async fn compile_here(self: Arc<Shop>, source: Source) -> Result<(Facts, Written), PrepareError> {
        let Place::Here(pool) = &self.place else { return Err(PrepareError::Ended) };
        let (answer, result) = oneshot::channel();
        let shop = Arc::clone(&self);
        pool.spawn(move || {
            // A panic on a compiler's thread would end the process.
            let made = catch_unwind(AssertUnwindSafe(|| shop.compile_now(&source))).unwrap_or_else(|_| {
                Err(PrepareError::Compile { message: "the compiler failed on this module".into() })
            });
            let _ = answer.send(made); // nobody waits any more
        });
        result.await.map_err(|_| PrepareError::Ended)?
    }

    fn compile_now(&self, source: &Source) -> Result<(Facts, Written), PrepareError> {
        let (input, bytes) = open(source)?;
        let module = match input {
            Input::Memory(module) => module,
            Input::File(mut file) => {
                let mut module = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
                let failed = |source| PrepareError::Compiler(Arc::new(source));
                file.read_to_end(&mut module).map_err(failed)?;
                module.into()
            }
        };
        let code = compile(&self.engine, self.settings, &module)?;
        let write = |mut file: &File| file.write_all(&code.bytes);
        let kept = self.cache.temporary().and_then(|kept| write(kept.file()).map(|()| kept));
        let written = kept.map(Written::File).or_else(|error| {
            tracing::warn!(%error, "compiled code cannot be kept");
            let memory = File::from(memfd_create("code", MemfdFlags::CLOEXEC)?);
            write(&memory).map(|()| Written::Memory(memory))
        });
        Ok((code.facts, written.map_err(|error| PrepareError::Compiler(Arc::new(error)))?))
    }

    /// Code as it was written, loaded, and kept if it is to be.
    fn loaded(
        &self,
        name: &str,
        facts: &Facts,
        code: &Written,
        keep: bool,
    ) -> Result<(Loaded, Option<Pin>), PrepareError> {
        let failed = |error: wasmtime::Error| PrepareError::Compile { message: format!("{error:#}") };
        let mut file = match code {
            Written::File(code) if keep => match self.cache.store(&self.engine, name, facts, code) {
                Ok((loaded, pin)) => return Ok((loaded, Some(pin))),
                Err(error) => {
                    tracing::warn!(name, %error, "compiled code cannot be kept");
                    code.file()
                }
            },
            Written::File(code) => code.file(),
            Written::Memory(code) => code,
        };
        let mut bytes = Vec::new();
        let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        read.map_err(|error| failed(error.into()))?;
        cache::copy_code(&self.engine, &bytes).map(|loaded| (loaded, None)).map_err(failed)
    }

    fn link(
        &self,
        digest: String,
        facts: &Facts,
        loaded: &Loaded,
        pin: Option<Pin>,
    ) -> Result<Arc<Program>, PrepareError> {
        let link = |error: wasmtime::Error| PrepareError::Link { message: format!("{error:#}") };
        let kind = facts.kind;
        let entry = match (kind, loaded) {
            (Kind::Module, Loaded::Module(module)) => {
                self.modules.instantiate_pre(module).map(Entry::Module).map_err(link)?
            }
            (Kind::Module, Loaded::Component(_)) | (_, Loaded::Module(_)) => {
                return Err(PrepareError::Link { message: "the compiled code is of another kind".into() });
            }
            (_, Loaded::Component(component)) => {
                let instance = self.linker.instantiate_pre(component).map_err(link)?;
                let entry = match kind {
                    Kind::Module => unreachable!("matched above"),
                    Kind::Command => CommandPre::new(instance).map(Entry::Command),
                    Kind::Handler => ProxyPre::new(instance).map(Entry::Handler),
                    Kind::Command3 => Command3Pre::new(instance).map(Entry::Command3),
                    Kind::Handler3 => ServicePre::new(instance).map(Entry::Handler3),
                };
                entry.map_err(link)?
            }
        };
        let asks_where = match loaded {
            Loaded::Module(_) => false,
            Loaded::Component(component) => asks_where(component),
        };
        let needs = match loaded {
            Loaded::Module(module) => Some(module.resources_required()),
            Loaded::Component(component) => component.resources_required(),
        };
        let (memories, tables) =
            needs.map_or((MEMORIES, TABLES), |needs| (needs.num_memories, needs.num_tables));
        // A heap of objects lies in a memory of its own.
        let places = places::needed(memories.saturating_add(u32::from(facts.heap)), tables);
        let (kind, context, heap) = (kind.program_kind(), facts.context, facts.heap);
        let moved = facts.moved.clone();
        Ok(Arc::new(Program { digest, kind, entry, places, context, heap, asks_where, moved, _pin: pin }))
    }
}

/// Whether a component imports the function that says where it is to work. Linkers leave out those that nothing calls.
fn asks_where(component: &Component) -> bool {
    let (engine, type_) = (component.engine(), component.component_type());
    type_.imports(engine).any(|(name, import)| match import.ty {
        ComponentItem::ComponentInstance(interface) => {
            name.starts_with("wasi:cli/environment@")
                && interface
                    .exports(engine)
                    .any(|(function, _)| matches!(function, "initial-cwd" | "get-initial-cwd"))
        }
        _ => false,
    })
}

/// Opens a module, and says how many bytes it has.
fn open(source: &Source) -> Result<(Input, u64), PrepareError> {
    let (input, bytes) = match source {
        Source::Memory(bytes) | Source::Guest(bytes) => (Input::Memory(bytes.clone()), bytes.len() as u64),
        Source::File(path) => {
            let failed = |source| PrepareError::Read { path: path.clone(), source: Arc::new(source) };
            let file = File::open(path).map_err(failed)?;
            let bytes = file.metadata().map_err(failed)?.len();
            (Input::File(file), bytes)
        }
    };
    if bytes > MODULE_BYTES {
        Err(PrepareError::TooLarge { limit: MODULE_BYTES })
    } else {
        Ok((input, bytes))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PrepareError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| PrepareError::Ended)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::costly::{COSTLY, COSTLY_FOR};
    use super::*;
    use crate::engine;

    fn loader() -> (Loader, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { wasi_p3: false, dense: false };
        let (engine, _) = engine::build(1, settings, engine::Guards::of_kernel()).unwrap();
        let config = Config {
            cache_dir: dir.path().join("compiled"),
            cache_size: None,
            compiler: Compiler::InProcess,
            compile_time: Duration::from_secs(1),
            threads: 1,
            memory: NodeBudget::new(0),
        };
        (Loader::build(&engine, settings, config).unwrap(), dir)
    }

    #[tokio::test]
    async fn what_was_compiled_before_does_not_wait_for_the_compiler() {
        let (loader, dir) = loader();
        let path = dir.path().join("module.wasm");
        let text = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
        std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
        let load = || loader.load("sha256:x".into(), Source::File(path.clone()), "tenant");
        load().await.unwrap();
        let mut all = Vec::new();
        for number in 0..COMPILES {
            all.push(loader.line.enter(&number.to_string(), Need::NONE).await);
        }
        let loaded = tokio::time::timeout(Duration::from_secs(60), load()).await;
        loaded.expect("nobody is in its way").unwrap();
    }

    /// A module that took too much is refused at once, and later tried again.
    #[tokio::test(start_paused = true)]
    async fn what_was_too_costly_is_refused_for_a_while() {
        let (loader, _dir) = loader();
        let costly = &loader.shop.costly;
        for number in 0..COSTLY + 10 {
            costly.remember(number.to_string(), "1s");
        }
        assert!(costly.may_try("0").is_err());
        assert!(costly.may_try("another").is_ok());
        assert_eq!(costly.len(), COSTLY);
        tokio::time::advance(COSTLY_FOR).await;
        assert!(costly.may_try("0").is_ok());
        costly.remember("1".into(), "1s");
        assert_eq!(costly.len(), 1);
    }
}
