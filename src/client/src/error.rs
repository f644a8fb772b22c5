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

/// True if the call may have been carried out although it failed.
pub fn is_ambiguous(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

/// What the API said, in its own words: fit for events and conditions.
pub fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// The error and its sources, for logs. Of the API's own errors their message is enough: the client says it
/// three times.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let client = error
            .downcast_ref::<kube::Error>()
            .or_else(|| error.downcast_ref::<Box<kube::Error>>().map(|error| &**error));
        // Writing to a string cannot fail.
        if let Some(said) = client.filter(|error| code(error).is_some()) {
            let _ = write!(text, ": {}", api_message(said));
            break;
        }
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

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_the_api_says_is_logged_once() {
        let status =
            Status::failure("pods \"a\" is forbidden: exceeded quota: q", "Forbidden").with_code(403);
        let refused: Result<(), _> = Err(kube::Error::Api(Box::new(status)));
        let failure = refused.during(|| "create a pod".to_owned()).unwrap_err();
        assert_eq!(chain(&failure), "cannot create a pod: pods \"a\" is forbidden: exceeded quota: q");
    }
}
