//! The virtual network of a node: pods with an address, loopback and ports of their own, services,
//! names, and the few doors to the kernel's network. Everything between two guests happens in memory.
//!
//! Read first: [`Fabric`] (one per node: addresses, services, NodePorts), [`PodStack`] (what a pod's
//! guests see) and [`Stream`] (two ends of a TCP connection). Who may connect to whom is decided in `admit`, names
//! are resolved in `names` and, for guests that speak DNS themselves, in `dns`.
//!
//! Measured with `cargo bench -p coracle-network` on two busy cores (2026-11-21, optimised; the first three
//! of the stream alone): a write and its read take 0.1 µs for 64 bytes and 0.3 µs for 4 KiB (0.1 µs where
//! buffers are handed over instead of copied, as guests' writes are), a round trip between two tasks 12 µs,
//! connect with accept and close 0.8 µs, one connection moves 5 GB/s, and an idle connection costs 0.7 kB
//! for both ends together.
//!
//! What waits in sockets is paid from the memory of a pod ([`PodConfig::budget`]): who writes pays, from outside the
//! reader. A pod that has none left goes on in small pieces and makes no new connections.
//!
//! It must never let a guest reach the node's own addresses, its loopback or link-local addresses, hold
//! a lock across an await, or queue without a bound ([`limits`]).

mod admit;
mod bandwidth;
mod config;
mod dns;
mod error;
mod fabric;
#[doc(hidden)]
pub mod fuzz;
mod health;
mod hostport;
mod idset;
mod kernel;
pub mod limits;
mod meter;
mod names;
mod nodeport;
mod pipe;
mod policy;
mod pool;
mod ports;
mod services;
mod stack;
mod stream;
mod tcp;
mod udp;
mod visitors;
mod wakers;

pub use admit::{Denial, DenyReason};
pub use config::{Bandwidth, Config, Egress, NamedPort, PodConfig};
pub use error::{NetworkError, ResolveError};
pub use fabric::Fabric;
pub use hostport::HostPort;
/// The types that the fabric is fed with.
pub use k8s_openapi as k8s;
pub use names::{ClusterNames, DnsConfig, HostNames, HostResolver, NameError, Server};
pub use nodeport::DoorProblem;
pub use services::DoorKind;
pub use stack::{NetworkUsage, PodStack, Protocol};
pub use stream::Stream;
pub use tcp::{DrainHandle, TcpBinding, TcpConnecting, TcpListener};
pub use udp::UdpSocket;
