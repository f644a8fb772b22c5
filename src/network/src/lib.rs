//! The virtual network of a node: pods with an address, loopback and ports of their own, services,
//! names, and the few doors to the kernel's network. Everything between two guests happens in memory.
//!
//! Read first: [`Fabric`] (one per node: addresses, services, NodePorts), [`PodStack`] (what a pod's
//! guests see) and [`Stream`] (two ends of a TCP connection).
//!
//! It must never let a guest reach the node's own addresses, its loopback or link-local addresses, hold
//! a lock across an await, or queue without a bound ([`limits`]).

mod config;
mod error;
mod fabric;
mod idset;
mod kernel;
pub mod limits;
mod meter;
mod names;
mod nodeport;
mod pipe;
mod policy;
mod ports;
mod services;
mod stack;
mod stream;
mod tcp;
mod udp;
mod wakers;

pub use config::{Config, PodConfig};
pub use error::{NetworkError, ResolveError};
pub use fabric::Fabric;
pub use nodeport::NodePortProblem;
pub use stack::{NetworkUsage, PodStack};
pub use stream::Stream;
pub use tcp::{TcpBinding, TcpConnecting, TcpListener};
pub use udp::UdpSocket;
