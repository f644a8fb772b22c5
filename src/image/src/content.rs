//! Content by digest: drafts that are written, checked and synced, and then become content by one
//! rename.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use uuid::Uuid;

use crate::ImageError;
use crate::digest::{Digest, Digester};

/// The folders of blobs and drafts.
pub(crate) struct Content {
    blobs: PathBuf,
    drafts: PathBuf,
}

/// Content that is not yet complete. Its file goes when it goes.
pub(crate) struct Draft {
    file: tokio::fs::File,
    path: PathBuf,
    digester: Digester,
    size: u64,
    limit: u64,
}

/// Why a draft did not take more.
#[derive(Debug)]
pub(crate) enum AppendError {
    TooLarge,
    Store(ImageError),
}

impl Content {
    /// Makes the folders, and forgets the drafts of an earlier run.
    pub(crate) fn open(dir: &Path) -> Result<Content, ImageError> {
        let content = Content { blobs: dir.join("blobs").join("sha256"), drafts: dir.join("uploads") };
        fs::create_dir_all(&content.blobs).map_err(ImageError::io("create", &content.blobs))?;
        match fs::remove_dir_all(&content.drafts) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::io("empty", &content.drafts)(error));
            }
            _ => {}
        }
        fs::create_dir_all(&content.drafts).map_err(ImageError::io("create", &content.drafts))?;
        sync_dir(dir)?;
        Ok(content)
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
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
        if self.size(&digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let draft = self.drafts.join(Uuid::new_v4().to_string());
        let path = self.path(&digest);
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
        sync_dir(&self.blobs)?;
        Ok(digest)
    }

    /// Begins content of at most `limit` bytes.
    pub(crate) async fn draft(&self, limit: u64) -> Result<Draft, ImageError> {
        let path = self.drafts.join(Uuid::new_v4().to_string());
        let file = tokio::fs::File::create_new(&path).await.map_err(ImageError::io("create", &path))?;
        Ok(Draft { file, path, digester: Digester::default(), size: 0, limit })
    }

    /// Makes a finished draft content. Its bytes are durable already.
    pub(crate) fn adopt(&self, draft: &Path, digest: &Digest) -> Result<(), ImageError> {
        let path = self.path(digest);
        fs::rename(draft, &path).map_err(ImageError::io("write", &path))?;
        sync_dir(&self.blobs)
    }

    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        remove_if_there(&self.path(digest))
    }
}

impl Draft {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digester.digest()
    }

    /// Goes back to the end of what was counted: an interrupted append may have written more.
    pub(crate) async fn rewind(&mut self) -> Result<(), ImageError> {
        let sought = self.file.seek(io::SeekFrom::Start(self.size)).await;
        sought.map(|_| ()).map_err(ImageError::io("write", &self.path))
    }

    /// Adds bytes at the end.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        let size = self.size + bytes.len() as u64;
        if size > self.limit {
            return Err(AppendError::TooLarge);
        }
        let written = self.file.write_all(bytes).await;
        written.map_err(ImageError::io("write", &self.path)).map_err(AppendError::Store)?;
        self.digester.update(bytes);
        self.size = size;
        Ok(())
    }

    /// Makes the bytes durable.
    pub(crate) async fn finish(&mut self) -> Result<(), ImageError> {
        let sync = async {
            self.file.flush().await?;
            self.file.set_len(self.size).await?;
            self.file.sync_all().await
        };
        sync.await.map_err(ImageError::io("write", &self.path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Adopted drafts are not there any more.
        let _ = fs::remove_file(&self.path);
    }
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
