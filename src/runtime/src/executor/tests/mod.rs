//! The decision on simulated time, and the threads with futures that burn CPU.

mod decision;
mod threads;
