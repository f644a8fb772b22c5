//! How every part of Coracle talks to the API: `kube` clients over an in-process service, shared
//! informers with indexes, work queues, and the recorder of events.
//!
//! Controllers, scheduler and node are clients of the API, exactly as they would be on another
//! machine; this crate never touches the store or the API server's insides.
//!
//! Read first: [`Informers`] and [`Informer`] (what is known), [`WorkQueue`] and [`run_workers`] (what
//! is to be done), [`Recorder`] (what is told to people), [`LeaderElection`] (who does it). Time and randomness come from [`clock`] and
//! [`random`], so that everything runs under tokio's paused clock with a seed.

mod connect;
mod election;
mod error;
mod informer;
mod key;
mod queue;
mod recorder;
mod workers;

pub mod calls;
pub mod clock;
pub mod random;

#[cfg(any(test, feature = "test-support"))]
pub mod test_support;

pub use connect::in_process;
pub use election::{Election, LeaderElection};
pub use error::{
    During, ReconcileError, api_message, is_already_exists, is_ambiguous, is_conflict, is_not_found,
};
pub use informer::{Delta, Deltas, Informer, Informers, Metadata, Object};
pub use key::Key;
pub use queue::{Backoff, Item, WorkQueue};
pub use recorder::{EventType, Recorder};
pub use workers::run_workers;
