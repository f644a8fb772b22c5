//! Where the logs of all containers lie, and how many of their files are open.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::writer::{ContainerLog, LogLimits, OpenLog, rotated};

/// How many log files may be open. Enough for the containers that write in the same second;
/// beyond it the one opened longest ago is closed and reopened with its next line.
const MAX_OPEN: usize = 64;

/// The longest name of a file, in bytes, on the file systems that people use.
const MAX_NAME: usize = 255;
/// What of it is left for the container, the run and the number of a rotated file: a DNS label, two numbers, and what
/// stands between them.
const MAX_CONTAINER_AND_RUN: usize =
    "_".len() + 63 + "_2147483647".len() + ".log".len() + ".4294967295".len();

/// The folder of all logs of a node.
#[derive(Clone, Debug)]
pub(crate) struct LogBook {
    dir: PathBuf,
    limits: LogLimits,
    open_files: Arc<OpenFiles>,
    /// Runs of before, by the uids of pods that have no worker yet.
    earlier: Arc<Mutex<HashMap<Box<str>, Runs>>>,
}

/// Runs of containers by the containers' names.
pub(crate) type Runs = Vec<(Box<str>, i32)>;

/// The logs of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodLogs {
    /// What the names of all of them begin with.
    stem: PathBuf,
    limits: LogLimits,
    open_files: Arc<OpenFiles>,
}

impl LogBook {
    pub(crate) fn new(dir: PathBuf, limits: LogLimits) -> LogBook {
        LogBook { dir, limits, open_files: Arc::default(), earlier: Arc::default() }
    }

    /// The logs of a pod; nothing is made before something is written.
    pub(crate) fn pod(&self, pod: &Pod) -> PodLogs {
        PodLogs { stem: self.dir.join(stem(pod)), limits: self.limits, open_files: self.open_files.clone() }
    }

    /// Looks through what was written before this process was born, of the pods whose uids `wanted` knows: those that
    /// will ask. Blocking.
    pub(crate) fn recall(&self, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
        let mut earlier = self.earlier.lock();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let log = name.to_str().and_then(LogName::parse).filter(|log| wanted(log.uid));
            let Some(log) = log else { continue };
            let runs = earlier.entry(log.uid.into()).or_default();
            match runs.iter_mut().find(|(container, _)| **container == *log.container) {
                Some((_, run)) => *run = log.run.max(*run),
                None => runs.push((log.container.into(), log.run)),
            }
        }
        Ok(())
    }

    /// The newest runs of a pod's containers that have written something before this process was born. They are told
    /// once, and then nothing is known of them any more.
    pub(crate) fn earlier_runs(&self, uid: &str) -> Runs {
        let mut earlier = self.earlier.lock();
        let runs = earlier.remove(uid).unwrap_or_default();
        if earlier.is_empty() {
            // With the place that thousands of pods have taken.
            *earlier = HashMap::new();
        }
        runs
    }

    /// Of how many pods runs of before are known.
    #[cfg(test)]
    pub(crate) fn recalled(&self) -> usize {
        self.earlier.lock().len()
    }

    /// Removes the logs of pods that are gone: those whose uid `keep` does not know. Blocking.
    pub(crate) fn sweep(&self, keep: &dyn Fn(&str) -> bool) -> io::Result<()> {
        self.earlier.lock().retain(|uid, _| keep(uid));
        crate::dirs::sweep(&self.dir, &|name| LogName::parse(name).is_none_or(|log| keep(log.uid)))
    }
}

impl PodLogs {
    /// The file of one run of a container.
    pub(crate) fn path(&self, container: &str, run: i32) -> PathBuf {
        let mut path = self.stem.clone().into_os_string();
        path.push(format!("_{container}_{run}.log"));
        path.into()
    }

    /// The log of a run that begins. Logs of runs before the previous one are removed: `kubectl logs`
    /// shows the current and the previous run, never others. Blocking, but a matter of microseconds.
    pub(crate) fn begin(&self, container: &str, run: i32) -> Arc<ContainerLog> {
        self.remove_run(container, run - 2);
        let log = ContainerLog::new(self.path(container, run), run, self.limits, self.open_files.clone());
        let before = self.files(container, run - 1).map_while(|file| Some(file.metadata().ok()?.len()));
        Arc::new(log.after(before.sum()))
    }

    /// Removes what is left of a container whose newest run this is. Blocking.
    pub(crate) fn remove(&self, container: &str, run: i32) {
        self.remove_run(container, run);
        self.remove_run(container, run - 1);
    }

    /// What cannot be removed is found by the next sweep.
    fn remove_run(&self, container: &str, run: i32) {
        let _ = self.files(container, run).try_for_each(std::fs::remove_file);
    }

    /// The files that a run may have, the newest first: if one is missing, so are those behind it.
    fn files(&self, container: &str, run: i32) -> impl Iterator<Item = PathBuf> {
        let count = if run < 0 { 0 } else { self.limits.max_files.max(1) };
        let newest = self.path(container, run);
        (0..count).map(move |number| if number == 0 { newest.clone() } else { rotated(&newest, number) })
    }
}

/// `namespace_name_uid`. The uid alone makes it unique, so a long name may lose its end.
fn stem(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let [namespace, name, uid] =
        [&meta.namespace, &meta.name, &meta.uid].map(|text| text.as_deref().unwrap_or_default());
    let room = (MAX_NAME - MAX_CONTAINER_AND_RUN).saturating_sub(namespace.len() + uid.len() + 2);
    format!("{namespace}_{}_{uid}", &name[..name.floor_char_boundary(room)])
}

/// What the name of a log says.
#[derive(Debug, PartialEq, Eq)]
struct LogName<'a> {
    uid: &'a str,
    container: &'a str,
    run: i32,
}

impl LogName<'_> {
    /// Reads `namespace_name_uid_container_run.log`, or one with the number of a rotated file behind it; `None` for
    /// what is no log.
    fn parse(name: &str) -> Option<LogName<'_>> {
        let (name, _number) = name.rsplit_once(".log")?;
        let mut parts = name.split('_').skip(2);
        let (uid, container) = (parts.next()?, parts.next()?);
        let run = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(LogName { uid, container, run })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::format::StreamName;

    const UID: &str = "01234567-89ab-cdef-0123-456789abcdef";

    fn pod(namespace: &str, name: &str, uid: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some(namespace.into());
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(uid.into());
        pod
    }

    #[test]
    fn names_fit_into_a_file_system_and_stay_unique() {
        #[track_caller]
        fn check(namespace: usize, name: usize, kept: usize) {
            let [namespace, name, container] = [namespace, name, 63].map(|length| "n".repeat(length));
            let logs = LogBook::new(PathBuf::new(), LogLimits::default()).pod(&pod(&namespace, &name, UID));
            let oldest = rotated(&logs.path(&container, i32::MAX), u32::MAX).into_os_string();
            let oldest = oldest.into_string().unwrap();
            assert_eq!(
                oldest,
                format!("{namespace}_{}_{UID}_{container}_2147483647.log.4294967295", &name[..kept])
            );
            assert!(oldest.len() <= MAX_NAME);
            let expected = LogName { uid: UID, container: &container, run: i32::MAX };
            assert_eq!(LogName::parse(&oldest), Some(expected));
        }
        check(7, 10, 10);
        check(7, 120, 120);
        check(7, 121, 120);
        check(63, 253, 64);
        let long = "n".repeat(253);
        assert_ne!(stem(&pod("n", &long, UID)), stem(&pod("n", &long, &UID.replace('0', "f"))));
    }

    #[test]
    fn what_is_no_log_is_let_be() {
        for name in ["", "x", "n_p_u", "n_p_u_c_1", "n_p_u_c_x.log", "n_p_u_c_1_2.log", "n_p_u_1.log", ".log"]
        {
            assert_eq!(LogName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_long_name_keeps_its_logs_and_loses_them_with_its_pod() {
        let dir = tempfile::tempdir().unwrap();
        let book = LogBook::new(dir.path().into(), LogLimits::default());
        let logs = book.pod(&pod(&"n".repeat(63), &"p".repeat(253), UID));
        let file = logs.path("c", 3);
        std::fs::write(&file, "").unwrap();
        std::fs::write(dir.path().join("other"), "").unwrap();
        book.sweep(&|uid| uid == UID).unwrap();
        assert!(file.exists());
        book.sweep(&|_| false).unwrap();
        assert!(!file.exists() && dir.path().join("other").exists());
    }

    #[test]
    fn runs_of_before_are_told_once_and_removed_with_what_was_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let book = LogBook::new(dir.path().into(), LogLimits::default());
        let [one, other] = ["one", "other"].map(|uid| book.pod(&pod("n", "p", uid)));
        for file in [
            one.path("a", 9),
            one.path("a", 10),
            rotated(&one.path("a", 10), 1),
            rotated(&one.path("a", 10), 2),
            one.path("b", 0),
            other.path("a", 0),
        ] {
            std::fs::write(file, "").unwrap();
        }
        book.recall(&|uid| uid == "one").unwrap();
        assert_eq!(book.recalled(), 1, "nobody will ask for the others");
        let mut runs = book.earlier_runs("one");
        runs.sort();
        assert_eq!(runs, [("a".into(), 10), ("b".into(), 0)]);
        assert_eq!(book.earlier_runs("one"), []);
        assert_eq!((book.recalled(), book.earlier.lock().capacity()), (0, 0));
        runs.iter().for_each(|(container, run)| one.remove(container, *run));
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [other.path("a", 0)]);
    }

    #[test]
    fn the_current_run_and_the_one_before_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let logs = LogBook::new(dir.path().into(), LogLimits::default()).pod(&pod("n", "p", UID));
        for run in 0..4 {
            let log = logs.begin("c", run);
            assert!(!log.is_written());
            log.write(StreamName::Stdout, b"up\n");
            assert!(log.is_written());
            let line = std::fs::metadata(log.path()).unwrap().len();
            assert_eq!(
                log.bytes(),
                if run == 0 { line } else { 2 * line },
                "that of the run before counts, too"
            );
        }
        let kept = |run| logs.path("c", run).exists();
        assert_eq!([kept(0), kept(1), kept(2), kept(3)], [false, false, true, true]);
    }
}
