//! From a container's spec to a running container: image, program, environment, mounts, start.

use std::sync::Arc;

use coracle_api::quantity::Quantity;
use coracle_network::PodStack;
use coracle_runtime::{Container, ContainerSpec, Exit as RuntimeExit, Stdin, stdin_pipe};
use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use crate::{
    context::{Context, container_at},
    env::{self, Environment},
    exec::Running,
    handle::PodHandle,
    images::{chain, image_id},
    logs::{ContainerLog, LogOutput},
    state::{Exit, Waiting},
    volumes::PodVolumes,
};

/// Exit code of a guest that trapped: that of a program that aborted.
const TRAPPED: i32 = 134;
/// Exit code of a guest that was ended from outside.
const KILLED: i32 = 137;
/// The longest termination message. Kubernetes' number.
const MAX_MESSAGE: usize = 4096;

/// What is launched.
pub(crate) struct Launch {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: Arc<PodHandle>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) volumes: Arc<PodVolumes>,
    pub(crate) stack: PodStack,
    pub(crate) index: usize,
    /// The restart count of the run.
    pub(crate) run: i32,
}

/// A run that began.
pub(crate) struct Launched {
    pub(crate) container: Container,
    pub(crate) container_id: Box<str>,
    pub(crate) image_id: Box<str>,
    pub(crate) log: Arc<ContainerLog>,
    pub(crate) running: Running,
}

impl Launch {
    /// Launches the container, telling users about each step. May be dropped at any await; nothing runs
    /// before the last one.
    pub(crate) async fn run(self) -> Result<Launched, Waiting> {
        let Launch { context, handle, pod, volumes, stack, index, run } = self;
        let tell = |warning: bool, reason: &'static str, message: String| {
            context.tell(&pod, Some(index), warning, reason, &message);
        };
        let Some(spec) = container_at(&pod, index) else {
            return Err(waiting("CreateContainerError", "the container is not in the pod's spec"));
        };
        let image = context.puller.image(spec, &tell).await?;
        let program = context
            .runtime
            .prepare(&image.module_digest, &image.path)
            .await
            .map_err(|error| waiting("CreateContainerError", &chain(&error)))?;

        let facts = context.facts(&pod, Some(stack.ip().into()));
        let services = context.service_variables(&pod);
        let env = Environment::of(&facts, spec, &image.env, &services, context.sources.as_ref())
            .map_err(|error| waiting("CreateContainerConfigError", &error.to_string()))?;
        let mounts = volumes
            .mounts(spec, &env)
            .map_err(|error| waiting("CreateContainerConfigError", &error.to_string()))?;
        let args = env::arguments(spec, &image.entrypoint, &image.cmd, &env)
            .map_err(|error| waiting("CreateContainerConfigError", &error.to_string()))?;
        let log = context.logs.pod(&pod).begin(&spec.name, run);
        let (stdout, stderr) = LogOutput::both(&log);
        let key = handle.key();
        tell(false, "Created", format!("Created container: {}", spec.name));
        let (stdin, writer) = match spec.stdin {
            Some(true) => {
                let (writer, reader) = stdin_pipe();
                (Stdin::Pipe(reader), Some(writer))
            }
            _ => (Stdin::Closed, None),
        };
        let (env, tty) = (env.into_vec(), spec.tty.unwrap_or(false));
        let working_dir = spec.working_dir.clone().filter(|dir| !dir.is_empty());
        let memory_limit = memory_limit(spec);
        let start = ContainerSpec {
            name: format!("{}/{}/{}", key.namespace, key.name, spec.name),
            args,
            env: env.clone(),
            mounts: mounts.clone(),
            network: stack.clone(),
            memory_limit,
            working_dir: working_dir.clone(),
            stdin,
            tty,
            stdout,
            stderr,
        };
        let container = context
            .runtime
            .start(program.clone(), start)
            .map_err(|error| waiting("RunContainerError", &chain(&error)))?;
        let running = Running {
            program,
            env,
            mounts,
            stack,
            memory_limit,
            working_dir,
            stdin: writer,
            tty,
            log: log.clone(),
            container: container.clone(),
        };
        tell(false, "Started", format!("Started container {}", spec.name));
        let image_id = image_id(spec.image.as_deref().unwrap_or_default(), &image.digest);
        Ok(Launched { container, container_id: new_id(), image_id: image_id.into(), log, running })
    }
}

fn waiting(reason: &'static str, message: &str) -> Waiting {
    // It may quote a module, which has names of any length.
    Waiting { reason, message: Some(shorten(message, MAX_MESSAGE).into()) }
}

fn memory_limit(spec: &Spec) -> Option<u64> {
    let limits = spec.resources.as_ref()?.limits.as_ref()?;
    let bytes = Quantity::parse(&limits.get("memory")?.0).ok()?.value();
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// `containerID`: 256 random bits in hexadecimal, as other runtimes have it.
fn new_id() -> Box<str> {
    let words: [u64; 4] = std::array::from_fn(|_| coracle_client::random::number());
    let [a, b, c, d] = words;
    format!("coracle://{a:016x}{b:016x}{c:016x}{d:016x}").into()
}

/// The end of a run in Kubernetes' terms.
pub(crate) fn exit_of(exit: RuntimeExit) -> Exit {
    match exit {
        RuntimeExit::Code(0) => Exit { code: 0, reason: "Completed", message: None },
        RuntimeExit::Code(code) => Exit { code, reason: "Error", message: None },
        RuntimeExit::Trap { message } => {
            Exit { code: TRAPPED, reason: "Error", message: Some(shorten(&message, MAX_MESSAGE).into()) }
        }
        RuntimeExit::OutOfMemory => Exit { code: KILLED, reason: "OOMKilled", message: None },
        RuntimeExit::Killed => Exit { code: KILLED, reason: "Error", message: None },
    }
}

/// At most `max` bytes of a text, cut between characters.
fn shorten(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
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
                (137, "Error", None),
            ]
        );
    }

    #[test]
    fn what_a_module_says_about_itself_is_cut() {
        let waiting = waiting("CreateContainerError", &format!("unknown import `{}`", "x".repeat(180_000)));
        assert_eq!(waiting.message.map(|message| message.len()), Some(MAX_MESSAGE));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shorten("añb", 2), "a");
        assert_eq!(shorten("añb", 3), "añ");
        assert_eq!(shorten("ab", 9), "ab");
    }

    #[test]
    fn ids_look_like_those_of_other_runtimes() {
        let id = new_id();
        assert_eq!(id.len(), "coracle://".len() + 64);
        assert_ne!(id, new_id());
    }
}
