//! The node's network as a whole.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{Config, NetworkError, PodConfig, PodStack, Stream};

/// The network of one node: pod addresses, services, NodePorts.
#[derive(Debug)]
pub struct Fabric {
    _config: Config,
}

/// A NodePort that could not be opened on the node's address; it is tried again until it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortProblem {
    /// The namespace of the Service.
    pub namespace: String,
    /// The name of the Service.
    pub service: String,
    /// The kernel address that was refused.
    pub address: SocketAddr,
    /// What the kernel said.
    pub reason: String,
}

impl Fabric {
    /// Builds the fabric. Must be called inside a Tokio runtime, which then carries its timers, its
    /// kernel sockets and its NodePort tasks until [`Fabric::shutdown`].
    #[must_use]
    pub fn build(config: Config) -> Arc<Fabric> {
        Arc::new(Fabric { _config: config })
    }

    /// Gives a pod an address and a stack.
    pub fn add_pod(&self, _pod: PodConfig) -> Result<PodStack, NetworkError> {
        Err(NetworkError::Closed)
    }

    /// Takes in a Service as it is now.
    pub fn apply_service(&self, _service: &Service) {}

    /// Forgets a Service; its NodePorts close.
    pub fn remove_service(&self, _namespace: &str, _name: &str) {}

    /// Takes in an EndpointSlice as it is now.
    pub fn apply_slice(&self, _slice: &EndpointSlice) {}

    /// Forgets an EndpointSlice.
    pub fn remove_slice(&self, _namespace: &str, _name: &str) {}

    /// The node dials a pod or a service (probes, port-forward).
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        Err(NetworkError::Refused(address).into())
    }

    /// NodePorts that are wanted but not open.
    #[must_use]
    pub fn node_port_problems(&self) -> Vec<NodePortProblem> {
        Vec::new()
    }

    /// Closes all pods, NodePorts and tasks.
    pub async fn shutdown(&self) {}
}
