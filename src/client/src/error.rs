//! Why a reconciliation did not reach its end, and what API errors mean.

use std::{error::Error, fmt::Write};

/// Why a reconciliation stopped. The key is tried again later.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A call to the API failed.
    #[error("cannot {action}")]
    Api {
        /// What was attempted, e.g. `create a pod for default/web`.
        action: String,
        /// What the client said.
        #[source]
        source: Box<kube::Error>,
    },
    /// Something that must be there first is not.
    #[error("{0}")]
    NotYet(String),
    /// The reconciler panicked. A bug: it is logged, and the key is tried again.
    #[error("the reconciler panicked: {0}")]
    Panicked(String),
}

impl ReconcileError {
    /// True for a write that lost a race (409 Conflict): the next try sees the newer object.
    pub fn is_conflict(&self) -> bool {
        matches!(self, ReconcileError::Api { source, .. } if is_conflict(source))
    }
}

/// Says what was attempted when a call to the API failed.
pub trait During<T> {
    /// Turns the client's error into a [`ReconcileError`] with the context that a reader needs.
    fn during(self, action: impl FnOnce() -> String) -> Result<T, ReconcileError>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T, ReconcileError> {
        self.map_err(|source| ReconcileError::Api { action: action(), source: Box::new(source) })
    }
}

/// True if the API answered 404.
pub fn is_not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

/// True if the API answered that a write lost a race.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

/// True if the API answered that the object to be created exists.
pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists")
}

/// What the API said, in its own words: fit for events and conditions.
pub fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// The error and its sources, for logs.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
