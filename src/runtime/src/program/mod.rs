//! Programs: modules that were found fit, compiled, and linked to what a node offers.

mod cache;
mod inspect;
mod wrap;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rayon::ThreadPool;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, oneshot};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi::p2::bindings::CommandPre;

use self::cache::Cache;
use self::inspect::Kind;
use crate::error::{PrepareError, RuntimeError};
use crate::limits::MODULE_BYTES;
use crate::linker::{self, Offers};
use crate::state::State;

/// Modules compiled at the same time. A large interpreter takes a few hundred megabytes while it is compiled;
/// each uses all compiler threads, so more at once would not be faster.
const COMPILES: usize = 3;

/// A module that is ready to run. It is shared by all containers that run it, and stays loaded as long as
/// somebody holds it.
pub struct Program {
    digest: String,
    kind: ProgramKind,
    entry: Entry,
}

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// It is started once and runs to its end.
    Command,
    /// It answers HTTP requests, each on its own.
    HttpHandler,
}

/// How a program is entered.
pub(crate) enum Entry {
    /// A command of WASI 0.2.
    Command(CommandPre<State>),
}

impl Program {
    /// The digest it was prepared under.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it is for.
    pub fn kind(&self) -> ProgramKind {
        self.kind
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Where a module comes from.
pub(crate) enum Source {
    File(PathBuf),
    Memory(Bytes),
    /// Written by a guest: its code is kept for as long as it runs, because guests could fill the disk with such.
    Guest(Bytes),
}

/// The digest of a module, as images name it.
#[must_use]
pub fn digest(module: &[u8]) -> String {
    Sha256::digest(module).iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
}

/// Makes programs of modules.
pub(crate) struct Loader {
    shop: Arc<Shop>,
    compilers: ThreadPool,
    permits: Arc<Semaphore>,
}

/// What the compiler's threads need.
struct Shop {
    engine: Engine,
    offers: Offers,
    linker: Linker<State>,
    cache: Cache,
}

impl Loader {
    /// # Errors
    /// If the cache folder is not usable.
    pub(crate) fn build(
        engine: &Engine,
        offers: Offers,
        cache_dir: PathBuf,
        compilers: ThreadPool,
    ) -> Result<Loader, RuntimeError> {
        let cache = Cache::open(cache_dir, engine)?;
        let linker = linker::build(engine).map_err(|error| RuntimeError::Engine {
            containers: 0,
            source: Arc::from(error.into_boxed_dyn_error()),
        })?;
        let shop = Arc::new(Shop { engine: engine.clone(), offers, linker, cache });
        Ok(Loader { shop, compilers, permits: Arc::new(Semaphore::new(COMPILES)) })
    }

    /// Loads what was compiled before, or compiles it on the compiler's threads. A compile that was begun is
    /// finished, and counts until then, also when nobody waits for it any more. Who was compiled before does not
    /// wait for who takes long to.
    pub(crate) async fn load(&self, digest: String, source: Source) -> Result<Arc<Program>, PrepareError> {
        let (shop, known) = (Arc::clone(&self.shop), digest.clone());
        let loaded = tokio::task::spawn_blocking(move || shop.load(known)).await;
        if let Some(program) = loaded.map_err(|_| PrepareError::Ended)? {
            return program;
        }
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| PrepareError::Ended)?;
        let (answer, result) = oneshot::channel();
        let shop = Arc::clone(&self.shop);
        self.compilers.spawn(move || {
            // A panic on a compiler's thread would end the process, and modules come from strangers.
            let made = catch_unwind(AssertUnwindSafe(|| shop.make(digest, source))).unwrap_or_else(|_| {
                Err(PrepareError::Compile { message: "the compiler failed on this module".into() })
            });
            drop(permit);
            let _ = answer.send(made); // nobody waits any more: the cache has it now
        });
        result.await.map_err(|_| PrepareError::Ended)?
    }
}

impl Shop {
    /// The program, if it was compiled before.
    fn load(&self, digest: String) -> Option<Result<Arc<Program>, PrepareError>> {
        let (kind, component) = self.cache.load(&self.engine, &digest)?;
        Some(self.link(digest, kind, &component))
    }

    fn make(&self, digest: String, source: Source) -> Result<Arc<Program>, PrepareError> {
        let keep = !matches!(source, Source::Guest(_));
        let bytes = match source {
            Source::File(path) => read(&path)?.into(),
            Source::Memory(bytes) | Source::Guest(bytes) if bytes.len() as u64 > MODULE_BYTES => {
                return Err(PrepareError::TooLarge { limit: MODULE_BYTES });
            }
            Source::Memory(bytes) | Source::Guest(bytes) => bytes,
        };
        let (kind, component) = self.compile(&digest, &bytes, keep)?;
        self.link(digest, kind, &component)
    }

    fn link(&self, digest: String, kind: Kind, component: &Component) -> Result<Arc<Program>, PrepareError> {
        let link = |error: wasmtime::Error| PrepareError::Link { message: format!("{error:#}") };
        let not_yet = |what: &str| PrepareError::NotProgram { message: format!("{what} are not run yet") };
        let entry = match kind {
            Kind::Module | Kind::Command => {
                let instance = self.linker.instantiate_pre(component).map_err(link)?;
                Entry::Command(CommandPre::new(instance).map_err(link)?)
            }
            Kind::Handler | Kind::Handler3 => return Err(not_yet("`wasi:http` handlers")),
            Kind::Command3 => return Err(not_yet("commands of WASI 0.3")),
        };
        Ok(Arc::new(Program { digest, kind: kind.program_kind(), entry }))
    }

    fn compile(&self, digest: &str, bytes: &[u8], keep: bool) -> Result<(Kind, Component), PrepareError> {
        let kind = inspect::inspect(bytes, self.offers)?;
        let component = match kind {
            Kind::Module => {
                let component = wrap::wrap(bytes)?;
                // A module with component types of its own may want more.
                inspect::check_component(&component, self.offers)?;
                Cow::Owned(component)
            }
            _ => Cow::Borrowed(bytes),
        };
        let failed = |error: wasmtime::Error| PrepareError::Compile { message: format!("{error:#}") };
        let code = self.engine.precompile_component(&component).map_err(failed)?;
        let loaded = match keep {
            true => self.cache.store(&self.engine, digest, kind, &code),
            false => cache::copy_code(&self.engine, &code),
        };
        loaded.map(|component| (kind, component)).map_err(failed)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PrepareError> {
    let failed = |source| PrepareError::Read { path: path.to_owned(), source: Arc::new(source) };
    if std::fs::metadata(path).map_err(failed)?.len() > MODULE_BYTES {
        return Err(PrepareError::TooLarge { limit: MODULE_BYTES });
    }
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{engine, threads};

    #[tokio::test]
    async fn what_was_compiled_before_does_not_wait_for_the_compiler() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, _) = engine::build(1, false).unwrap();
        let compilers = threads::compilers(1).unwrap();
        let loader =
            Loader::build(&engine, Offers { wasi_p3: false }, dir.path().join("compiled"), compilers)
                .unwrap();
        let path = dir.path().join("module.wasm");
        let text = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
        std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
        let load = || loader.load("sha256:x".into(), Source::File(path.clone()));
        load().await.unwrap();
        let _all = loader.permits.acquire_many(u32::try_from(COMPILES).unwrap()).await.unwrap();
        let loaded = tokio::time::timeout(Duration::from_secs(60), load()).await;
        loaded.expect("nobody is in its way").unwrap();
    }
}
