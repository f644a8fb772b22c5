//! The cluster's folder: where it is, who owns it, what lies in it.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use coracle_client::random;

/// A data folder that this process has to itself until the value is dropped.
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder if it is missing and locks it.
    ///
    /// # Errors
    /// If it cannot be made or written, or another process runs a cluster in it.
    pub(crate) fn lock(root: &Path) -> anyhow::Result<DataDir> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("cannot create the data folder {}", root.display()))?;
        let root =
            root.canonicalize().with_context(|| format!("cannot open the data folder {}", root.display()))?;
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(&path)
            .with_context(|| format!("cannot write into the data folder {}", root.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = fs::read_to_string(&path).unwrap_or_default();
                let owner = owner.trim();
                let owner = if owner.is_empty() { String::new() } else { format!(" (process {owner})") };
                bail!(
                    "the data folder {} is in use by another coracle{owner}; stop it, or give --data-dir another folder",
                    root.display()
                );
            }
            Err(TryLockError::Error(source)) => {
                return Err(source).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        lock.set_len(0)
            .and_then(|()| write!(lock, "{}", std::process::id()))
            .with_context(|| format!("cannot write into the data folder {}", root.display()))?;
        Ok(DataDir { root, _lock: lock })
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A folder or file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Who serves this folder, in elections: the host's name and a random number, made once and kept, so
    /// that a process that starts again takes its leases back at once.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub(crate) fn identity(&self, host: &str) -> anyhow::Result<String> {
        let path = self.join("identity");
        match fs::read_to_string(&path) {
            Ok(known) if !known.trim().is_empty() => return Ok(known.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        let identity = format!("{host}_{:016x}", random::number());
        self.write_whole("identity", &identity)?;
        Ok(identity)
    }

    /// Writes the kubeconfig, readable by its owner alone, whole or not at all.
    pub(crate) fn write_kubeconfig(&self, text: &str) -> anyhow::Result<PathBuf> {
        self.write_whole("kubeconfig", text)
    }

    fn write_whole(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.join(name);
        let temporary = self.join(&format!("{name}.tmp"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// `coracle/<name>` in the user's data folder (XDG base directories), or below the working folder if
/// the user has none.
pub(crate) fn default_root(name: &str) -> PathBuf {
    let data = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".local/share")));
    data.unwrap_or_else(|| PathBuf::from(".")).join("coracle").join(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::lock(dir.path()).unwrap();
        let Err(error) = DataDir::lock(dir.path()) else { panic!("two owners") };
        assert!(
            error
                .to_string()
                .contains(&format!("in use by another coracle (process {})", std::process::id()))
        );
        drop(first);
        DataDir::lock(dir.path()).unwrap();
    }

    #[test]
    fn who_serves_a_folder_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::lock(dir.path()).unwrap();
        let first = data.identity("edge-1").unwrap();
        assert!(first.starts_with("edge-1_"), "{first}");
        assert_eq!(data.identity("edge-2").unwrap(), first, "a host that is renamed is no other server");
        fs::write(dir.path().join("identity"), "\n").unwrap();
        assert_ne!(data.identity("edge-1").unwrap(), first);
    }

    #[test]
    fn the_kubeconfig_is_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::lock(dir.path()).unwrap();
        data.write_kubeconfig("first, and longer").unwrap();
        let path = data.write_kubeconfig("second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
