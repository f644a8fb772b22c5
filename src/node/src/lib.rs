//! The node agent: turns pods bound to this node into running containers and says how they are doing.
//!
//! It is a client of the API like any other: it reads pods, services and what they refer to from shared
//! informers, and writes statuses, events, its Node and its Lease. It runs guests through
//! `coracle-runtime`, gives them files from `coracle-vfs`, a network from `coracle-network` and modules
//! from `coracle-image`. It must never decide where a pod runs, change a pod's spec, or poll the API.
//!
//! Read first: [`Node`] (build, router, ready, shutdown), then `state` (a pod's life as a pure machine),
//! `worker` (the task that lives it) and `status` (what is said of it). `admission` is what the node takes
//! (and `preemption` who goes for a critical pod), `platform` the table of what only Linux could do.
//!
//! ```text
//!  informers ── dispatch ──> worker (one task per pod) ── status_writer ──> API
//!                              │ machine: input → effects      recorder ──> events
//!                              ├─ volumes, images, launch → runtime
//!                              ├─ logs  <── guests             kubelet_api <── API server
//!                              ├─ hooks, probes (one task for all) ── command ──> exec
//!                              ├─ streams (exec, attach, port-forward, proxy) ──> exec, network
//!                              ├─ memory, instances, eviction: who ends when the machine runs short
//!                              └─ termination: how a run ended, and its last words
//! ```

mod admission;
mod agent;
mod backoff;
mod bandwidth;
mod command;
mod context;
mod dirs;
mod doors;
mod env;
mod eviction;
mod exec;
mod handle;
mod hooks;
mod host;
mod http;
mod images;
mod instances;
mod kubelet_api;
mod launch;
mod local_volumes;
mod logs;
mod memory;
mod network_feed;
mod platform;
mod pod_network;
mod preemption;
mod probes;
mod pull_secrets;
mod registration;
mod resize;
mod resources;
mod shutdown;
mod sources;
mod state;
mod static_pods;
mod stats;
mod status;
mod status_writer;
mod storage;
mod streams;
mod table;
mod termination;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod volumes;
mod worker;

/// What pods may reach outside the cluster by default.
pub use coracle_network::Egress;

pub use agent::{Config, Deps, Node, NodeError};
pub use logs::LogLimits;
