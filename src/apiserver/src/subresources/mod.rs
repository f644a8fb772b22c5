//! What can be addressed below an object and is not a part of it.

pub(crate) mod binding;
pub(crate) mod finalize;
pub(crate) mod log;
pub(crate) mod scale;
