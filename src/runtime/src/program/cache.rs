//! Compiled code on disk.
//!
//! What is in this folder is run as machine code, so it is ours alone (0700), and each entry is checked against
//! its own checksum before it is loaded; beside the checksum stands how the program is entered. An entry's name says which module it is and which engine made it; a
//! damaged entry, or one of another engine, is compiled anew. Losing the folder costs only time, so nothing
//! is synced.

use std::fs::{self, DirBuilder, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::inspect::Kind;
use super::wrap;
use crate::error::RuntimeError;

/// The folder of compiled code.
pub(super) struct Cache {
    dir: PathBuf,
    /// What made the code: engine, settings, processor, our own wrapping.
    maker: u64,
    next_temporary: AtomicU64,
}

impl Cache {
    /// # Errors
    /// If the folder cannot be made, or belongs to somebody else.
    pub(super) fn open(dir: PathBuf, engine: &Engine) -> Result<Cache, RuntimeError> {
        let prepare = || -> io::Result<bool> {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let owner = fs::metadata(&dir)?.uid();
            if owner != rustix::process::geteuid().as_raw() {
                return Ok(false);
            }
            fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
            Ok(true)
        };
        match prepare() {
            Ok(true) => {}
            Ok(false) => return Err(RuntimeError::CacheOwner { path: dir }),
            Err(source) => return Err(RuntimeError::CacheDir { path: dir, source }),
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        wrap::VERSION.hash(&mut hasher);
        Ok(Cache { dir, maker: hasher.finish(), next_temporary: AtomicU64::new(0) })
    }

    /// The module's code, and how it is entered, if it is here and whole.
    pub(super) fn load(&self, engine: &Engine, digest: &str) -> Option<(Kind, Component)> {
        let entry = self.entry(digest);
        let facts = fs::read_to_string(sum_of(&entry)).ok()?;
        let (sum, kind) = facts.trim().split_once(' ')?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        let code = fs::read(&entry).ok()?;
        if checksum(&code) != sum {
            tracing::warn!(digest, "compiled code is damaged and will be made anew");
            return None;
        }
        drop(code);
        match map_code(engine, &entry) {
            Ok(component) => Some((kind, component)),
            Err(error) => {
                tracing::warn!(digest, %error, "compiled code cannot be loaded and will be made anew");
                None
            }
        }
    }

    /// Keeps new code and loads it. A full disk is no reason not to run: then it is loaded from memory.
    ///
    /// # Errors
    /// If the engine refuses code that it just made.
    pub(super) fn store(
        &self,
        engine: &Engine,
        digest: &str,
        kind: Kind,
        code: &[u8],
    ) -> wasmtime::Result<Component> {
        let entry = self.entry(digest);
        let facts = format!("{} {}", checksum(code), kind.name());
        let kept = self.replace(&entry, code).and_then(|()| self.replace(&sum_of(&entry), facts.as_bytes()));
        match kept {
            Ok(()) => map_code(engine, &entry),
            Err(error) => {
                tracing::warn!(digest, %error, "compiled code cannot be kept");
                copy_code(engine, code)
            }
        }
    }

    /// Where a module's code is: named by the hexadecimal part of its digest, and by who made it.
    fn entry(&self, digest: &str) -> PathBuf {
        let hex = digest.rsplit(':').next().unwrap_or(digest);
        let plain = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = if plain { hex.to_owned() } else { checksum(digest.as_bytes()) };
        self.dir.join(format!("{name}-{:016x}.cwasm", self.maker))
    }

    /// Writes a file beside, then puts it in place: readers see the old one or the new one, and code that is
    /// mapped from the old one stays.
    fn replace(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{}-{number}.tmp", std::process::id()));
        let result = fs::write(&temporary, data).and_then(|()| fs::rename(&temporary, path));
        if result.is_err() {
            let _ = fs::remove_file(&temporary); // may not exist; the first error is the one to tell
        }
        result
    }
}

fn sum_of(entry: &Path) -> PathBuf {
    entry.with_extension("sum")
}

fn checksum(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Maps an entry into memory, shared with whoever else maps it.
#[expect(unsafe_code, reason = "loading compiled code is what the cache is for")]
fn map_code(engine: &Engine, entry: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by `Cache::store` with the output of `precompile_component`: it lies in a
    // folder that only this user can write to, and either was written a moment ago or matched its checksum.
    // It is never changed in place (`Cache::replace` renames), so the mapping stays what was checked. Wasmtime
    // itself refuses code of another engine version or other settings.
    unsafe { Component::deserialize_file(engine, entry) }
}

/// Loads code that could not be kept, or is not to be. `code` must be what `precompile_component` of this engine
/// has just made.
#[expect(unsafe_code, reason = "loading compiled code is what the cache is for")]
pub(super) fn copy_code(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` is the output of `precompile_component` of this very engine, and never left this process.
    unsafe { Component::deserialize(engine, code) }
}
