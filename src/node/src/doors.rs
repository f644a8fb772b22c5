//! Says which ports of this node's address services have: by events what they want and do not get, and by an annotation
//! of the Node object where load balancers are served, which is what their status goes by.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use coracle_client::{Delta, Deltas, EventType, Informer, Key, Recorder, api_message};
use coracle_network::{DoorKind, DoorProblem, Fabric, Protocol};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Resource;

use crate::registration::Registration;

/// The annotation of a node with the ports on which it serves load balancers: `TCP/80,UDP/53`. The controller that
/// says where services are reached reads it.
const SERVED: &str = "coracle.dev/load-balancer-ports";

/// Ports that are listed. An object's annotations hold 256 KiB, and a port takes up to ten bytes; load balancers on
/// others are not said to be here.
const SERVED_MAX: usize = 16 * 1024;

/// The wait before the annotation is written again after the API did not take it.
const RETRY: Duration = Duration::from_secs(1);

/// Tells of the doors of this node.
pub(crate) struct Doors {
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) services: Informer<Service>,
    pub(crate) registration: Arc<Registration>,
    pub(crate) recorder: Recorder,
}

impl Doors {
    /// One event per problem, when it begins, and the annotation whenever it is not right. Until it is cancelled.
    pub(crate) async fn run(self, nodes: Informer<Node>) {
        let mut deltas = nodes.subscribe();
        let mut told = BTreeSet::new();
        loop {
            told = self.tell(&told);
            let again = match self.fabric.balanced_doors() {
                Some(doors) => self.registration.annotate(SERVED, &served(&doors)).await.err(),
                None => None,
            };
            if let Some(error) = &again {
                tracing::debug!(error = api_message(error), "the ports of load balancers are not told yet");
            }
            let retry = async {
                match again {
                    Some(_) => tokio::time::sleep(RETRY).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.fabric.door_problems_changed() => {}
                () = annotations_changed(&mut deltas, self.registration.name()) => {}
                () = retry => {}
            }
        }
    }

    /// Makes events of problems that were not told. Answers which there are.
    fn tell(&self, told: &BTreeSet<Identity>) -> BTreeSet<Identity> {
        let problems = self.fabric.door_problems();
        for problem in problems.iter().filter(|problem| !told.contains(&identity(problem))) {
            let key = Key { namespace: problem.namespace.clone(), name: problem.service.clone() };
            if let Some(service) = self.services.get(&key) {
                let (reason, message) = words(problem, self.registration.name());
                self.recorder.event(&service.object_ref(&()), EventType::Warning, reason, &message);
            }
        }
        problems.iter().map(identity).collect()
    }
}

/// Waits until annotations of a node are others than they were. Never returns once the informer has ended.
async fn annotations_changed(deltas: &mut Deltas<Node>, name: &str) {
    while let Some(delta) = deltas.next().await {
        let same = |old: &Node, new: &Node| old.metadata.annotations == new.metadata.annotations;
        let changed = match &delta {
            Delta::Updated { old, new } => !same(old, new),
            Delta::Added(_) | Delta::Deleted(_) => true,
        };
        if changed && delta.object().metadata.name.as_deref() == Some(name) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

fn served(doors: &[(u16, Protocol)]) -> String {
    let names: Vec<_> =
        doors.iter().take(SERVED_MAX).map(|(port, protocol)| format!("{}/{port}", text(*protocol))).collect();
    names.join(",")
}

fn text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// A problem as far as it has to be told.
type Identity = (String, String, String);

fn identity(problem: &DoorProblem) -> Identity {
    (problem.namespace.clone(), problem.service.clone(), words(problem, "").1)
}

/// The reason and the message of a problem's event: for load balancers as Kubernetes' service controller has them, for
/// health checks as kube-proxy does.
fn words(problem: &DoorProblem, node: &str) -> (&'static str, String) {
    let DoorProblem { namespace, service, kind, address, protocol, reason } = problem;
    let cannot = |what: &str| format!("cannot open {what} {} {address}: {reason}", text(*protocol));
    match kind {
        DoorKind::NodePort => ("FailedToOpenPort", cannot("nodePort")),
        DoorKind::HealthCheck => {
            let (service, port) = (format!("{namespace}/{service}"), address.port());
            let message =
                format!("node {node} failed to start healthcheck {service:?} on port {port}: {reason}");
            ("FailedToStartServiceHealthcheck", message)
        }
        DoorKind::LoadBalancer => {
            let why = cannot("load balancer port");
            let message = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
            ("SyncLoadBalancerFailed", message)
        }
    }
}
