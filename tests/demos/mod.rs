//! The demos of `guest-examples`, as their READMEs show them.

mod canary;
mod cron_report;
mod guestbook;
mod hello10k;
mod prometheus_adapter;
mod rolling_update;
mod stateful_counter;
mod toolbox;
mod worker_queue;

use crate::support::{Cluster, have_kubectl, http_get, manifest};

/// A cluster with the modules (file, image) and what the manifest makes; `None` without kubectl.
fn start(modules: &[(&str, &str)], path: &str) -> Option<Cluster> {
    if !have_kubectl() {
        return None;
    }
    let cluster = Cluster::start();
    for (module, image) in modules {
        cluster.push_as(module, image);
    }
    cluster.kubectl_input("apply -f -", &manifest(path));
    Some(cluster)
}

/// The body of a 2xx answer.
fn body(address: &str, path: &str) -> Result<String, String> {
    match http_get(address, path)? {
        (head, body) if head.starts_with("HTTP/1.1 2") => Ok(body),
        (head, body) => Err(format!("{head}\n{body}")),
    }
}

/// A header of an answer.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(n, _)| *n == name)
        .map_or("", |(_, value)| value)
}
