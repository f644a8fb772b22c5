//! The server in process, over the memory store, through its router: what a client sees.

mod admission;
mod deletes;
mod discovery;
mod errors;
mod harness;
mod lists;
mod metrics;
mod objects;
mod pods;
mod properties;
mod server;
mod services;
mod streams;
mod tokens;
mod watches;
