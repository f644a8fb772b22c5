//! The Kubernetes API over HTTP: discovery, verbs, watches, tables, admission, and the door to the
//! nodes.
//!
//! A request goes through one pipeline whose order is written once, in `pipeline`: authorize →
//! decode (strict field validation) → default → mutating admission → prepare → validate → validating
//! admission → store → respond. Kinds fill in hooks ([`coracle_api::Hooks`]); nothing here may know a
//! kind by name except where Kubernetes itself has an endpoint of that kind's own (`pods/binding`,
//! `pods/log`, `pods/exec`, `services/proxy`, `namespaces/finalize`) or an admission plugin that is about it.
//!
//! Beside the pipeline stand what is not stored: streams and proxies to the nodes (`connect`,
//! `subresources`), reviews, and the metrics of nodes and pods (`virtuals`).
//!
//! Until there are roles, `authorize` says who may do what: whoever has a certificate of the cluster,
//! everything; a service account, discovery and reading its own namespace but for its secrets. Tokens of
//! service accounts are mounted into pods that ask for it (`automountServiceAccountToken: true` in the pod or
//! its account), not into all.
//!
//! It must never write to the store past the pipeline, keep truth of its own that a restart would
//! lose, or trust an object from the wire before the schema has checked it.
//!
//! Read first: [`ApiServer`] (the handle), `request_info` (what a path means),
//! `pipeline` (the order of things), `admission` (what is filled in and refused).

mod admission;
mod auth;
mod authorize;
mod bootstrap;
mod connect;
mod continue_token;
mod core;
mod decode;
mod delete;
mod discovery;
mod dispatch;
mod events;
mod facts;
mod health;
mod list;
mod metrics;
mod negotiation;
mod nodes;
mod object;
mod openapi;
mod options;
mod patch;
mod pipeline;
mod pki;
mod registry;
mod request_info;
mod resource_metrics;
mod respond;
mod reviews;
mod serve;
mod server;
mod shares;
mod subresources;
mod summaries;
mod table;
mod tokens;
mod verbs;
mod virtuals;
mod watch;

#[cfg(test)]
mod tests;

pub use auth::{AUTHENTICATED, User};
pub use bootstrap::BootstrapError;
pub use discovery::GIT_VERSION;
pub use nodes::NodeProxies;
pub use pki::{AdminCredentials, PkiError};
pub use server::{ApiServer, BuildError, Config};
