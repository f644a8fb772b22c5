//! The hooks of a container's life: `postStart` and `preStop`, as commands, HTTP requests or naps.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::{
    command,
    context::{Context, container_at},
    handle::PodHandle,
    probes::HttpRequest,
    state::Hook,
};

/// Whom an HTTP hook says it comes from.
const USER_AGENT: &str = "kube-lifecycle/1.33";

/// A hook that is to be run.
pub(crate) struct Call {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: Arc<PodHandle>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) index: usize,
    pub(crate) hook: Hook,
    pub(crate) ip: Option<IpAddr>,
}

impl Call {
    /// Runs it to its end, however long that takes; true if it succeeded. What went wrong is logged and not
    /// told to users: it may quote what the guest answered, and that may be secret.
    pub(crate) async fn run(self) -> bool {
        let Some(container) = container_at(&self.pod, self.index) else { return false };
        let lifecycle = container.lifecycle.as_ref();
        let handler = lifecycle.and_then(|lifecycle| match self.hook {
            Hook::PostStart => lifecycle.post_start.as_ref(),
            Hook::PreStop => lifecycle.pre_stop.as_ref(),
        });
        let Some(handler) = handler else { return true };
        match self.handle(handler, &container).await {
            Ok(()) => true,
            Err(problem) => {
                let (pod, hook) = (self.handle.key(), self.hook);
                tracing::info!(%pod, container = container.name, ?hook, problem, "a lifecycle hook failed");
                false
            }
        }
    }

    async fn handle(&self, handler: &LifecycleHandler, container: &Container) -> Result<(), String> {
        if let Some(action) = &handler.exec {
            let argv = action.command.clone().unwrap_or_default();
            let end = command::run(&self.context, &self.handle, &container.name, argv).await?;
            return match end.code {
                0 => Ok(()),
                code => Err(format!("command exited with {code}: {}", end.output)),
            };
        }
        if let Some(action) = &handler.http_get {
            let ip = self.ip.ok_or("the pod has no address")?;
            let request = HttpRequest::of(action, container, ip, USER_AGENT)?;
            let fabric = self.context.fabric.get().ok_or("the network of the node is not ready")?;
            // Whatever the answer is, it was heard: Kubernetes does not look at its status either.
            let asked = request.ask(fabric).await?;
            return request.answer(fabric, asked).await.map(|_| ());
        }
        if let Some(action) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        Err("invalid handler".into())
    }
}
