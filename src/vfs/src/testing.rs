//! What the tests of all volumes have in common.

use crate::{Directory, Entries, OpenOptions, VfsError};

pub(crate) const READ: OpenOptions = OpenOptions {
    read: true,
    write: false,
    create: false,
    exclusive: false,
    truncate: false,
    directory: false,
    follow: true,
};
pub(crate) const WRITE: OpenOptions = OpenOptions { write: true, ..READ };
pub(crate) const CREATE: OpenOptions = OpenOptions { create: true, ..WRITE };

#[track_caller]
pub(crate) fn fails<T: std::fmt::Debug>(result: Result<T, VfsError>, expected: &str) {
    assert_eq!(format!("{:?}", result.expect_err("an error was due")), expected);
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &Directory) -> Vec<String> {
    let mut names = listed(dir);
    names.sort();
    names
}

/// The names in a directory, as they are listed.
pub(crate) fn listed(dir: &Directory) -> Vec<String> {
    rest(&mut dir.entries().unwrap())
}

/// The names that are left of a listing.
pub(crate) fn rest(entries: &mut Entries) -> Vec<String> {
    std::iter::from_fn(|| entries.next_entry().unwrap()).map(|entry| entry.name).collect()
}
