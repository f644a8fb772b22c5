//! Commands that the node runs inside a container for probes and hooks.

use std::sync::Arc;

use coracle_runtime::{Container, Exit, Output, Stdin};
use parking_lot::Mutex;

use crate::{
    context::Context,
    exec::{self, ExecIo},
    handle::PodHandle,
    termination::exit_of,
};

/// How much of what a command writes is kept. Kubernetes' number.
const MAX_OUTPUT: usize = 10 << 10;

/// How a command ended.
pub(crate) struct End {
    pub(crate) code: i32,
    /// The beginning of what it wrote, to stdout and stderr alike.
    pub(crate) output: String,
}

/// Runs a command in a container to its end. When this is dropped the command is ended. The error says why
/// it could not be run at all.
pub(crate) async fn run(
    context: &Arc<Context>,
    handle: &Arc<PodHandle>,
    container: &str,
    argv: Vec<String>,
) -> Result<End, String> {
    let output = Arc::new(Kept::default());
    let io = ExecIo { stdin: Stdin::Closed, stdout: output.clone(), stderr: output.clone(), tty: false };
    let started = exec::start(context, handle, container, argv, io).await;
    let instance = Guard(started.map_err(|error| error.to_string())?);
    let exit = instance.0.wait().await;
    if let Exit::Exhausted { message } = exit {
        return Err(message);
    }
    let output = String::from_utf8_lossy(&output.0.lock()).into_owned();
    Ok(End { code: exit_of(exit).code, output })
}

/// Ends a command that nobody waits for any more.
struct Guard(Container);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill();
    }
}

#[derive(Default)]
struct Kept(Mutex<Vec<u8>>);

impl Output for Kept {
    fn write(&self, bytes: &[u8]) {
        let mut kept = self.0.lock();
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}
