//! Where the logs of all containers lie, and how many of their files are open.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::writer::{ContainerLog, LogLimits, OpenLog};

/// How many log files may be open. Enough for the containers that write in the same second;
/// beyond it the one opened longest ago is closed and reopened with its next line.
const MAX_OPEN: usize = 64;

/// The longest name of a folder, in bytes, on the file systems that people use.
const MAX_NAME: usize = 255;

/// The folder of all logs of a node.
#[derive(Clone, Debug)]
pub(crate) struct LogBook {
    dir: PathBuf,
    limits: LogLimits,
    open_files: Arc<OpenFiles>,
}

/// The folder of one pod's logs.
#[derive(Clone, Debug)]
pub(crate) struct PodLogs {
    dir: PathBuf,
    limits: LogLimits,
    open_files: Arc<OpenFiles>,
}

impl LogBook {
    pub(crate) fn new(dir: PathBuf, limits: LogLimits) -> LogBook {
        LogBook { dir, limits, open_files: Arc::default() }
    }

    /// The logs of a pod; no folder is made before something is written.
    pub(crate) fn pod(&self, pod: &Pod) -> PodLogs {
        PodLogs { dir: self.dir.join(folder(pod)), limits: self.limits, open_files: self.open_files.clone() }
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
            for number in 0..self.limits.max_files.max(1) {
                let file = if number == 0 { old.clone() } else { super::writer::rotated(&old, number) };
                if std::fs::remove_file(file).is_err() {
                    break;
                }
            }
        }
        Arc::new(ContainerLog::new(self.path(container, run), run, self.limits, self.open_files.clone()))
    }

    /// The newest run of a container that has written something. Blocking, but a matter of microseconds.
    pub(crate) fn newest_run(&self, container: &str) -> Option<i32> {
        let files = std::fs::read_dir(self.dir.join(container)).ok()?;
        let runs =
            files.filter_map(|file| file.ok()?.file_name().to_str()?.split_once(".log")?.0.parse().ok());
        runs.max()
    }

    /// Where all of it lies.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// `namespace_name_uid`. The uid alone makes it unique, so a long name may lose its end.
fn folder(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let [namespace, name, uid] =
        [&meta.namespace, &meta.name, &meta.uid].map(|text| text.as_deref().unwrap_or_default());
    let room = MAX_NAME.saturating_sub(namespace.len() + uid.len() + 2);
    format!("{namespace}_{}_{uid}", &name[..name.floor_char_boundary(room)])
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

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "01234567-89ab-cdef-0123-456789abcdef";

    fn pod(namespace: &str, name: &str, uid: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some(namespace.into());
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(uid.into());
        pod
    }

    #[test]
    fn folders_fit_into_a_file_system_and_stay_unique() {
        #[track_caller]
        fn check(namespace: usize, name: usize, kept: usize) {
            let [namespace, name] = [namespace, name].map(|length| "n".repeat(length));
            let folder = folder(&pod(&namespace, &name, UID));
            assert_eq!(folder, format!("{namespace}_{}_{UID}", &name[..kept]));
            assert!(folder.len() <= MAX_NAME);
        }
        check(7, 10, 10);
        check(7, 210, 210);
        check(7, 211, 210);
        check(63, 253, 154);
        let long = "n".repeat(253);
        assert_ne!(folder(&pod("n", &long, UID)), folder(&pod("n", &long, &UID.replace('0', "f"))));
    }

    #[test]
    fn a_long_name_keeps_its_logs_and_loses_them_with_its_pod() {
        let dir = tempfile::tempdir().unwrap();
        let book = LogBook::new(dir.path().into(), LogLimits::default());
        let logs = book.pod(&pod(&"n".repeat(63), &"p".repeat(253), UID));
        std::fs::create_dir_all(logs.dir()).unwrap();
        book.sweep(&|uid| uid == UID).unwrap();
        assert!(logs.dir().exists());
        book.sweep(&|_| false).unwrap();
        assert!(!logs.dir().exists());
    }
}
