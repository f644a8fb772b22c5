//! Logs through `tracing`, to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::{Log, LogFormat};

/// Sets the process's log up. A filter that cannot be read is reported and the default used: a typo
/// must not keep a cluster from starting.
pub(crate) fn init(log: &Log) {
    let filter = EnvFilter::try_new(&log.log_level);
    let mistake = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
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
    if let Some(mistake) = mistake {
        tracing::warn!(filter = log.log_level, mistake, "log level not understood; logging at info");
    }
}
