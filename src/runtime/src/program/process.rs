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
use super::line::{Grant, Need};
use super::worker::{Answer, Limits, OVERDUE, Order};
use crate::engine::Settings;
use crate::error::PrepareError;

/// CPU seconds for each megabyte of module, beside those that any module may take. Cranelift compiles about a
/// megabyte a second; slow processors and unlucky modules get ten times that.
const CPU_PER_MEGABYTE: u64 = 10;

/// How much longer a compile may take by the clock than by the processor: it runs below everything else, which on a
/// busy machine leaves it a hundredth of a core. Who is that slow is tried again.
const WALL_PER_CPU: u64 = 30;

/// Bytes of memory that any module may take, and those that ordinary ones do.
const MEMORY_BASE: u64 = 192 << 20;
const MEMORY_USUAL: u64 = 64 << 20;

/// Bytes of memory for each byte of module: three times what ordinary ones take. An interpreter of 18 MB needs 400 MiB.
const MEMORY_PER_BYTE: u64 = 96;
const MEMORY_USUAL_PER_BYTE: u64 = MEMORY_PER_BYTE / 3;

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
}

impl Process {
    pub(super) fn new(binary: PathBuf, threads: usize, time: Duration) -> Process {
        Process { binary, threads, seconds: time.as_secs().max(1) }
    }

    /// CPU seconds that any module may take.
    pub(super) fn seconds(&self) -> u64 {
        self.seconds
    }

    /// What a module of this size may take, with so much memory.
    fn limits(&self, bytes: u64, memory: u64) -> Limits {
        let cpu = self.seconds + bytes.saturating_mul(CPU_PER_MEGABYTE) / 1_000_000;
        Limits { cpu, wall: cpu.saturating_mul(WALL_PER_CPU), memory }
    }

    /// Compiles `module`, of so many bytes, into the file `code`, with the memory that was granted for it. Dropping this
    /// ends the process.
    pub(super) async fn compile(
        &self,
        settings: Settings,
        module: Input,
        bytes: u64,
        code: File,
        grant: &Grant,
    ) -> Result<Answer, PrepareError> {
        let broken = |error: io::Error| PrepareError::Compiler(Arc::new(error));
        let limits = self.limits(bytes, grant.bytes());
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
        let ended = tokio::select! {
            ended = tokio::time::timeout(deadline, conversation(&mut child, module)) => ended,
            () = grant.recalled() => {
                // Its memory is there when it is gone.
                child.kill().await.map_err(broken)?;
                return Err(PrepareError::NoMemory);
            }
        };
        let Ok(ended) = ended else {
            return Err(overdue(&limits)); // and it is killed, being dropped
        };
        let (said, status) = ended.map_err(broken)?;
        answer(&said, status, &limits, grant.is_full())
    }
}

/// The memory that a module of so many bytes needs.
pub(super) fn need(bytes: u64) -> Need {
    let of = |base: u64, each: u64| base.saturating_add(bytes.saturating_mul(each));
    Need { least: of(MEMORY_USUAL, MEMORY_USUAL_PER_BYTE), most: of(MEMORY_BASE, MEMORY_PER_BYTE) }
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

/// What a process means by what it said and how it ended. Whether it had all the memory that its module may take says
/// whose fault it is that there was no more.
fn answer(said: &str, status: ExitStatus, limits: &Limits, full: bool) -> Result<Answer, PrepareError> {
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
        if !full {
            return Err(PrepareError::NoMemory);
        }
        let limit = format!("{} MiB of memory", limits.memory >> 20);
        return Err(PrepareError::TooCostly { limit });
    }
    tracing::warn!(%status, said = said.trim(), "the compiler failed");
    Err(PrepareError::Compile { message: "the compiler failed on this module".into() })
}

fn overdue(limits: &Limits) -> PrepareError {
    PrepareError::Overdue { limit: format!("{}s", limits.wall) }
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
        check_with(true, said, wait_status, expected);
    }

    #[track_caller]
    fn check_with(full: bool, said: &str, wait_status: i32, expected: &str) {
        let result = answer(said, ExitStatus::from_raw(wait_status), &LIMITS, full).and_then(Answer::facts);
        assert_eq!(result.unwrap_err().to_string(), expected);
    }

    #[test]
    fn how_a_process_ends_says_why() {
        let exited = |code: i32| code << 8;
        let overdue = "the compiler has not ended within 180s: the node may be too busy";
        check("", exited(i32::from(OVERDUE)), overdue);
        check("", 24, "compiling took more than 30s of CPU time");
        check("", 9, "the compiler was killed: the node may be out of memory");
        check("\nmemory allocation of 77 bytes failed\n", 6, "compiling took more than 512 MiB of memory");
        let little = "the node has too little memory left to compile the module";
        check_with(false, "\nmemory allocation of 77 bytes failed\n", 6, little);
        check_with(false, "", 24, "compiling took more than 30s of CPU time");
        let failed = "module cannot be compiled: the compiler failed on this module";
        check("thread 'compile' panicked at x", exited(101), failed);
        check("\nthread 'compile' has overflowed its stack\n", 6, failed);
        check("", 0, failed);
        check("{\"Made\"", 0, failed);
        check("noise\n{\"Refused\":\"NotWasm\"}\n", 0, "not a WebAssembly module or component");
    }

    #[test]
    fn larger_modules_may_take_more() {
        let process = Process { binary: PathBuf::new(), threads: 1, seconds: 20 };
        assert_eq!(process.limits(0, 7), Limits { cpu: 20, wall: 600, memory: 7 });
        assert_eq!(process.limits(30_000_000, 7).cpu, 320);
        assert_eq!(need(0), Need { least: 64 << 20, most: MEMORY_BASE });
        assert_eq!(need(2 << 20), Need { least: 128 << 20, most: 384 << 20 });
    }
}
