//! `coracle bench`: what this build does on this machine, measured from outside.
//!
//! The measurements of start, pods and services start the real binary in a folder of its own and talk to it as a client does;
//! times include TLS, HTTP and the disk. The others measure one part of it by itself.

pub(crate) mod child;
pub(crate) mod density;
pub(crate) mod http;
pub(crate) mod http_peer;
mod lab;
pub(crate) mod loopback;
pub(crate) mod pods;
pub(crate) mod scheduler;
pub(crate) mod services;
pub(crate) mod spawn;
pub(crate) mod startup;
pub(crate) mod volume;

use std::time::Duration;

/// Minimum, median, 99th percentile and maximum of some durations, in milliseconds.
pub(crate) fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let ms = |d: Option<&Duration>| d.map_or(f64::NAN, |d| d.as_secs_f64() * 1e3);
    format!(
        "median {:.1} ms  (min {:.1}, p99 {:.1}, max {:.1}, n={})",
        ms(times.get(times.len() / 2)),
        ms(times.first()),
        ms(times.get(times.len() * 99 / 100)),
        ms(times.last()),
        times.len()
    )
}

/// Bytes as mebibytes.
pub(crate) fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}
