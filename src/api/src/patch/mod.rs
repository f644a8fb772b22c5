//! JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch, as the API server applies them.
//!
//! Patches and objects come from [`crate::schema::parse_json`], whose depth is bounded, and no patch makes
//! an object deeper than that.

mod json;
mod merge;
mod strategic;

pub use json::json_patch;
pub use merge::merge_patch;
pub use strategic::strategic_merge;

/// A patch that cannot be applied. `Status::from` makes the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is not well formed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422. The text is for our logs; Kubernetes answers with a fixed
    /// sentence.
    #[error("{0}")]
    Inapplicable(String),
    /// The patch has too much of something: 413.
    #[error("{0}")]
    TooLarge(String),
}

#[cfg(test)]
mod tests;
