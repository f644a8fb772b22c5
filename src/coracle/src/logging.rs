//! Logs through `tracing`, to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::{Log, LogFormat};

/// Sets the process's log up, with `default` where the command line names no filter.
pub(crate) fn init(log: &Log, default: &str) {
    let filter = EnvFilter::new(log.log_level.as_deref().unwrap_or(default));
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    let json = match log.log_format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(io::stderr().is_terminal()).with_target(false).init();
    }
}
