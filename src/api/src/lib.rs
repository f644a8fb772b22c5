//! The kinds of the Kubernetes API: what they are called, what their objects may contain, what is
//! filled in when a user leaves something out, and what is refused.
//!
//! Pure: no I/O, no clock, no tokio, no randomness. Time and random bits come in as arguments.
//!
//! Read first: [`Kind`] (a registered kind), [`Hooks`] (what a kind adds to the generic pipeline) and
//! [`schema`] (the table of messages and fields that everything generic derives from: strict field
//! validation, protobuf bodies, merge keys of patches, OpenAPI).
//!
//! Nothing here panics on hostile input, and every recursion is bounded: by the depth that
//! [`schema::parse_json`] and [`protobuf::decode`] let through, or by the depth of the schema.

pub mod addresses;
pub mod amounts;
pub mod cron;
pub mod duration;
pub mod field;
pub mod kind;
pub mod kinds;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod placement;
pub mod protobuf;
pub mod quantity;
pub mod quota;
mod quote;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
#[cfg(test)]
mod testing;

pub use k8s_openapi as k8s;
pub use kind::{Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource};
pub use kinds::platform;
pub use quantity::Quantity;
pub use resources::Resources;
pub use status::Status;
