//! Compiling in a process of its own: how it is started, what it may take, and what its end means.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::compile::Facts;
use super::worker::{Answer, Limits, OVERDUE, Order};
use crate::engine::Settings;
use crate::error::PrepareError;

/// CPU seconds for each megabyte of module, beside those that any module may take. Cranelift compiles about a
/// megabyte a second; slow processors and unlucky modules get ten times that.
const CPU_PER_MEGABYTE: u64 = 10;

/// How much longer a compile may take by the clock than by the processor: it runs below everything else.
const WALL_PER_CPU: u64 = 6;

/// Bytes of memory that any module may take.
const MEMORY_BASE: u64 = 512 << 20;

/// Bytes of memory for each byte of module: twice what ordinary ones take.
const MEMORY_PER_BYTE: u64 = 96;

/// The most that a compile may take of the host's memory, as a divisor.
const HOST_SHARE: u64 = 2;

/// Bytes of what the process says that are kept: names in a refusal are as long as a module has them.
const SAID: u64 = 1 << 20;

/// Given to the process beyond its own limits before it is ended from here.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a module is read from.
pub(super) enum Input {
    File(File),
    Memory(Bytes),
}

/// Runs compilers as processes.
pub(super) struct Process {
    /// The program to run; it gets `compile` and an order.
    binary: PathBuf,
    threads: usize,
    /// CPU seconds that any module may take.
    seconds: u64,
    host_memory: u64,
}

impl Process {
    pub(super) fn new(binary: PathBuf, threads: usize, time: Duration) -> Process {
        Process { binary, threads, seconds: time.as_secs().max(1), host_memory: host_memory() }
    }

    /// What a module of this size may take.
    fn limits(&self, bytes: u64) -> Limits {
        let cpu = self.seconds + bytes.saturating_mul(CPU_PER_MEGABYTE) / 1_000_000;
        let memory = MEMORY_BASE.saturating_add(bytes.saturating_mul(MEMORY_PER_BYTE));
        Limits {
            cpu,
            wall: cpu.saturating_mul(WALL_PER_CPU),
            memory: memory.min((self.host_memory / HOST_SHARE).max(MEMORY_BASE)),
        }
    }

    /// Compiles `module`, of so many bytes, into the file `code`. Dropping this ends the process.
    pub(super) async fn compile(
        &self,
        settings: Settings,
        module: Input,
        bytes: u64,
        code: File,
    ) -> Result<Answer, PrepareError> {
        let broken = |error: io::Error| PrepareError::Compiler(Arc::new(error));
        let limits = self.limits(bytes);
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let order = Order { settings, threads: self.threads, limits, parent };
        let order = serde_json::to_string(&order).expect("an order of numbers");
        let (stdin, module) = match module {
            Input::File(file) => (Stdio::from(file), None),
            Input::Memory(bytes) => (Stdio::piped(), Some(bytes)),
        };
        let mut child = Command::new(&self.binary)
            .arg0("coracle")
            .args(["compile", &order])
            .env_clear()
            .current_dir("/")
            .stdin(stdin)
            .stdout(code)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(broken)?;
        let deadline = Duration::from_secs(limits.wall) + PATIENCE;
        let Ok(ended) = tokio::time::timeout(deadline, conversation(&mut child, module)).await else {
            return Err(overdue(&limits)); // and it is killed, being dropped
        };
        let (said, status) = ended.map_err(broken)?;
        answer(&said, status, &limits)
    }
}

/// Bytes of memory that the host has; little if nobody knows.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|total| total.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

/// Hands the module over, if it is not a file, and hears the process out.
async fn conversation(child: &mut Child, module: Option<Bytes>) -> io::Result<(String, ExitStatus)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let give = async {
        if let (Some(mut stdin), Some(module)) = (stdin, module) {
            // It ended before it had read all: its status says why.
            let _ = stdin.write_all(&module).await;
        }
    };
    let hear = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            stderr.take(SAID).read_to_end(&mut said).await?;
        }
        Ok::<_, io::Error>(String::from_utf8_lossy(&said).into_owned())
    };
    let ((), said) = tokio::join!(give, hear);
    Ok((said?, child.wait().await?))
}

/// What a process means by what it said and how it ended.
fn answer(said: &str, status: ExitStatus, limits: &Limits) -> Result<Answer, PrepareError> {
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    if status.success() {
        let last = said.lines().last().unwrap_or_default();
        if let Ok(answer) = serde_json::from_str(last) {
            return Ok(answer);
        }
    }
    if status.code() == Some(i32::from(OVERDUE)) {
        return Err(overdue(limits));
    }
    match status.signal() {
        // The kernel's own way to end who has used up its time.
        Some(SIGXCPU) => {
            return Err(PrepareError::TooCostly { limit: format!("{}s of CPU time", limits.cpu) });
        }
        // Somebody of the host: the node has not, and the kernel does so when there is no memory left. It may well
        // be somebody else who took that.
        Some(SIGKILL) => return Err(PrepareError::Killed),
        _ => {}
    }
    // The last words of Rust's allocator, and of a thread that the kernel gives no memory.
    if ["memory allocation of ", "Cannot allocate memory", "Resource temporarily unavailable"]
        .iter()
        .any(|words| said.contains(words))
    {
        let limit = format!("{} MiB of memory", limits.memory >> 20);
        return Err(PrepareError::TooCostly { limit });
    }
    tracing::warn!(%status, said = said.trim(), "the compiler failed");
    Err(PrepareError::Compile { message: "the compiler failed on this module".into() })
}

fn overdue(limits: &Limits) -> PrepareError {
    PrepareError::TooCostly { limit: format!("{}s", limits.wall) }
}

impl Answer {
    /// What was made, or why not.
    pub(super) fn facts(self) -> Result<Facts, PrepareError> {
        match self {
            Answer::Made(facts) => Ok(facts),
            Answer::NotWritten(message) => Err(PrepareError::Compile { message }),
            Answer::Refused(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { cpu: 30, wall: 180, memory: 512 << 20 };

    #[track_caller]
    fn check(said: &str, wait_status: i32, expected: &str) {
        let result = answer(said, ExitStatus::from_raw(wait_status), &LIMITS).and_then(Answer::facts);
        assert_eq!(result.unwrap_err().to_string(), expected);
    }

    #[test]
    fn how_a_process_ends_says_why() {
        let exited = |code: i32| code << 8;
        check("", exited(i32::from(OVERDUE)), "compiling took more than 180s");
        check("", 24, "compiling took more than 30s of CPU time");
        check("", 9, "the compiler was killed: the node may be out of memory");
        check("\nmemory allocation of 77 bytes failed\n", 6, "compiling took more than 512 MiB of memory");
        let failed = "module cannot be compiled: the compiler failed on this module";
        check("thread 'compile' panicked at x", exited(101), failed);
        check("\nthread 'compile' has overflowed its stack\n", 6, failed);
        check("", 0, failed);
        check("{\"Made\"", 0, failed);
        check("noise\n{\"Refused\":\"NotWasm\"}\n", 0, "not a WebAssembly module or component");
    }

    #[test]
    fn larger_modules_may_take_more() {
        let process = Process { binary: PathBuf::new(), threads: 1, seconds: 20, host_memory: 8 << 30 };
        assert_eq!(process.limits(0), Limits { cpu: 20, wall: 120, memory: MEMORY_BASE });
        assert_eq!(process.limits(30_000_000).cpu, 320);
        assert_eq!(process.limits(200_000_000).memory, 4 << 30, "no more than half of the host's");
        let small = Process { host_memory: 256 << 20, ..process };
        assert_eq!(small.limits(200_000_000).memory, MEMORY_BASE);
    }
}
