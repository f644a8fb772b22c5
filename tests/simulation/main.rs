//! Simulation: the real API server over the memory store, the real controllers and scheduler, and
//! simulated nodes, all on one thread under a paused clock, with faults that follow from a seed.
//!
//! ```text
//!  user ──────────────┐ no faults
//!  controllers ─ chaos ┤
//!  scheduler ─── chaos ┼─ API server ─ store ── observer (every change, in order: invariants)
//!  nodes ─────── chaos ┘
//! ```
//!
//! The wall time that all of them read may jump, either way, and timers run on.
//!
//! While faults last the observer checks what must hold at every change; after them the cluster must come
//! to what its objects ask for, and then be quiet.
//!
//! `CORACLE_SIMULATION_SEEDS=N` runs N seeds instead of the usual number, `CORACLE_SIMULATION_SEED=S` seed S
//! alone, with the log that `RUST_LOG` asks for.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "everything here is a test; the linter knows only `#[test]` functions"
)]

mod chaos;
mod cluster;
mod converged;
mod garbage;
mod metrics;
mod node;
mod objects;
mod observer;
mod resumed;
mod scenario;

use std::{env, panic, thread};

/// How many seeds run unless the environment says otherwise.
const SEEDS: u64 = 200;
/// Runs at a time: each keeps one core busy.
const AT_ONCE: u64 = 2;

#[test]
fn every_seed_keeps_the_invariants_and_converges() {
    if let Ok(seed) = env::var("CORACLE_SIMULATION_SEED") {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
        return run(seed.parse().expect("CORACLE_SIMULATION_SEED is a number"));
    }
    let seeds = match env::var("CORACLE_SIMULATION_SEEDS") {
        Ok(seeds) => seeds.parse().expect("CORACLE_SIMULATION_SEEDS is a number"),
        Err(_) => SEEDS,
    };
    let workers: Vec<_> = (0..AT_ONCE)
        .map(|first| {
            thread::spawn(move || {
                let mut failed = Vec::new();
                for seed in (first..seeds).step_by(AT_ONCE as usize) {
                    if panic::catch_unwind(|| run(seed)).is_err() {
                        eprintln!("seed {seed} failed; again: CORACLE_SIMULATION_SEED={seed}");
                        failed.push(seed);
                        if failed.len() == 3 {
                            break;
                        }
                    }
                }
                failed
            })
        })
        .collect();
    let failed: Vec<u64> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

#[test]
fn a_job_starts_anew_whenever_it_is_resumed() {
    on_a_paused_clock(0, resumed::run());
}

fn run(seed: u64) {
    on_a_paused_clock(seed, scenario::run(seed));
}

fn on_a_paused_clock(seed: u64, scenario: impl Future<Output = ()>) {
    coracle_client::random::seed(seed);
    coracle_client::clock::shift(k8s_openapi::jiff::SignedDuration::ZERO);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(scenario);
}
