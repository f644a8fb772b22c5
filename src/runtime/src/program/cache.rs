//! Compiled code on disk.
//!
//! What is in this folder is run as machine code, so it is ours alone (0700), and each entry is checked against
//! its own checksum before it is first loaded by this process. An entry's name says which module it is and which
//! engine made it; a damaged entry, or one of another engine, is compiled anew. Losing the folder costs only
//! time, so nothing is synced.
//!
//! The folder has a size. What lies in it is in the order of its last use: beyond the size, and after
//! [`IDLE`], the oldest goes, but nothing that a program in memory came from.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use super::compile::Facts;
use crate::error::RuntimeError;

/// Seconds after which code that nobody used goes: a month. An image that was removed does not come back later
/// than that, and if it does, it is compiled.
const IDLE: u64 = 30 * 24 * 3600;

/// The size of the folder, as a divisor of its disk's, if nobody says otherwise.
const DISK_SHARE: u64 = 10;

/// The least it is then: a few large interpreters.
const SIZE_MIN: u64 = 512 << 20;

/// The most it is then. Code is two to three times as large as its module.
const SIZE_MAX: u64 = 16 << 30;

/// Counts changes to what is made of a module: code that was made otherwise is not used.
const VERSION: u32 = 6;

/// Bytes read at a time to make a checksum.
const CHECK_CHUNK: usize = 256 << 10;

/// Compiled code that is loaded.
pub(super) enum Loaded {
    Component(Component),
    Module(Module),
}

/// The folder of compiled code.
pub(super) struct Cache {
    dir: PathBuf,
    size: u64,
    next_temporary: AtomicU64,
    entries: Arc<Mutex<Entries>>,
}

/// What is known of the entries, by name.
#[derive(Default)]
struct Entries {
    /// How many programs came from it.
    used: BTreeMap<String, usize>,
    /// The file that matched its checksum. Once mapped it is trusted for as long as it runs, too, so one check is
    /// as good as many.
    checked: BTreeMap<String, Identity>,
}

/// Which file lies under a name: another one, or one that was written to, differs in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// As long as this is held, its entry stays.
pub(super) struct Pin {
    name: String,
    entries: Arc<Mutex<Entries>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut entries = self.entries.lock();
        if let Some(users) = entries.used.get_mut(&self.name) {
            *users -= 1;
            if *users == 0 {
                entries.used.remove(&self.name);
            }
        }
    }
}

/// A file that becomes an entry, or goes away.
pub(super) struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // it may have become an entry
    }
}

/// What made code, as a number: engine, settings, processor.
pub(super) fn maker(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    VERSION.hash(&mut hasher);
    hasher.finish()
}

impl Cache {
    /// Opens the folder, of so many bytes, and removes what nobody needs any more.
    ///
    /// # Errors
    /// If the folder cannot be made, or belongs to somebody else.
    pub(super) fn open(dir: PathBuf, size: Option<u64>) -> Result<Cache, RuntimeError> {
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
        let size = size.unwrap_or_else(|| usual_size(&dir));
        let cache = Cache { dir, size, next_temporary: AtomicU64::new(0), entries: Arc::default() };
        cache.remove_leftovers();
        cache.shrink();
        Ok(cache)
    }

    /// The name of an entry: the hexadecimal part of the module's digest, and who made the code.
    pub(super) fn name(digest: &str, maker: u64) -> String {
        let hex = digest.rsplit(':').next().unwrap_or(digest);
        let plain = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = if plain { hex.to_owned() } else { checksum(digest.as_bytes()) };
        format!("{name}-{maker:016x}")
    }

    /// The code of an entry, if it is here and whole.
    pub(super) fn load(&self, engine: &Engine, name: &str) -> Option<(Facts, Loaded, Pin)> {
        let pin = self.pin(name);
        let (code, facts_file) = (self.code(name), self.facts(name));
        let facts: Facts = serde_json::from_slice(&fs::read(&facts_file).ok()?).ok()?;
        let file = File::open(&code).ok()?;
        let identity = identity(&file).ok()?;
        if self.entries.lock().checked.get(name) != Some(&identity) {
            match checksum_of(file) {
                Ok(sum) if sum == facts.sum => {}
                Ok(_) => {
                    tracing::warn!(name, "compiled code is damaged and will be made anew");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(name, %error, "compiled code cannot be read and will be made anew");
                    return None;
                }
            }
            self.entries.lock().checked.insert(name.to_owned(), identity);
        }
        match map_code(engine, &code) {
            Ok(loaded) => {
                touch(&facts_file);
                Some((facts, loaded, pin))
            }
            Err(error) => {
                tracing::warn!(name, %error, "compiled code cannot be loaded and will be made anew");
                None
            }
        }
    }

    /// A file for code that is to become an entry.
    pub(super) fn temporary(&self) -> io::Result<Temporary> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}-{number}.tmp", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Temporary { path, file })
    }

    /// Makes an entry of code that this process, or the compiler that it started, has just written, and loads it.
    /// Readers see the old one or the new one, and code that is mapped from the old one stays.
    ///
    /// # Errors
    /// If it cannot be kept, or the engine refuses it.
    pub(super) fn store(
        &self,
        engine: &Engine,
        name: &str,
        facts: &Facts,
        code: &Temporary,
    ) -> wasmtime::Result<(Loaded, Pin)> {
        let pin = self.pin(name);
        let beside = self.temporary()?;
        let text = serde_json::to_vec(facts).expect("facts of strings");
        fs::write(&beside.path, text)?;
        fs::rename(&code.path, self.code(name))?;
        fs::rename(&beside.path, self.facts(name))?;
        let identity = identity(&code.file)?;
        self.entries.lock().checked.insert(name.to_owned(), identity);
        let loaded = map_code(engine, &self.code(name))?;
        self.shrink();
        Ok((loaded, pin))
    }

    fn pin(&self, name: &str) -> Pin {
        *self.entries.lock().used.entry(name.to_owned()).or_insert(0) += 1;
        Pin { name: name.to_owned(), entries: Arc::clone(&self.entries) }
    }

    fn code(&self, name: &str) -> PathBuf {
        self.dir.join(name).with_extension("cwasm")
    }

    fn facts(&self, name: &str) -> PathBuf {
        self.dir.join(name).with_extension("json")
    }

    /// Removes what a process that ended too early left here. Nobody else writes into this folder.
    fn remove_leftovers(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let orphan = match path.extension().and_then(|extension| extension.to_str()) {
                Some("tmp") => true,
                Some("cwasm") => !path.with_extension("json").exists(),
                Some("json") => !path.with_extension("cwasm").exists(),
                _ => false,
            };
            if orphan && let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a leftover cannot be removed");
            }
        }
    }

    /// Removes the oldest until the rest is small enough.
    fn shrink(&self) {
        let entries = match self.list() {
            Ok(entries) => entries,
            Err(error) => return tracing::warn!(%error, "compiled code cannot be listed"),
        };
        let now = wall_clock();
        for name in surplus(entries, self.size, now) {
            // Under the lock, so that nobody begins to use it meanwhile.
            let mut known = self.entries.lock();
            if known.used.contains_key(&name) {
                continue;
            }
            known.checked.remove(&name);
            let removed = fs::remove_file(self.facts(&name)).and(fs::remove_file(self.code(&name)));
            if let Err(error) = removed {
                tracing::warn!(name, %error, "compiled code cannot be removed");
            }
        }
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let path = file?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let (Some(name), Some("cwasm")) = (name, path.extension().and_then(|it| it.to_str())) else {
                continue;
            };
            // Gone meanwhile, or about to be complete.
            let (Ok(code), Ok(facts)) = (fs::metadata(&path), fs::metadata(self.facts(name))) else {
                continue;
            };
            let used = self.entries.lock().used.contains_key(name);
            entries.push(Entry { name: name.to_owned(), bytes: code.size(), last_use: facts.mtime(), used });
        }
        Ok(entries)
    }
}

/// An entry, as [`surplus`] sees it.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    bytes: u64,
    /// Seconds since 1970.
    last_use: i64,
    used: bool,
}

/// Which entries have to go for the rest to fit into `size`, and because they were not used for long.
fn surplus(mut entries: Vec<Entry>, size: u64, now: i64) -> Vec<String> {
    entries.sort_by(|a, b| (a.last_use, &a.name).cmp(&(b.last_use, &b.name)));
    let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut names = Vec::new();
    for entry in entries.into_iter().filter(|entry| !entry.used) {
        let idle = u64::try_from(now.saturating_sub(entry.last_use)).is_ok_and(|seconds| seconds > IDLE);
        if total > size || idle {
            total -= entry.bytes;
            names.push(entry.name);
        }
    }
    names
}

/// Seconds since 1970.
pub(super) fn wall_clock() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec
}

fn usual_size(dir: &Path) -> u64 {
    let disk = rustix::fs::statvfs(dir).map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
    (disk / DISK_SHARE).clamp(SIZE_MIN, SIZE_MAX)
}

fn identity(file: &File) -> io::Result<Identity> {
    let metadata = file.metadata()?;
    Ok(Identity {
        inode: metadata.ino(),
        bytes: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

/// Remembers that an entry was used, for as long as the disk does.
fn touch(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    if let Err(error) = utimensat(CWD, path, &times, AtFlags::empty()) {
        tracing::debug!(path = %path.display(), %error, "the time of use is not kept");
    }
}

pub(super) fn checksum(data: &[u8]) -> String {
    hexadecimal(&Sha256::digest(data))
}

fn checksum_of(mut file: File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHECK_CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Maps an entry into memory, shared with whoever else maps it.
#[expect(unsafe_code, reason = "loading compiled code is what the cache is for")]
fn map_code(engine: &Engine, entry: &Path) -> wasmtime::Result<Loaded> {
    // SAFETY: the file holds the output of `precompile_component`, made by this process or by our own binary that
    // it started as a compiler and gave only this file to write. It lies in a folder that only this user can
    // write to, and either was written a moment ago or matched its checksum. It is never changed in place
    // (`Cache::store` renames), so the mapping stays what was checked. Wasmtime itself refuses code of another
    // engine version or other settings.
    match Engine::detect_precompiled_file(entry)? {
        Some(Precompiled::Module) => unsafe { Module::deserialize_file(engine, entry) }.map(Loaded::Module),
        _ => unsafe { Component::deserialize_file(engine, entry) }.map(Loaded::Component),
    }
}

/// Loads code that could not be kept, or is not to be. `code` must be what `precompile_component` has just made,
/// here or in the compiler's process that we started.
#[expect(unsafe_code, reason = "loading compiled code is what the cache is for")]
pub(super) fn copy_code(engine: &Engine, code: &[u8]) -> wasmtime::Result<Loaded> {
    // SAFETY: `code` is the output of `precompile_component`. It was made in this process, or by our own binary
    // that this process started as a compiler; the file between the two was open to nobody else. Wasmtime itself
    // refuses code of other settings.
    match Engine::detect_precompiled(code) {
        Some(Precompiled::Module) => unsafe { Module::deserialize(engine, code) }.map(Loaded::Module),
        _ => unsafe { Component::deserialize(engine, code) }.map(Loaded::Component),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    #[track_caller]
    fn check(entries: &[(&str, u64, i64, bool)], size: u64, expected: &[&str]) {
        let entries = entries
            .iter()
            .map(|(name, bytes, age, used)| Entry {
                name: (*name).to_owned(),
                bytes: *bytes,
                last_use: 1_000 * DAY - age,
                used: *used,
            })
            .collect();
        assert_eq!(surplus(entries, size, 1_000 * DAY), expected);
    }

    #[test]
    fn the_oldest_goes_first() {
        check(&[], 0, &[]);
        check(&[("a", 5, 1, false), ("b", 5, 2, false)], 10, &[]);
        check(&[("a", 5, 1, false), ("b", 5, 2, false)], 9, &["b"]);
        check(&[("a", 5, 1, false), ("b", 5, 2, false)], 4, &["b", "a"]);
        check(&[("b", 5, 1, false), ("a", 5, 1, false)], 9, &["a"]);
    }

    #[test]
    fn what_is_used_stays() {
        check(&[("a", 5, 1, false), ("b", 5, 2, true)], 9, &["a"]);
        check(&[("a", 5, 1, true), ("b", 5, 2, true)], 1, &[]);
        check(&[("a", 50, 1, true), ("b", 5, 2, false), ("c", 5, 0, false)], 55, &["b"]);
        check(&[("a", 5, 90 * DAY, true)], 100, &[]);
    }

    #[test]
    fn what_is_idle_goes() {
        check(&[("a", 5, 31 * DAY, false), ("b", 5, 29 * DAY, false)], 100, &["a"]);
        check(&[("a", 5, -31 * DAY, false)], 100, &[]);
    }
}
