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
        remove_reporting(&entry.path());
    }
    Ok(())
}

/// Removes a folder with everything in it, if it exists. Blocking.
pub(crate) fn remove_reporting(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "folder of a pod that is gone was not removed");
        }
        _ => {}
    }
}
