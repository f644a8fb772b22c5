//! The kinds of the Kubernetes API: what they are called, what their objects may contain, what is
//! filled in when a user leaves something out, and what is refused.
//!
//! Pure: no I/O, no clock, no tokio. Time comes in as an argument.
//!
//! Read first: [`Kind`] (a registered kind), [`Hooks`] (what a kind adds to the generic pipeline) and
//! [`schema`] (the table of messages and fields that everything generic derives from: strict field
//! validation, protobuf bodies, merge keys of patches, OpenAPI).

pub mod kind;

pub use k8s_openapi as k8s;
pub use kind::{Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource};
