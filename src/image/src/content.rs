//! Content by digest: drafts that are written, checked and synced, and then become content by one
//! rename.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use uuid::Uuid;

use crate::ImageError;
use crate::digest::{Algorithm, Digest, Digester};

/// Beginnings of content that are kept for another attempt. With the limit on a blob's size this bounds
/// what they take; an image that is pulled needs some of them at the same time.
const MAX_BEGINNINGS: usize = 8;

/// How long a beginning is kept over a restart. Who wants the image asks again within minutes.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// How the names of their files end.
const BEGINNING: &str = ".part";

/// The folders of blobs and drafts.
pub(crate) struct Content {
    blobs: PathBuf,
    drafts: PathBuf,
    /// The beginnings that somebody is writing to.
    busy: Arc<Mutex<BTreeSet<Digest>>>,
}

/// Content that is not yet complete. Its file goes when it goes.
pub(crate) struct Draft {
    /// There as long as this is.
    file: Option<tokio::fs::File>,
    /// Whether a write may still be under way: those that were begun end, whoever waits for them or not.
    writing: bool,
    path: PathBuf,
    digester: Digester,
    size: u64,
    limit: u64,
    /// For a beginning, that nobody else writes to it: it stays for another attempt.
    busy: Option<Busy>,
}

/// Says that somebody is writing to a beginning.
struct Busy {
    digest: Digest,
    all: Arc<Mutex<BTreeSet<Digest>>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().remove(&self.digest);
    }
}

/// Why a draft did not take more.
#[derive(Debug)]
pub(crate) enum AppendError {
    TooLarge,
    Store(ImageError),
}

impl Content {
    /// Makes the folders, and forgets the drafts of an earlier run but for recent beginnings.
    pub(crate) fn open(dir: &Path) -> Result<Content, ImageError> {
        let (blobs, drafts) = (dir.join("blobs"), dir.join("uploads"));
        let content = Content { blobs, drafts, busy: Arc::default() };
        for algorithm in Algorithm::ALL {
            let folder = content.blobs.join(algorithm.name());
            fs::create_dir_all(&folder).map_err(ImageError::io("create", &folder))?;
        }
        sync_dir(&content.blobs)?;
        fs::create_dir_all(&content.drafts).map_err(ImageError::io("create", &content.drafts))?;
        content.clean(Some(KEPT)).map_err(ImageError::io("empty", &content.drafts))?;
        sync_dir(dir)?;
        Ok(content)
    }

    /// Removes drafts but for beginnings that are younger than `kept`.
    fn clean(&self, kept: Option<Duration>) -> io::Result<()> {
        let recent = |path: &Path| {
            let written = path.metadata().and_then(|meta| meta.modified()).ok();
            // What is of the future is of a clock that was wrong.
            let age = written.and_then(|written| SystemTime::elapsed(&written).ok());
            kept.is_some_and(|kept| age.is_some_and(|age| age < kept))
        };
        for entry in fs::read_dir(&self.drafts)? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else if beginning(&path).is_none() || !recent(&path) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Removes the beginnings that nobody is writing to, but for the `spared` youngest. Gives their bytes.
    pub(crate) fn forget_beginnings(&self, spared: usize) -> Result<u64, ImageError> {
        let mut found = Vec::new();
        let list = || {
            for entry in fs::read_dir(&self.drafts)? {
                let path = entry?.path();
                if let (Some(digest), Ok(meta)) = (beginning(&path), path.metadata()) {
                    found.push((meta.modified()?, meta.len(), digest, path));
                }
            }
            Ok(())
        };
        let listed: io::Result<()> = { list }();
        listed.map_err(ImageError::io("read", &self.drafts))?;
        let busy = self.busy.lock();
        found.retain(|(_, _, digest, _)| !busy.contains(digest));
        found.sort();
        found.truncate(found.len().saturating_sub(spared));
        let mut freed = 0;
        for (_, size, _, path) in &found {
            remove_if_there(path)?;
            freed += size;
        }
        Ok(freed)
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder(digest).join(digest.hex())
    }

    fn folder(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.algorithm().name())
    }

    /// The size of a blob; `None` if it is not here.
    pub(crate) fn size(&self, digest: &Digest) -> Result<Option<u64>, ImageError> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io("read", &path)(error)),
        }
    }

    /// A small blob, whole.
    pub(crate) fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let read = || {
            let mut bytes = Vec::new();
            File::open(&path)?.take(limit + 1).read_to_end(&mut bytes)?;
            match bytes.len() as u64 > limit {
                true => Err(io::Error::other(format!("it has more than {limit} bytes"))),
                false => Ok(bytes),
            }
        };
        read().map_err(ImageError::io("read", &path))
    }

    /// Stores bytes that are already here.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        self.write_as(bytes, &digest)?;
        Ok(digest)
    }

    /// Stores bytes that are already here, and have this digest.
    pub(crate) fn write_as(&self, bytes: &[u8], digest: &Digest) -> Result<(), ImageError> {
        if self.size(digest)? == Some(bytes.len() as u64) {
            return Ok(());
        }
        let draft = self.drafts.join(Uuid::new_v4().to_string());
        let path = self.path(digest);
        let store = || {
            let mut file = File::create_new(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        let stored = store().map_err(ImageError::io("write", &path));
        if stored.is_err() {
            // What is left of it would go at the next start anyway.
            let _ = fs::remove_file(&draft);
        }
        stored?;
        sync_dir(&self.folder(digest))
    }

    /// Begins content of at most `limit` bytes, which is likely to be known by a digest of this kind.
    pub(crate) async fn draft(&self, limit: u64, algorithm: Algorithm) -> Result<Draft, ImageError> {
        let path = self.drafts.join(Uuid::new_v4().to_string());
        let mut options = tokio::fs::OpenOptions::new();
        let created = options.read(true).write(true).create_new(true).open(&path).await;
        let file = created.map_err(ImageError::io("create", &path))?;
        Ok(Draft::of(file, path, algorithm, limit, None))
    }

    /// Begins content of this digest and at most `limit` bytes, or goes on where an earlier attempt
    /// stopped. One that is left stays for the next attempt.
    pub(crate) async fn resume(&self, digest: &Digest, limit: u64) -> Result<Draft, ImageError> {
        if !self.busy.lock().insert(digest.clone()) {
            return self.draft(limit, digest.algorithm()).await;
        }
        let busy = Busy { digest: digest.clone(), all: self.busy.clone() };
        self.forget_beginnings(MAX_BEGINNINGS - 1)?;
        let path = self.drafts.join(format!("{}{BEGINNING}", digest.hex()));
        let failed = || ImageError::io("create", &path);
        let mut options = tokio::fs::OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path).await;
        let file = opened.map_err(failed())?;
        let mut draft = Draft::of(file, path.clone(), digest.algorithm(), limit, Some(busy));
        (draft.digester, draft.size) = draft.read(digest.algorithm()).await.map_err(failed())?;
        if draft.size > limit {
            draft.restart().await?;
        }
        Ok(draft)
    }

    /// Makes a finished draft content. Its bytes are durable already.
    pub(crate) fn adopt(&self, draft: &Path, digest: &Digest) -> Result<(), ImageError> {
        let path = self.path(digest);
        fs::rename(draft, &path).map_err(ImageError::io("write", &path))?;
        sync_dir(&self.folder(digest))
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        remove_if_there(&self.path(digest))
    }
}

impl Draft {
    fn of(
        file: tokio::fs::File,
        path: PathBuf,
        algorithm: Algorithm,
        limit: u64,
        busy: Option<Busy>,
    ) -> Draft {
        let digester = Digester::new(algorithm);
        Draft { file: Some(file), writing: false, path, digester, size: 0, limit, busy }
    }

    fn file(&mut self) -> &mut tokio::fs::File {
        self.file.as_mut().expect("it goes with the draft")
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digester.digest()
    }

    /// Whether this is the digest of everything so far. Reads it once more if it was not known before of what kind.
    pub(crate) async fn is_of(&mut self, digest: &Digest) -> Result<bool, ImageError> {
        if self.digester.algorithm() != digest.algorithm() {
            let read = async {
                let size = self.size;
                self.file().flush().await?;
                self.file().seek(io::SeekFrom::Start(0)).await?;
                // An interrupted append may have written more.
                self.file().set_len(size).await?;
                self.read(digest.algorithm()).await
            };
            let read = read.await.map_err(ImageError::io("read", &self.path));
            (self.digester, self.size) = read?;
        }
        Ok(self.digest() == *digest)
    }

    /// Reads the file from where it is to its end: its digest, and how many bytes it has.
    async fn read(&mut self, algorithm: Algorithm) -> io::Result<(Digester, u64)> {
        let (mut digester, mut size, mut buffer) = (Digester::new(algorithm), 0, vec![0; 256 * 1024]);
        loop {
            let count = self.file().read(&mut buffer).await?;
            if count == 0 {
                return Ok((digester, size));
            }
            size += count as u64;
            digester.update(&buffer[..count]);
        }
    }

    /// Goes back to the end of what was counted: an interrupted append may have written more.
    pub(crate) async fn rewind(&mut self) -> Result<(), ImageError> {
        let size = self.size;
        let sought = self.file().seek(io::SeekFrom::Start(size)).await;
        sought.map(|_| ()).map_err(ImageError::io("write", &self.path))
    }

    /// Forgets everything that was written.
    pub(crate) async fn restart(&mut self) -> Result<(), ImageError> {
        self.file().set_len(0).await.map_err(ImageError::io("write", &self.path))?;
        self.size = 0;
        self.digester = Digester::new(self.digester.algorithm());
        self.rewind().await
    }

    /// Sees to it that nothing stays for another attempt.
    pub(crate) fn discard(&mut self) {
        self.size = 0;
    }

    /// Adds bytes at the end.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let size = self.size + bytes.len() as u64;
        if size > self.limit {
            return Err(AppendError::TooLarge);
        }
        self.writing = true;
        let written = self.file().write_all(bytes).await;
        written.map_err(ImageError::io("write", &self.path)).map_err(AppendError::Store)?;
        self.digester.update(bytes);
        self.size = size;
        Ok(())
    }

    /// Makes the bytes durable.
    pub(crate) async fn finish(&mut self) -> Result<(), ImageError> {
        let size = self.size;
        let sync = async {
            self.file().flush().await?;
            self.file().set_len(size).await?;
            self.file().sync_all().await
        };
        sync.await.map_err(ImageError::io("write", &self.path))?;
        self.writing = false;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Adopted drafts are not there any more.
        if self.busy.is_none() || self.size == 0 {
            let _ = fs::remove_file(&self.path);
        }
        // Nobody else may write to it before the last write has ended: it could come after theirs, which are counted.
        if let (true, Some(busy), Some(mut file)) = (self.writing, self.busy.take(), self.file.take())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = file.flush().await;
                drop(busy);
            });
        }
    }
}

/// The digest that a beginning is to have.
fn beginning(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.file_name()?.to_str()?.strip_suffix(BEGINNING)?)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ImageError> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(ImageError::io("write", dir))
}

/// Removes a file; it may be gone already.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
