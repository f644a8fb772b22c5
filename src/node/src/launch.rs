//! From a container's spec to a running container: image, program, environment, mounts, start.

use std::net::IpAddr;
use std::sync::Arc;

use coracle_network::PodStack;
use coracle_runtime::{ContainerSpec, Place, ProgramKind, Queued, StartError, Stdin, stdin_pipe};
use coracle_vfs::Mounts;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use crate::{
    admission::importance,
    context::{Context, container_at},
    env::{self, Environment},
    exec::Running,
    handle::PodHandle,
    http,
    images::{chain, image_id},
    logs::LogOutput,
    platform, pod_network, resources,
    state::Waiting,
    termination::{self, MAX_MESSAGE, shorten},
    volumes::{self, PodVolumes},
};

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
    /// The node's place that it has waited for, if it has.
    pub(crate) place: Option<Place>,
}

/// A run that began.
pub(crate) struct Launched {
    pub(crate) running: Arc<Running>,
    pub(crate) container_id: Box<str>,
    pub(crate) image_id: Box<str>,
}

/// Nothing was launched.
pub(crate) struct NotLaunched {
    pub(crate) waiting: Waiting,
    /// Its turn in the line for a place of the node, if that is all that is missing.
    pub(crate) queued: Option<Queued>,
}

impl From<Waiting> for NotLaunched {
    fn from(waiting: Waiting) -> NotLaunched {
        NotLaunched { waiting, queued: None }
    }
}

impl Launch {
    /// Launches the container, telling users about each step. May be dropped at any await; nothing runs
    /// before the last one.
    pub(crate) async fn run(self) -> Result<Launched, NotLaunched> {
        let Launch { context, handle, pod, volumes, stack, index, run, place } = self;
        let tell = |warning: bool, reason: &'static str, message: String| {
            context.tell(&pod, Some(index), warning, reason, &message);
        };
        let Some(spec) = container_at(&pod, index) else {
            return Err(waiting("CreateContainerError", "the container is not in the pod's spec").into());
        };
        let spec = &*spec;
        platform::check(&pod, spec).map_err(|problem| waiting("CreateContainerConfigError", &problem))?;
        let secrets = context.pull_secrets(&pod, &tell);
        let image = context.puller.image(spec, &handle.key().namespace, &secrets, &tell).await?;
        handle.set_image(&spec.name, &image.digest);
        let program = context
            .runtime
            .prepare(&image.module_digest, &image.path, &handle.key().namespace)
            .await
            .map_err(|error| waiting("CreateContainerError", &chain(&error)))?;

        let serving = match program.kind() {
            ProgramKind::Command => None,
            ProgramKind::HttpHandler => Some(
                http::config(&pod, spec)
                    .map_err(|problem| waiting("CreateContainerConfigError", &problem))?,
            ),
        };

        let facts = context.facts(&pod, Some(stack.ip().into()));
        let services = context.service_variables(&pod);
        let env = Environment::of(&facts, spec, &image.env, &services, context.sources.as_ref())
            .map_err(|error| waiting("CreateContainerConfigError", &error.to_string()))?;
        let root = volumes::container_root(&image, &handle.means()).map_err(|error| {
            waiting("CreateContainerError", &format!("cannot open the files of the image: {error}"))
        })?;
        let mut mounts = volumes
            .mounts(root, spec, &env)
            .map_err(|error| waiting("CreateContainerConfigError", &error.to_string()))?;
        let mut args = env::arguments(spec, &image.entrypoint, &image.cmd, &env)
            .map_err(|error| waiting("CreateContainerConfigError", &error.to_string()))?;
        if spec.command.as_ref().is_some_and(|command| !command.is_empty()) {
            context.toolbox.introduce(&program, &mut args);
        }
        if let Some(fabric) = context.fabric.get() {
            let v6 = stack.ip6().map(IpAddr::V6);
            let addresses: Vec<IpAddr> = [stack.ip().into()].into_iter().chain(v6).collect();
            pod_network::write_files(mounts.root(), &pod, spec, &addresses, &fabric.cluster_names()).await;
        }
        let message = termination::Message::of(spec);
        message.prepare(mounts.root()).await;
        let own_dir = spec.working_dir.clone().filter(|dir| !dir.is_empty());
        let working_dir = own_dir.or_else(|| image.working_dir.clone());
        if let Some(dir) = &working_dir {
            make_working_dir(&mounts, dir).await;
        }
        if platform::read_only_root(spec) {
            message.keep_writable(&mut mounts);
            mounts.set_root_read_only();
        }
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
        let start = ContainerSpec {
            budget: handle.budget.clone(),
            cpu: resources::cpu(spec),
            listen: tcp_ports(spec),
            name: format!("{}/{}/{}", key.namespace, key.name, spec.name),
            args,
            env: env.clone(),
            mounts: mounts.clone(),
            network: stack.clone(),
            memory_limit: resources::memory_limit(spec),
            working_dir: working_dir.clone(),
            stdin,
            tty,
            stdout,
            stderr,
        };
        let container = match serving {
            None => context.runtime.start_in(place, program.clone(), start),
            Some(config) => context.runtime.serve(program.clone(), start, config),
        };
        let container = container.map_err(|error| {
            let full = matches!(error, StartError::Exhausted { .. });
            let queued = full.then(|| context.runtime.queue(&program, importance(&pod, &context.node_name)));
            NotLaunched { waiting: waiting("RunContainerError", &chain(&error)), queued: queued.flatten() }
        })?;
        let running = Arc::new(Running {
            program,
            env,
            mounts,
            stack,
            volumes,
            memory: resources::spelled_memory(spec).into(),
            working_dir,
            stdin: writer,
            tty,
            log,
            container,
        });
        tell(false, "Started", format!("Started container {}", spec.name));
        let image_id = image_id(spec.image.as_deref().unwrap_or_default(), &image.digest);
        Ok(Launched { running, container_id: new_id(), image_id: image_id.into() })
    }
}

/// Makes the folder that a container starts in, as container runtimes do. Where it cannot be made, the program finds
/// that out by itself.
async fn make_working_dir(mounts: &Mounts, dir: &str) {
    let (root, dir) = (mounts.root(), dir.trim_start_matches('/').to_owned());
    if root.paths_block() {
        let _ = tokio::task::spawn_blocking(move || root.create_directories(&dir)).await;
    } else {
        let _ = root.create_directories(&dir);
    }
}

fn waiting(reason: &'static str, message: &str) -> Waiting {
    // It may quote a module, which has names of any length.
    Waiting { reason, message: Some(shorten(message, MAX_MESSAGE).into()) }
}

/// The TCP ports that a container declares, in order.
fn tcp_ports(spec: &Spec) -> Vec<u16> {
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        match u16::try_from(port.container_port) {
            Ok(number) if tcp && !ports.contains(&number) => ports.push(number),
            _ => {}
        }
    }
    ports
}

/// `containerID`: 256 random bits in hexadecimal, as other runtimes have it.
fn new_id() -> Box<str> {
    let words: [u64; 4] = std::array::from_fn(|_| coracle_client::random::number());
    let [a, b, c, d] = words;
    format!("coracle://{a:016x}{b:016x}{c:016x}{d:016x}").into()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerPort;

    use super::*;

    #[test]
    fn what_a_module_says_about_itself_is_cut() {
        let waiting = waiting("CreateContainerError", &format!("unknown import `{}`", "x".repeat(180_000)));
        assert_eq!(waiting.message.map(|message| message.len()), Some(MAX_MESSAGE));
    }

    #[test]
    fn declared_tcp_ports_keep_their_order() {
        let port = |number: i32, protocol: Option<&str>| ContainerPort {
            container_port: number,
            protocol: protocol.map(Into::into),
            ..ContainerPort::default()
        };
        let ports = vec![
            port(8080, Some("TCP")),
            port(53, Some("UDP")),
            port(80, None),
            port(8080, None),
            port(70_000, None),
        ];
        let spec = Spec { ports: Some(ports), ..Spec::default() };
        assert_eq!(tcp_ports(&spec), [8080, 80]);
        assert!(tcp_ports(&Spec::default()).is_empty());
    }

    #[test]
    fn ids_look_like_those_of_other_runtimes() {
        let id = new_id();
        assert_eq!(id.len(), "coracle://".len() + 64);
        assert_ne!(id, new_id());
    }
}
