//! Every bound of the virtual network, and why it is that number.

/// Backlog of a listener that asks for none, and the most it may ask for (Linux's `somaxconn`).
pub const BACKLOG_DEFAULT: usize = 128;
