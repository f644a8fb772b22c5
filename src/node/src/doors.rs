//! Says by events which ports of this node's address services want and do not have.

use std::{collections::BTreeSet, sync::Arc};

use coracle_client::{EventType, Informer, Key, Recorder};
use coracle_network::{DoorKind, DoorProblem, Fabric, Protocol};
use k8s_openapi::api::core::v1::Service;
use kube::Resource;

/// One event per problem, when it begins. Until it is cancelled.
pub(crate) async fn run(fabric: Arc<Fabric>, services: Informer<Service>, recorder: Recorder) {
    let mut told = BTreeSet::new();
    loop {
        let problems = fabric.door_problems();
        let now: BTreeSet<_> = problems.iter().map(identity).collect();
        for problem in problems.iter().filter(|problem| !told.contains(&identity(problem))) {
            let key = Key { namespace: problem.namespace.clone(), name: problem.service.clone() };
            if let Some(service) = services.get(&key) {
                let reference = service.object_ref(&());
                recorder.event(&reference, EventType::Warning, "FailedToOpenPort", &message(problem));
            }
        }
        told = now;
        fabric.door_problems_changed().await;
    }
}

fn identity(problem: &DoorProblem) -> (String, String, String) {
    (problem.namespace.clone(), problem.service.clone(), message(problem))
}

fn message(problem: &DoorProblem) -> String {
    let protocol = match problem.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let (what, instead) = match problem.kind {
        DoorKind::NodePort => ("nodePort", ""),
        DoorKind::LoadBalancer => ("load balancer port", "; the service is reached by its nodePort only"),
    };
    format!("cannot open {what} {protocol} {}: {}{instead}", problem.address, problem.reason)
}
