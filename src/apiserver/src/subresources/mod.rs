//! What can be addressed below an object and is not a part of it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub(crate) mod binding;
mod container;
pub(crate) mod eviction;
pub(crate) mod finalize;
pub(crate) mod log;
pub(crate) mod part;
pub(crate) mod proxy;
pub(crate) mod scale;
pub(crate) mod stream;
pub(crate) mod token;

/// Everything that could mean something in a path or a query.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a path or of a query.
fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}
