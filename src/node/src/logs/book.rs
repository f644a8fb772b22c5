//! Where the logs of all containers lie, and how many of their files are open.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::writer::{ContainerLog, OpenLog};

/// How many log files may be open. Enough for the containers that write in the same second;
/// beyond it the one opened longest ago is closed and reopened with its next line.
const MAX_OPEN: usize = 64;

/// The folder of all logs of a node.
#[derive(Clone, Debug)]
pub(crate) struct LogBook {
    dir: PathBuf,
    open_files: Arc<OpenFiles>,
}

/// The folder of one pod's logs.
#[derive(Clone, Debug)]
pub(crate) struct PodLogs {
    dir: PathBuf,
    open_files: Arc<OpenFiles>,
}

impl LogBook {
    pub(crate) fn new(dir: PathBuf) -> LogBook {
        LogBook { dir, open_files: Arc::default() }
    }

    /// The logs of a pod; no folder is made before something is written.
    pub(crate) fn pod(&self, pod: &Pod) -> PodLogs {
        let meta = &pod.metadata;
        let [namespace, name, uid] =
            [&meta.namespace, &meta.name, &meta.uid].map(|text| text.as_deref().unwrap_or_default());
        PodLogs {
            dir: self.dir.join(format!("{namespace}_{name}_{uid}")),
            open_files: self.open_files.clone(),
        }
    }

    /// Removes the logs of pods that are gone: folders whose uid `keep` does not know. Blocking.
    pub(crate) fn sweep(&self, keep: &dyn Fn(&str) -> bool) -> io::Result<()> {
        crate::dirs::sweep(&self.dir, &|name| name.rsplit_once('_').is_none_or(|(_, uid)| keep(uid)))
    }
}

impl PodLogs {
    /// The file of one run of a container.
    pub(crate) fn path(&self, container: &str, run: i32) -> PathBuf {
        self.dir.join(container).join(format!("{run}.log"))
    }

    /// The log of a run that begins. Logs of runs before the previous one are removed: `kubectl logs`
    /// shows the current and the previous run, never others. Blocking, but a matter of microseconds.
    pub(crate) fn begin(&self, container: &str, run: i32) -> Arc<ContainerLog> {
        if run >= 2 {
            let old = self.path(container, run - 2);
            for number in 0..super::writer::MAX_FILES {
                let file = if number == 0 { old.clone() } else { super::writer::rotated(&old, number) };
                if std::fs::remove_file(file).is_err() {
                    break;
                }
            }
        }
        Arc::new(ContainerLog::new(self.path(container, run), run, self.open_files.clone()))
    }

    /// Where all of it lies.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The logs whose files are open, in the order they were opened.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(Mutex<VecDeque<OpenLog>>);

impl OpenFiles {
    /// Notes an opened file and closes the oldest one beyond the bound.
    pub(super) fn opened(&self, log: OpenLog) {
        let oldest = {
            let mut open = self.0.lock();
            open.push_back(log);
            if open.len() > MAX_OPEN { open.pop_front() } else { None }
        };
        if let Some(oldest) = oldest.and_then(|log| log.upgrade()) {
            oldest.release();
        }
    }
}
