//! The crate's clock seam: the wall time that file times are taken from.

use std::time::SystemTime;

/// The wall time now.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate where wall time comes in")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
