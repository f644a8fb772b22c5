//! The compiler as a process of its own: `coracle compile`.
//!
//! Modules come from strangers, and compilers take time and memory that nobody can foretell. So this process
//! limits itself before it reads the first byte, is the first that the kernel ends when memory runs out, and the node
//! can end it. It has no environment, no files but the
//! module (its stdin) and the code (its stdout), and ends with its parent. What it has to say goes to stderr: one
//! line of JSON, the last.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getppid, setrlimit};
use serde::{Deserialize, Serialize};

use super::compile::{Code, Facts, compile};
use crate::engine::Settings;
use crate::error::PrepareError;
use crate::limits::MODULE_BYTES;
use crate::threads;

/// What is to be done, and within which limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) settings: Settings,
    pub(super) threads: usize,
    pub(super) limits: Limits,
    /// Who waits for it.
    pub(super) parent: i32,
}

/// What a compile may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    /// Seconds of CPU time.
    pub(super) cpu: u64,
    /// Seconds.
    pub(super) wall: u64,
    /// Bytes that it may use.
    pub(super) memory: u64,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The code is written.
    Made(Facts),
    /// There is code, but it could not be written.
    NotWritten(String),
    Refused(PrepareError),
}

/// Exit code: the time is over.
pub(super) const OVERDUE: u8 = 124;

/// Exit code: what to do could not be understood, or the limits could not be set.
const MISUSED: u8 = 64;

/// Bytes beyond [`Limits::memory`] that are the process' own and hardly touched: what the allocator reserves. The
/// stacks of its threads come besides.
const DATA_BESIDE: u64 = 32 << 20;

/// Address space beyond that: code of this program, what the allocator reserves for each thread.
const SPACE_BESIDE: u64 = 2 << 30;

/// How readily the kernel ends this process for want of memory: before any other. A compile can be tried again.
const OOM_SCORE: &str = "1000";

/// Open files: the three standard ones, and what the C library opens for a moment.
const FILES: u64 = 16;

/// How often it is looked whether the parent lives, and whether the time is over.
const LOOK: Duration = Duration::from_millis(100);

/// Does what `order` says: the whole life of a compiler's process. The order is what the runtime wrote that started
/// this process.
#[must_use]
pub fn compile_process(order: &str) -> ExitCode {
    // Where there is no such file, nobody needs it.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let Ok(order) = serde_json::from_str::<Order>(order) else {
        return ExitCode::from(MISUSED);
    };
    if limit(&order).is_err() {
        return ExitCode::from(MISUSED);
    }
    let (_done, watched) = mpsc::channel();
    let (parent, wall) = (Pid::from_raw(order.parent), order.limits.wall);
    let watch = std::thread::Builder::new().name("watch".into());
    if watch.spawn(move || watch_over(&watched, parent, wall)).is_err() {
        return ExitCode::from(MISUSED);
    }
    let answer = match made(&order) {
        Ok(code) => match io::stdout().write_all(&code.bytes).and_then(|()| io::stdout().flush()) {
            Ok(()) => Answer::Made(code.facts),
            Err(error) => Answer::NotWritten(error.to_string()),
        },
        Err(error) => Answer::Refused(error),
    };
    let text = serde_json::to_string(&answer).expect("an answer of strings and numbers");
    match writeln!(io::stderr(), "\n{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn limit(order: &Order) -> io::Result<()> {
    let limits = &order.limits;
    let set = |resource, value: u64| {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }).map_err(io::Error::from)
    };
    set(Resource::Core, 0)?;
    set(Resource::Nofile, FILES)?;
    set(Resource::Fsize, limits.memory)?;
    // At the soft limit the kernel says why (SIGXCPU), at the hard one it only kills.
    let cpu = Rlimit { current: Some(limits.cpu), maximum: Some(limits.cpu + 1) };
    setrlimit(Resource::Cpu, cpu)?;
    let stacks = (order.threads as u64 + 1).saturating_mul(threads::COMPILE_STACK as u64);
    let data = limits.memory.saturating_add(DATA_BESIDE).saturating_add(stacks);
    set(Resource::Data, data)?;
    set(Resource::As, data.saturating_add(SPACE_BESIDE))
}

/// Ends this process when its time is over, or when nobody waits for it any more.
fn watch_over(done: &Receiver<()>, parent: Option<Pid>, seconds: u64) {
    let looks = u128::from(seconds) * 1_000 / LOOK.as_millis();
    for _ in 0..looks {
        match done.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
        if getppid() != parent {
            break;
        }
    }
    std::process::exit(i32::from(OVERDUE));
}

fn made(order: &Order) -> Result<Code, PrepareError> {
    let failed = |message: String| PrepareError::Compile { message };
    let mut module = Vec::new();
    io::stdin()
        .lock()
        .take(MODULE_BYTES + 1)
        .read_to_end(&mut module)
        .map_err(|error| failed(format!("it cannot be read: {error}")))?;
    if module.len() as u64 > MODULE_BYTES {
        return Err(PrepareError::TooLarge { limit: MODULE_BYTES });
    }
    let engine = order.settings.compiler().map_err(|error| failed(format!("{error:#}")))?;
    let pool = threads::compilers(order.threads).map_err(|error| failed(error.to_string()))?;
    pool.install(|| compile(&engine, order.settings, &module))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::error::MissingImport;

    const ORDER: &str = "CORACLE_TEST_ORDER";

    /// The kernel ends a compiler before anything else, and a compiler has said so before it reads its module.
    #[test]
    fn a_compiler_is_the_first_to_go() {
        if let Ok(order) = std::env::var(ORDER) {
            // This is the process that the test has started.
            let ended = compile_process(&order);
            std::process::exit(i32::from(ended != ExitCode::SUCCESS));
        }
        let limits = Limits { cpu: 60, wall: 60, memory: 256 << 20 };
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let settings = Settings { wasi_p3: false, dense: false };
        let order = serde_json::to_string(&Order { settings, threads: 1, limits, parent }).unwrap();
        let name = "program::worker::tests::a_compiler_is_the_first_to_go";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(ORDER, order)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let score = format!("/proc/{}/oom_score_adj", child.id());
        while std::fs::read_to_string(&score).unwrap().trim() != OOM_SCORE {
            assert!(child.try_wait().unwrap().is_none(), "it ended before");
            std::thread::yield_now();
        }
        // It waits for the module, until its stdin ends.
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().last(), Some("{\"Refused\":\"NotWasm\"}"), "{said}");
    }

    /// What a module is refused for comes through as it is.
    #[test]
    fn answers_are_understood() {
        for error in [
            PrepareError::TooLarge { limit: 7 },
            PrepareError::NotWasm,
            PrepareError::Invalid { message: "\"x\"\n".into() },
            PrepareError::NotProgram { message: "a\u{7}".into() },
            PrepareError::UnknownImport { import: "a:b/c@1.2.3".into(), why: MissingImport::Unknown },
            PrepareError::UnknownImport { import: "x".into(), why: MissingImport::Version(": y".into()) },
            PrepareError::UnknownImport { import: "x".into(), why: MissingImport::Preview3 },
            PrepareError::Compile { message: "m".into() },
        ] {
            let text = serde_json::to_string(&Answer::Refused(error.clone())).unwrap();
            assert!(!text.contains('\n'));
            match serde_json::from_str(&text).unwrap() {
                Answer::Refused(read) => assert_eq!(read.to_string(), error.to_string()),
                other => panic!("{other:?}"),
            }
        }
    }
}
