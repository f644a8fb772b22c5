//! The files of images: unpacked once for each image into a folder that nobody changes any more.
//!
//! ```text
//!  layers ──► tree (in memory) ──► uploads/<id>/root ──synced, renamed──► files/<manifest>/root
//!     contents of files ──► uploads/<id>/data/<n> ──renamed──┘                  ├ module.wasm
//!                                                                               └ image.json
//! ```
//!
//! A folder below `files` is complete: it got its name after everything in it was on disk.
//!
//! The layers stay beside what was unpacked of them, as containerd keeps them: the next version of an image shares most
//! of them, an image that was changed by accident can be unpacked again, and the embedded registry hands them out. Their
//! bytes count in what the removal of an image is said to free, and in the use of the disk that leads to it.

mod layer;
mod module;
mod spin;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::content::{Content, sync_dir};
use crate::digest::{Algorithm, Digest, Digester};
use crate::error::Unusable;
use crate::format::{Body, Plan, Target};
use crate::manifest::Execution;
use crate::unpacking::{Extent, Unfinished};
use crate::{FormatError, ImageError, wasm};
use tree::{FileId, Node, Tree};

/// How many times larger than a layer its content may be, once it is more than [`SMALL`]. Code and text
/// shrink to a third or a tenth; a thousandfold is what a bomb reaches.
const MAX_RATIO: u64 = 200;

/// Content that is not worth counting how well it was compressed.
const SMALL: u64 = 16 * 1024 * 1024;

/// The files of an image on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFiles {
    /// The folder that is the image's root. Nothing in it changes, and it goes when the image is
    /// removed. Symbolic links in it are relative and lead to places inside; whoever opens files in it
    /// for a guest still must not follow links out of it.
    pub path: PathBuf,
    /// Bytes of all files.
    pub size: u64,
}

/// What was unpacked of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The files, if there are any.
    pub(crate) files: Option<ImageFiles>,
    /// The module, if it is one of the files: path, digest and size.
    pub(crate) module: Option<(PathBuf, Digest, u64)>,
    pub(crate) env: Vec<(String, String)>,
}

/// What is kept beside the files.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    size: u64,
    #[serde(default)]
    empty: bool,
    #[serde(default)]
    module: Option<ModuleRecord>,
    #[serde(default)]
    env: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct ModuleRecord {
    digest: String,
    size: u64,
}

/// Files and folders together up to which each is made durable by itself. Each of them waits for the disk; beyond, one
/// flush of the whole file system is cheaper, although it waits for what everybody else writes.
const FEW: usize = 50;

const ROOT: &str = "root";
const DATA: &str = "data";
const MODULE: &str = "module.wasm";
const RECORD: &str = "image.json";

/// The folder of unpacked images.
pub(crate) struct Files {
    dir: PathBuf,
    /// Where what is not complete is; emptied at start.
    drafts: PathBuf,
    limits: Limits,
}

/// What the files of one image may be.
#[derive(Clone, Copy)]
struct Limits {
    most: Extent,
    /// Content of this size is not looked at for how well it was compressed.
    small: u64,
}

impl Files {
    pub(crate) fn open(dir: &Path, max_bytes: u64) -> Result<Files, ImageError> {
        let most = Extent { bytes: max_bytes, entries: tree::MAX_ENTRIES };
        let limits = Limits { most, small: SMALL };
        let files = Files { dir: dir.join("files"), drafts: dir.join("uploads"), limits };
        fs::create_dir_all(&files.dir).map_err(ImageError::io("create", &files.dir))?;
        Ok(files)
    }

    fn path(&self, manifest: &Digest) -> PathBuf {
        self.dir.join(manifest.hex())
    }

    /// What was unpacked of an image; `None` if nothing was.
    pub(crate) fn find(&self, manifest: &Digest) -> Result<Option<Found>, ImageError> {
        let dir = self.path(manifest);
        let record = match fs::read(dir.join(RECORD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(ImageError::io("read", &dir))?,
        };
        // One that we did not write is as none: the image is unpacked again.
        let Ok(record) = serde_json::from_slice::<Record>(&record) else { return Ok(None) };
        let module = record.module.map(|module| {
            Digest::parse(&module.digest).map(|digest| (dir.join(MODULE), digest, module.size))
        });
        let Some(module) = module.map_or(Some(None), |module| module.map(Some)) else { return Ok(None) };
        let files = (!record.empty).then(|| ImageFiles { path: dir.join(ROOT), size: record.size });
        Ok(Some(Found { files, module, env: record.env }))
    }

    /// Unpacks an image whose layers are all here, if it has not more than `most`. Takes its time, and may panic on
    /// content that makes a decompressor panic; what is left of that goes.
    pub(crate) fn unpack(
        &self,
        content: &Content,
        manifest: &Digest,
        plan: &Plan,
        execution: &Execution,
        most: Option<Extent>,
    ) -> Result<(), Unfinished> {
        if self.find(manifest)?.is_some() {
            return Ok(());
        }
        let most = most.map(|most| Extent { bytes: most.bytes.min(self.limits.most.bytes), ..most });
        // A module that is a layer stays one. Hardly any other is larger than what is in it.
        let packed = plan.layers().into_iter().filter(|layer| Some(*layer) != plan.module());
        let packed = packed.fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        if most.is_some_and(|most| packed > most.bytes) {
            return Err(Unfinished::Larger);
        }
        let limits = Limits { most: most.unwrap_or(self.limits.most), ..self.limits };
        let mut work = Work::begin(&self.drafts, limits)?;
        match self.unpack_all(content, manifest, plan, execution, &mut work) {
            // It may be damaged, too, which comes out when there is room for all of it.
            Err(_) if most.is_some() && work.is_at_limit() => Err(Unfinished::Larger),
            unpacked => Ok(unpacked?),
        }
    }

    fn unpack_all(
        &self,
        content: &Content,
        manifest: &Digest,
        plan: &Plan,
        execution: &Execution,
        work: &mut Work,
    ) -> Result<(), Unusable> {
        let Work { draft, tree, unpacked, budget } = work;
        let mut env = Vec::new();
        let apply = |target: &Target, tree: &mut Tree, unpacked: &mut Unpacked, budget: &mut Budget| {
            let path = content.path(&target.digest);
            let file = File::open(&path).map_err(ImageError::io("read", &path))?;
            layer::apply(file, tree, unpacked, budget).map_err(|problem| problem.of(&target.digest))
        };
        let module = match &plan.body {
            Body::Module(_) => None,
            Body::Rootfs(layers) => {
                for target in layers {
                    apply(target, tree, unpacked, budget)?;
                }
                Some(module::find(tree, unpacked, execution)?)
            }
            Body::Spin(spin) => {
                for target in &spin.archives {
                    apply(target, tree, unpacked, budget)?;
                }
                env = spin::place(content, spin, tree, unpacked, budget)?;
                None
            }
        };
        let (places, folders) = unpacked.place(tree, &draft.path.join(ROOT))?;
        let module = match module {
            Some(file) => Some(keep_module(&places[file], &draft.path.join(MODULE))?),
            None => None,
        };
        let record = Record { size: unpacked.placed, empty: tree.is_empty(), module, env };
        // Some have no place; what links to a file is in its folder.
        let made = places.iter().filter(|place| !place.as_os_str().is_empty()).chain(&folders);
        Ok(self.finish(draft, manifest, &record, &made.collect::<Vec<_>>())?)
    }

    /// Makes a draft what is found from now on, with the files and folders that were `made` in it.
    fn finish(
        &self,
        draft: &DraftFolder,
        manifest: &Digest,
        record: &Record,
        made: &[&PathBuf],
    ) -> Result<(), ImageError> {
        let dir = self.path(manifest);
        let write = || {
            fs::remove_dir_all(draft.path.join(DATA))?;
            let record = serde_json::to_vec(record).expect("strings and numbers serialise");
            let mut file = File::create_new(draft.path.join(RECORD))?;
            file.write_all(&record)?;
            file.sync_all()?;
            if made.len() > FEW {
                rustix::fs::syncfs(File::open(&draft.path)?)?;
            } else {
                for path in made.iter().copied().chain([&draft.path]) {
                    File::open(path)?.sync_all()?;
                }
            }
            match fs::rename(&draft.path, &dir) {
                // Somebody else was faster, or what is there is not ours.
                Err(_) if dir.join(RECORD).exists() => Ok(()),
                renamed => renamed,
            }
        };
        write().map_err(ImageError::io("write", &dir))?;
        sync_dir(&self.dir)
    }

    /// Removes what was unpacked of an image.
    pub(crate) fn remove(&self, manifest: &Digest) -> Result<(), ImageError> {
        let dir = self.path(manifest);
        // Out of the way first, so that a half is never found.
        let draft = self.drafts.join(Uuid::new_v4().to_string());
        match fs::rename(&dir, &draft) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => {
                let removed = renamed.and_then(|()| fs::remove_dir_all(&draft));
                removed.map_err(ImageError::io("remove", &dir))
            }
        }
    }

    /// Removes what was unpacked of images that are not `known`.
    pub(crate) fn retain(&self, known: impl Fn(&Digest) -> bool) -> Result<(), ImageError> {
        let entries = fs::read_dir(&self.dir).map_err(ImageError::io("read", &self.dir))?;
        for entry in entries {
            let name = entry.map_err(ImageError::io("read", &self.dir))?.file_name();
            if let Some(digest) = name.to_str().and_then(Digest::from_hex)
                && !known(&digest)
            {
                self.remove(&digest)?;
            }
        }
        Ok(())
    }
}

/// Unpacks bytes as a layer into a folder below `dir`, which is empty again afterwards: the way of every layer,
/// with bounds that are reached soon.
///
/// # Panics
/// If anything of it is not below that folder, or is left over. (And if a decompressor does.)
pub(crate) fn try_layer(bytes: &[u8], dir: &Path) {
    let limits = Limits { most: Extent { bytes: 1 << 20, entries: 100 }, small: 64 << 10 };
    let Work { draft, mut tree, mut unpacked, mut budget } = Work::begin(dir, limits).expect("there is room");
    let path = draft.path.join("layer");
    fs::write(&path, bytes).expect("there is room");
    let file = File::open(&path).expect("it was written");
    if layer::apply(file, &mut tree, &mut unpacked, &mut budget).is_err() {
        return;
    }
    tree.each(&mut |path, node| {
        tree::parts(path).expect("a path inside");
        if let Node::Link(target) = node {
            let target = tree::link_target(path, target);
            let up = target.split(|byte| *byte == b'/').filter(|part| *part == b"..").count();
            let links = target.split(|byte| *byte == b'/').take_while(|part| *part == b"..").count();
            let depth = path.iter().filter(|byte| **byte == b'/').count();
            assert!(links <= depth && (up == links || !target.starts_with(b"/")), "{}", tree::show(&target));
        }
    });
    // Names that a tree holds and a file system does not (one of a whole path, say) are errors, no more.
    let _ = unpacked.place(&tree, &draft.path.join(ROOT));
    assert!(unpacked.placed <= limits.most.bytes);
}

/// Gives the module a name of its own, and says what it is.
fn keep_module(file: &Path, module: &Path) -> Result<ModuleRecord, Unusable> {
    fs::hard_link(file, module).map_err(ImageError::io("write", module))?;
    let mut file = File::open(module).map_err(ImageError::io("read", module))?;
    let (mut digester, mut size, mut buffer) = (Digester::new(Algorithm::Sha256), 0, vec![0; 64 * 1024]);
    loop {
        let count = file.read(&mut buffer).map_err(ImageError::io("read", module))?;
        if count == 0 {
            break;
        }
        digester.update(&buffer[..count]);
        size += count as u64;
    }
    file.rewind().map_err(ImageError::io("read", module))?;
    wasm::inspect(&mut BufReader::new(file))?;
    Ok(ModuleRecord { digest: digester.digest().to_string(), size })
}

/// An image that is being unpacked.
struct Work {
    draft: DraftFolder,
    tree: Tree,
    unpacked: Unpacked,
    budget: Budget,
}

impl Work {
    fn begin(drafts: &Path, limits: Limits) -> Result<Work, ImageError> {
        let draft = DraftFolder::make(drafts)?;
        let unpacked = Unpacked::make(&draft.path, limits.most.entries)?;
        let budget = Budget { left: limits.most.bytes, spent: false, limits };
        Ok(Work { draft, tree: Tree::new(limits.most.entries), unpacked, budget })
    }

    /// Whether it has as much as it may have.
    fn is_at_limit(&self) -> bool {
        self.budget.spent || self.tree.is_full() || self.unpacked.is_full()
    }
}

/// A folder that goes unless it got another name.
struct DraftFolder {
    path: PathBuf,
}

impl DraftFolder {
    fn make(drafts: &Path) -> Result<DraftFolder, ImageError> {
        let path = drafts.join(Uuid::new_v4().to_string());
        make_dir(&path).map_err(ImageError::io("create", &path))?;
        Ok(DraftFolder { path })
    }
}

impl Drop for DraftFolder {
    fn drop(&mut self) {
        // What is left would go at the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// What can stop an unpacking.
enum Problem {
    /// The layer is not as it should be.
    Format(String),
    Store(ImageError),
}

impl Problem {
    fn of(self, layer: &Digest) -> Unusable {
        match self {
            Problem::Format(reason) => FormatError::Layer { layer: layer.to_string(), reason }.into(),
            Problem::Store(error) => error.into(),
        }
    }
}

/// Errors of reading come from what is read: a decompressor or an archive that is broken.
impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Format(match error.kind() {
            io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// Bytes that may still be unpacked.
struct Budget {
    left: u64,
    /// There were to be more.
    spent: bool,
    limits: Limits,
}

impl Budget {
    /// Counts what comes out of a layer of `size` bytes.
    fn meter<R: Read>(&mut self, inner: R, size: u64) -> Meter<'_, R> {
        let ratio_left = size.saturating_mul(MAX_RATIO).saturating_add(self.limits.small);
        Meter { inner, budget: self, ratio_left }
    }

    fn take(&mut self, bytes: u64) -> Result<(), String> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.spent = true;
                Err(format!("the files of the image have more than {} bytes", self.limits.most.bytes))
            }
        }
    }
}

/// A reader that ends with an error where the budget does.
struct Meter<'a, R> {
    inner: R,
    budget: &'a mut Budget,
    ratio_left: u64,
}

impl<R: Read> Read for Meter<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.budget.take(count as u64).map_err(io::Error::other)?;
        self.ratio_left = self.ratio_left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(format!("its content is more than {MAX_RATIO} times as large as itself"))
        })?;
        Ok(count)
    }
}

/// The contents of the files, before they have names.
struct Unpacked {
    data: PathBuf,
    files: Vec<Kept>,
    /// How many there may be.
    most: usize,
    /// Bytes of the files that got a name.
    placed: u64,
}

/// What is known of one of them.
struct Kept {
    size: u64,
    wasm: bool,
}

impl Unpacked {
    fn make(draft: &Path, most: usize) -> Result<Unpacked, ImageError> {
        let data = draft.join(DATA);
        make_dir(&data).map_err(ImageError::io("create", &data))?;
        Ok(Unpacked { data, files: Vec::new(), most, placed: 0 })
    }

    fn file(&self, file: FileId) -> PathBuf {
        self.data.join(file.to_string())
    }

    /// Whether there is no room for another.
    fn is_full(&self) -> bool {
        self.files.len() > self.most
    }

    fn is_wasm(&self, file: FileId) -> bool {
        self.files[file].wasm
    }

    /// Copies exactly `size` bytes, which the reader counts.
    fn copy(&mut self, from: &mut impl Read, size: u64, mtime: u64) -> Result<FileId, Problem> {
        // What hides others gets no place in the tree, where the rest is counted.
        if self.is_full() {
            return Err(Problem::Format(format!("there are more than {} files", self.most)));
        }
        let path = self.file(self.files.len());
        let failed = || ImageError::io("write", &path);
        let mut options = OpenOptions::new();
        let created = options.write(true).create_new(true).mode(0o400).open(&path);
        let mut file = created.map_err(failed()).map_err(Problem::Store)?;
        let (mut buffer, mut left, mut wasm) = ([0; 16 * 1024], size, None);
        while left > 0 {
            let part = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = from.read(&mut buffer[..part])?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            // A first part of less than four bytes is of a file that small, or does not matter.
            wasm = wasm.or_else(|| Some(buffer[..count].starts_with(b"\0asm")));
            file.write_all(&buffer[..count]).map_err(failed()).map_err(Problem::Store)?;
            left -= count as u64;
        }
        if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(mtime)) {
            // Of no consequence if the file system cannot say it.
            let _ = file.set_modified(time);
        }
        self.files.push(Kept { size, wasm: wasm.unwrap_or(false) });
        Ok(self.files.len() - 1)
    }

    /// Copies what nobody counts.
    fn write(
        &mut self,
        from: &mut impl Read,
        size: u64,
        mtime: u64,
        budget: &mut Budget,
    ) -> Result<FileId, Problem> {
        budget.take(size).map_err(Problem::Format)?;
        self.copy(from, size, mtime)
    }

    /// Gives the files their names below `root`; says where each of them is, and what folders there are.
    fn place(&mut self, tree: &Tree, root: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ImageError> {
        make_dir(root).map_err(ImageError::io("create", root))?;
        let mut places = vec![PathBuf::new(); self.files.len()];
        let mut folders = vec![root.to_owned()];
        let (mut placed, mut outcome) = (0, Ok(()));
        tree.each(&mut |path, node| {
            if outcome.is_err() {
                return;
            }
            let to = root.join(std::ffi::OsStr::from_bytes(path));
            let made = match node {
                Node::Folder(_) => {
                    folders.push(to.clone());
                    make_dir(&to)
                }
                Node::Link(target) => {
                    let target = tree::link_target(path, target);
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), &to)
                }
                Node::File(file) if places[*file].as_os_str().is_empty() => {
                    placed += self.files[*file].size;
                    places[*file].clone_from(&to);
                    fs::rename(self.file(*file), &to)
                }
                Node::File(file) => fs::hard_link(&places[*file], &to),
            };
            outcome = made.map_err(ImageError::io("write", &to));
        });
        outcome?;
        self.placed = placed;
        Ok((places, folders))
    }
}
