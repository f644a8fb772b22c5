//! `coracle`: the binary. The command line, and the composition root that wires the rooms.
//!
//! Nothing here decides anything about Kubernetes or Wasm: [`cluster`] builds the rooms, hands each
//! what it needs and stops them in order; the other modules are one subcommand each.

mod allocator;
mod bench;
mod cli;
mod cluster;
mod connection;
mod data_dir;
mod demo;
mod guests;
mod host;
mod logging;
mod push;
mod signals;
mod ui;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Bench, Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Compile { order } = &cli.command {
        return coracle_runtime::compile_process(order);
    }
    // The demo speaks for itself.
    let quiet = matches!(cli.command, Command::Demo(_));
    logging::init(&cli.log, if quiet { "warn" } else { "warn,coracle=info" });
    // One crypto provider for the whole process; a second installation cannot happen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    host::prepare();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("control").build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return ui::fail(
                    &anyhow::Error::new(error).context("cannot start the control plane's threads"),
                );
            }
        };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Push(args) => push::run(args).await,
            Command::Bench(Bench::Startup(args)) => bench::startup::run(args).await,
            Command::Bench(Bench::Pods(args)) => bench::pods::run(args).await,
            Command::Bench(Bench::Services(args)) => bench::services::run(args).await,
            Command::Bench(Bench::Loopback(args)) => bench::loopback::run(args).await,
            Command::Bench(Bench::Http(args)) => bench::http::run(args).await,
            Command::Bench(Bench::HttpPeer { component }) => bench::http_peer::run(&component).await,
            Command::Bench(Bench::Scheduler(args)) => bench::scheduler::measure(args).await,
            Command::Bench(Bench::Volume(args)) => bench::volume::measure(args).await,
            Command::Bench(Bench::Spawn(args)) => bench::spawn::run(args).await,
            Command::Bench(Bench::Density(args)) => bench::density::run(args).await,
            Command::Compile { .. } => unreachable!("done before anything else was set up"),
            Command::Version => {
                ui::line(&format!(
                    "coracle {}, serving the API of Kubernetes {}",
                    env!("CARGO_PKG_VERSION"),
                    coracle_apiserver::GIT_VERSION
                ));
                Ok(())
            }
        }
    });
    // Blocking work (a compile, an fsync) must not hold up the exit of a process that has stopped.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ui::fail(&error),
    }
}
