//! Room `vfs`.
