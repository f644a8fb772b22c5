//! End to end: the real binary, the real kubectl, real modules.
//!
//! Each file is one subject; [`support`] starts a cluster in a folder of its own and runs kubectl
//! against it. Where kubectl is missing the tests that need it say so and pass, except in CI, where
//! that is an error.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "everything here is a test; the linter knows only `#[test]` functions"
)]

mod api_errors;
mod applications;
mod autoscale;
mod crash;
mod demos;
mod doors;
mod hostile;
mod http;
mod kubectl;
mod network_policy;
mod process;
mod registry;
mod soak;
mod streams;
mod support;
mod wasi_p3;
