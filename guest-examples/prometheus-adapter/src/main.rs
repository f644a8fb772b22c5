//! An old store with statistics of its own kind, and their adapter to Prometheus.
//!
//! Shows the adapter pattern between two containers of a pod. `prometheus-adapter legacy` is the old program: a memory store
//! with a line protocol on port 11211 (`set KEY VALUE`, `get KEY`, `stats`, `quit`) that knows nothing of HTTP.
//! `prometheus-adapter adapter` asks it for its `stats` over the pod's loopback at every scrape and answers on port 9100 in the
//! text format that Prometheus reads. The one need not be changed, or built again, for the other.

mod adapter;
mod legacy;

use std::{env, io, process::ExitCode};

fn main() -> io::Result<ExitCode> {
    match env::args().nth(1).as_deref() {
        Some("legacy") => legacy::run()?,
        Some("adapter") => adapter::run()?,
        _ => {
            eprintln!("usage: prometheus-adapter legacy|adapter");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
