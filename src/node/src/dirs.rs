//! Folders of pods on the node's disk.

use std::{io, path::Path};

/// Removes the folders directly under `dir` whose name `keep` refuses. Blocking. A folder that cannot be
/// removed is reported and left for the next start.
pub(crate) fn sweep(dir: &Path, keep: &dyn Fn(&str) -> bool) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(keep) {
            continue;
        }
        let path = entry.path();
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "folder of a pod that is gone was not removed");
        }
    }
    Ok(())
}

/// Removes a folder with everything in it, if it exists.
pub(crate) async fn remove(dir: &Path) -> io::Result<()> {
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
