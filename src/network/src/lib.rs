//! The virtual network of a node: pods with an address, loopback and ports of their own, services,
//! names, and the few doors to the kernel's network. Everything between two guests happens in memory.
//!
//! Read first: [`Fabric`] (one per node: addresses, services, NodePorts), [`PodStack`] (what a pod's
//! guests see) and [`Stream`] (two ends of a TCP connection, in memory or in the kernel).
//!
//! It must never let a guest reach the node's own addresses, its loopback or link-local addresses, hold
//! a lock across an await, or queue without a bound ([`limits`]).

mod config;
mod error;
mod fabric;
pub mod limits;
mod stack;
mod stream;

pub use config::{Config, PodConfig};
pub use error::{NetworkError, ResolveError};
pub use fabric::{Fabric, NodePortProblem};
pub use stack::{PodStack, TcpBinding, TcpConnecting, TcpListener, UdpSocket};
pub use stream::Stream;
