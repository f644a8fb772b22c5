//! What the process asks of its host before anything else runs.

use rustix::{
    fs::Mode,
    process::{Resource, getrlimit, setrlimit, umask},
};

/// Takes as many file descriptors as the host allows (the usual soft limit of 1,024 is for programs that use
/// `select`; a cluster holds connections, logs and volumes for thousands of pods), and keeps files that are
/// made from now on to their owner: secrets lie in the store, and logs are nobody else's business, also if
/// the data folder was made by somebody more generous.
pub(crate) fn prepare() {
    umask(Mode::RWXG | Mode::RWXO);
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}
