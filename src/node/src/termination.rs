//! What is said of a run that ended: its code in Kubernetes' terms, and its last words.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use coracle_runtime::Exit as RuntimeExit;
use coracle_vfs::{Directory, Mounts, OpenOptions};
use k8s_openapi::api::core::v1::Container;

use crate::{exec::Running, state::Exit};

/// Exit code of a guest that trapped: that of a program that aborted.
const TRAPPED: i32 = 134;
/// Exit code of a guest that could not be started, and its reason: those that containerd gives it.
const NOT_STARTED: i32 = 128;
/// Exit code of a guest that was ended from outside.
const KILLED: i32 = 137;
/// What is said of a container that ended for want of the node's memory rather than its own.
const NODE_OUT_OF_MEMORY: &str = "the node is out of memory";
/// The longest termination message. Kubernetes' number.
pub(crate) const MAX_MESSAGE: usize = 4096;
/// How much of a log stands in for a message. Kubernetes' numbers.
const MAX_LOG_MESSAGE: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// How much of a log file is read for it: the entries also hold times and names of streams.
const LOG_BLOCK: u64 = 16 << 10;
/// Where a message is looked for if the spec does not say: Kubernetes' default.
const DEFAULT_PATH: &str = "/dev/termination-log";

/// The end of a run in Kubernetes' terms.
pub(crate) fn exit_of(exit: RuntimeExit) -> Exit {
    let (code, reason, message) = match exit {
        RuntimeExit::Code(code) => match status(code) {
            0 => (0, "Completed", None),
            code => (code, "Error", None),
        },
        RuntimeExit::Trap { message } => (TRAPPED, "Error", Some(shorten(&message, MAX_MESSAGE).into())),
        RuntimeExit::OutOfMemory => (KILLED, "OOMKilled", None),
        RuntimeExit::PodOutOfMemory { message } => (KILLED, "OOMKilled", Some(message.into())),
        RuntimeExit::Exhausted { message } => (NOT_STARTED, "StartError", Some(message.into())),
        RuntimeExit::NodeOutOfMemory => (KILLED, "OOMKilled", Some(NODE_OUT_OF_MEMORY.into())),
        RuntimeExit::Killed => (KILLED, "Error", None),
    };
    Exit { code, reason, message }
}

/// What of a program's exit code whoever waits for it sees: eight bits, as everywhere under POSIX. So `exit(-1)` is 255,
/// and `exit(256)` is success.
fn status(code: i32) -> i32 {
    code & 0xff
}

/// At most `max` bytes of a text, cut between characters.
pub(crate) fn shorten(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Where a container leaves its last words.
pub(crate) struct Message {
    /// `None` for the default.
    path: Option<Box<str>>,
    /// It lies in a volume, where a file of that name may be somebody's own.
    in_volume: bool,
    or_log: bool,
}

impl Message {
    pub(crate) fn of(container: &Container) -> Message {
        let path = container.termination_message_path.as_deref();
        let within = |mount: &str| {
            let rest = path.and_then(|path| path.strip_prefix(mount.trim_end_matches('/')));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let mut mounts = container.volume_mounts.iter().flatten();
        Message {
            in_volume: mounts.any(|mount| within(&mount.mount_path)),
            path: path.filter(|path| !path.is_empty() && *path != DEFAULT_PATH).map(Into::into),
            or_log: container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        }
    }

    fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(DEFAULT_PATH)
    }

    /// Makes the empty file that a container finds at its start. It is a courtesy: where it cannot be made,
    /// there is no message. What a volume holds under that name is left as it is.
    pub(crate) async fn prepare(&self, root: Directory) {
        let path = self.path().trim_start_matches('/').to_owned();
        let in_volume = self.in_volume;
        on_disk(root, move |root| {
            if in_volume && tail(root, &path).is_some() {
                return None;
            }
            if let Some((folder, _)) = path.rsplit_once('/') {
                root.create_directories(folder).ok()?;
            }
            root.write(&path, b"").ok()
        })
        .await;
    }

    /// Lets the container write the file also where its root is read-only, as a container runtime does.
    pub(crate) fn keep_writable(&self, mounts: &mut Mounts) {
        if !self.in_volume {
            // A courtesy, too.
            let _ = mounts.add_root_file(self.path());
        }
    }

    /// Adds to an exit what the container left as its last words.
    pub(crate) async fn add_to(self, mut exit: Exit, running: &Arc<Running>) -> Exit {
        let path = self.path().trim_start_matches('/').to_owned();
        let words = on_disk(running.mounts.root(), move |root| tail(root, &path)).await;
        if let Some(words) = words.filter(|words| !words.is_empty()) {
            exit.message = Some(String::from_utf8_lossy(&words).into());
        } else if self.or_log && exit.code != 0 && exit.message.is_none() {
            let log = running.log.path().to_owned();
            // It only fails when the runtime ends.
            let last = tokio::task::spawn_blocking(move || last_lines(&log)).await;
            exit.message = last.ok().flatten().map(Into::into);
        }
        exit
    }
}

/// Works on a view of files: elsewhere if that may wait for a disk.
pub(crate) async fn on_disk<T: Send + 'static>(
    root: Directory,
    work: impl FnOnce(&Directory) -> Option<T> + Send + 'static,
) -> Option<T> {
    if !root.paths_block() {
        return work(&root);
    }
    tokio::task::spawn_blocking(move || work(&root)).await.ok().flatten()
}

/// The end of a file, at most [`MAX_MESSAGE`] bytes.
fn tail(root: &Directory, path: &str) -> Option<Vec<u8>> {
    let size = root.stat_at(path, true).ok()?.size;
    let options = OpenOptions { read: true, follow: true, ..OpenOptions::default() };
    let file = root.open_file(path, options).ok()?;
    let mut data = vec![0; usize::try_from(size).unwrap_or(MAX_MESSAGE).min(MAX_MESSAGE)];
    let start = size.saturating_sub(data.len() as u64);
    let mut count = 0;
    while count < data.len() {
        match file.read_at(start + count as u64, &mut data[count..]).ok()? {
            0 => break,
            more => count += more,
        }
    }
    data.truncate(count);
    Some(data)
}

/// The last lines of a log; `None` if there is none.
fn last_lines(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let start = size.saturating_sub(LOG_BLOCK);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut text = Vec::new();
    file.take(LOG_BLOCK).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The first line is a whole one only at the beginning of the file.
    let whole = if start == 0 { &*text } else { text.split_once('\n')?.1 };
    let mut lines: Vec<String> = whole.lines().rev().take(MAX_LOG_LINES).filter_map(content).collect();
    lines.reverse();
    let all = lines.concat();
    let cut = all.ceil_char_boundary(all.len().saturating_sub(MAX_LOG_MESSAGE));
    Some(all[cut..].to_owned()).filter(|text| !text.is_empty())
}

/// What a container wrote in a line of a log file: `time stream tag content`.
fn content(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ').skip(2);
    let (tag, content) = (parts.next()?, parts.next()?);
    Some(if tag == "P" { content.to_owned() } else { format!("{content}\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_kubernetes_codes() {
        let seen = [
            RuntimeExit::Code(0),
            RuntimeExit::Code(3),
            RuntimeExit::Trap { message: "unreachable".into() },
            RuntimeExit::OutOfMemory,
            RuntimeExit::Exhausted { message: "no room".into() },
            RuntimeExit::NodeOutOfMemory,
            RuntimeExit::Killed,
        ]
        .map(exit_of)
        .map(|exit| (exit.code, exit.reason, exit.message));
        assert_eq!(
            seen,
            [
                (0, "Completed", None),
                (3, "Error", None),
                (134, "Error", Some("unreachable".into())),
                (137, "OOMKilled", None),
                (128, "StartError", Some("no room".into())),
                (137, "OOMKilled", Some("the node is out of memory".into())),
                (137, "Error", None),
            ]
        );
    }

    #[test]
    fn exit_codes_are_those_of_posix() {
        for (code, shown, reason) in
            [(256, 0, "Completed"), (-1, 255, "Error"), (0x1234, 0x34, "Error"), (i32::MIN, 0, "Completed")]
        {
            let exit = exit_of(RuntimeExit::Code(code));
            assert_eq!((exit.code, exit.reason), (shown, reason), "{code}");
        }
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shorten("añb", 2), "a");
        assert_eq!(shorten("añb", 3), "añ");
        assert_eq!(shorten("ab", 9), "ab");
    }

    #[test]
    fn a_log_stands_in_with_its_last_lines() {
        #[track_caller]
        fn check(log: &str, expected: Option<&str>) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("0.log");
            std::fs::write(&path, log).unwrap();
            assert_eq!(last_lines(&path).as_deref(), expected);
        }
        check("", None);
        check("t stdout F one\nt stderr P two \nt stderr F halves\n", Some("one\ntwo halves\n"));
        let many: String = (0..100).map(|number| format!("t stdout F {number}\n")).collect();
        let last: String = (20..100).map(|number| format!("{number}\n")).collect();
        check(&many, Some(&last));
        let long = format!("t stdout F {}\n", "x".repeat(5000));
        check(&long, Some(&format!("{}\n", "x".repeat(MAX_LOG_MESSAGE - 1))));
        assert_eq!(last_lines(Path::new("/nowhere")), None);
    }
}
