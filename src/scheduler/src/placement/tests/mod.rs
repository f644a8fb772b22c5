//! Decisions by tables, against a slow reference, and that no node is ever asked for more than it has.

mod against_reference;
mod basics;
mod hints;
mod make;
mod pods;
mod preemption;
mod reference;
mod scores;
mod volumes;
