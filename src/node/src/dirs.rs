//! Folders of pods on the node's disk.

use std::{ffi::CStr, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
};

/// How folders are opened for removal: never through a link that a guest left.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes the folders and files directly under `dir` whose name `keep` refuses. Blocking. One that cannot be
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
    match remove(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "folder of a pod that is over was not removed");
        }
        _ => {}
    }
}

/// Guests nest folders deeper than a stack or the open files of a process can follow. So nothing is walked
/// down into: the folders inside a folder move up into `dir` before it goes, and at most four are open.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    let top = match openat(CWD, dir, FOLDER, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(dir),
        top => top?,
    };
    let mut next_name = 0;
    // A listing need not show what moved in while it was read.
    while empty_once(&top, &mut next_name)? {}
    std::fs::remove_dir(dir)
}

/// Removes what a listing of `top` shows; false if it showed nothing.
fn empty_once(top: &OwnedFd, next_name: &mut u64) -> io::Result<bool> {
    let mut found = false;
    for entry in Dir::read_from(top)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        found = true;
        if is_folder(top, name)? {
            let folder = openat(top, name, FOLDER, Mode::empty())?;
            move_folders_up(&folder, top, next_name)?;
            unlinkat(top, name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(found)
}

/// Empties `folder`: files go, folders move into `top` under names that nobody holds there.
fn move_folders_up(folder: &OwnedFd, top: &OwnedFd, next_name: &mut u64) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) || !is_folder(folder, name)? {
            continue;
        }
        loop {
            let free = next_name.to_string();
            *next_name += 1;
            match renameat(folder, name, top, &free) {
                Ok(()) => break,
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Removes the name, unless it is a folder's.
fn is_folder(parent: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        // What POSIX says of a folder, besides what Linux says.
        Err(Errno::ISDIR | Errno::PERM) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes folders below each other, and a file in each. From the bottom up, as a guest would: no path is long.
    fn nest(dir: &Path, depth: usize) {
        let [top, new] = ["0", "new"].map(|name| dir.join(name));
        std::fs::create_dir(&top).unwrap();
        for _ in 1..depth {
            std::fs::create_dir(&new).unwrap();
            std::fs::write(new.join("file"), "").unwrap();
            std::fs::rename(&top, new.join("0")).unwrap();
            std::fs::rename(&new, &top).unwrap();
        }
    }

    #[test]
    fn a_guest_cannot_nest_folders_too_deep_to_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        for branch in ["volumes/a", "volumes/b"] {
            std::fs::create_dir_all(pod.join(branch)).unwrap();
        }
        nest(&pod.join("volumes/a"), 10_000);
        nest(&pod.join("volumes/b"), 100);
        remove(&pod).unwrap();
        assert!(!pod.exists());
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [pod, outside] = ["pod", "outside"].map(|name| dir.path().join(name));
        for folder in [pod.join("volumes/a"), outside.join("kept")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for link in ["link", "volumes/link", "volumes/a/link"] {
            std::os::unix::fs::symlink(&outside, pod.join(link)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, dir.path().join("whole")).unwrap();
        remove(&pod).unwrap();
        remove(&dir.path().join("whole")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(outside.join("kept").exists());
    }
}
