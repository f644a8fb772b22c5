//! What Prometheus reads: the kubelet's `/metrics/resource`, `/metrics/cadvisor` and `/metrics`, by their names.

use std::fmt::Write;

use super::{ContainerUsage, PodUsage, Usage};

/// A page in Prometheus' text format.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (number, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{value}\"", if number == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn pods(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&PodUsage) -> f64, usage: &Usage) {
        self.family(name, kind, help);
        for pod in usage.pods.iter().filter(|pod| !pod.containers.is_empty()) {
            self.sample(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], value(pod));
        }
    }

    fn containers(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        more: &[(&str, &str)],
        value: impl Fn(&ContainerUsage) -> f64,
        usage: &Usage,
    ) {
        self.family(name, kind, help);
        for pod in &usage.pods {
            for container in &pod.containers {
                let labels: Vec<_> =
                    [("container", &*container.name), ("namespace", &pod.namespace), ("pod", &pod.name)]
                        .into_iter()
                        .chain(more.iter().copied())
                        .collect();
                self.sample(name, &labels, value(container));
            }
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "samples are floats; 2^53 bytes are eight petabytes")]
fn bytes(amount: u64) -> f64 {
    amount as f64
}

/// `/metrics/resource`: what metrics-server reads.
pub(crate) fn resource(usage: &Usage) -> String {
    let mut page = Page::default();
    let cpu = "Cumulative cpu time consumed by the container in core-seconds";
    let memory = "Current working set of the container in bytes";
    page.containers(
        ("container_cpu_usage_seconds_total", "counter", cpu),
        &[],
        |c| c.cpu.as_secs_f64(),
        usage,
    );
    page.containers(("container_memory_working_set_bytes", "gauge", memory), &[], |c| bytes(c.memory), usage);
    let cpu = "Cumulative cpu time consumed by the node in core-seconds";
    page.single("node_cpu_usage_seconds_total", "counter", cpu, usage.node.cpu.as_secs_f64());
    let memory = "Current working set of the node in bytes";
    page.single("node_memory_working_set_bytes", "gauge", memory, bytes(usage.node.memory.used()));
    let cpu = "Cumulative cpu time consumed by the pod in core-seconds";
    let seconds = |pod: &PodUsage| pod.containers.iter().map(|container| container.cpu.as_secs_f64()).sum();
    page.pods("pod_cpu_usage_seconds_total", "counter", cpu, seconds, usage);
    let memory = "Current working set of the pod in bytes";
    page.pods("pod_memory_working_set_bytes", "gauge", memory, |pod| bytes(pod.memory()), usage);
    let error = "1 if there was an error while getting container metrics, 0 otherwise";
    page.single("resource_scrape_error", "gauge", error, 0.0);
    page.0
}

/// `/metrics/cadvisor`: the names that dashboards of other clusters know.
pub(crate) fn cadvisor(cores: u64, usage: &Usage) -> String {
    let mut page = Page::default();
    let cpu = ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.");
    page.containers(cpu, &[("cpu", "total")], |container| container.cpu.as_secs_f64(), usage);
    for (name, help) in [
        (
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
        ),
        ("container_memory_working_set_bytes", "Current working set in bytes."),
        ("container_memory_rss", "Size of RSS in bytes."),
    ] {
        page.containers((name, "gauge", help), &[], |container| bytes(container.memory), usage);
    }
    let limit = ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.");
    page.containers(limit, &[], |container| bytes(container.memory_limit.unwrap_or(0)), usage);
    let files = (
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
    );
    page.containers(files, &[], |container| bytes(container.root_bytes), usage);
    for (name, help, value) in [
        (
            "container_network_receive_bytes_total",
            "Cumulative count of bytes received",
            (|pod| bytes(pod.received)) as fn(&PodUsage) -> f64,
        ),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |pod| {
            bytes(pod.sent)
        }),
    ] {
        page.family(name, "counter", help);
        for pod in usage.pods.iter().filter(|pod| !pod.containers.is_empty()) {
            let labels = [("interface", "eth0"), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
            page.sample(name, &labels, value(pod));
        }
    }
    page.single("machine_cpu_cores", "gauge", "Number of logical CPU cores.", bytes(cores));
    let memory = "Amount of memory installed on the machine.";
    page.single("machine_memory_bytes", "gauge", memory, bytes(usage.node.memory.total));
    page.0
}

/// `/metrics`: the node agent itself.
pub(crate) fn kubelet(node: &str, usage: &Usage, evictions: &[(&str, u64)]) -> String {
    let mut page = Page::default();
    page.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    page.sample("kubelet_node_name", &[("node", node)], 1.0);
    let pods = usage.pods.iter().filter(|pod| !pod.containers.is_empty()).count();
    let help = "Number of pods that have a running pod sandbox";
    page.single("kubelet_running_pods", "gauge", help, bytes(pods as u64));
    let containers: usize = usage.pods.iter().map(|pod| pod.containers.len()).sum();
    page.family("kubelet_running_containers", "gauge", "Number of containers currently running");
    page.sample("kubelet_running_containers", &[("container_state", "running")], bytes(containers as u64));
    page.family("kubelet_evictions", "counter", "Cumulative number of pod evictions by eviction signal");
    for (signal, count) in evictions {
        page.sample("kubelet_evictions", &[("eviction_signal", signal)], bytes(*count));
    }
    page.0
}
