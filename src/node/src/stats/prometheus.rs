//! What Prometheus reads: the kubelet's `/metrics/resource`, `/metrics/cadvisor` and `/metrics`, by their names.

use std::fmt::Write;

use coracle_runtime::{BUCKETS, HttpUsage};

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

#[expect(clippy::cast_precision_loss, reason = "samples are floats; 2^53 bytes are eight petabytes")]
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

/// What the pods of the node were refused: namespace, pod, reason, how often.
pub(crate) fn denials(counts: &[(String, String, &'static str, u64)]) -> String {
    let mut page = Page::default();
    let help = "Connections, datagrams and look-ups of pods that were denied, by reason";
    page.family("coracle_network_denied_total", "counter", help);
    for (namespace, pod, reason, count) in counts {
        let labels = [("namespace", namespace.as_str()), ("pod", pod.as_str()), ("reason", *reason)];
        page.sample("coracle_network_denied_total", &labels, bytes(*count));
    }
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
    handlers(&mut page, usage);
    page.0
}

/// What `wasi:http` handlers answered.
fn handlers(page: &mut Page, usage: &Usage) {
    let all: Vec<_> = usage
        .pods
        .iter()
        .flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
        .filter_map(|(pod, container)| {
            let labels =
                [("container", &*container.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
            Some((labels, container.http?))
        })
        .collect();
    if all.is_empty() {
        return;
    }
    let mut family = |name: &str, kind: &str, help: &str, samples: &dyn Fn(&HttpUsage) -> Vec<Sample>| {
        page.family(name, kind, help);
        for (labels, usage) in &all {
            for (suffix, more, value) in samples(usage) {
                let more = more.as_ref().map(|(label, value)| (*label, value.as_str()));
                let labels: Vec<_> = labels.iter().copied().chain(more).collect();
                page.sample(&format!("{name}{suffix}"), &labels, value);
            }
        }
    };
    family("coracle_http_requests_total", "counter", "HTTP requests answered, by status.", &|usage| {
        let answers = usage.answers.iter().zip(1..);
        let mut samples: Vec<Sample> =
            answers.map(|(count, class)| ("", Some(("code", format!("{class}xx"))), bytes(*count))).collect();
        samples.push(("", Some(("code", "abandoned".into())), bytes(usage.abandoned)));
        samples
    });
    family("coracle_http_requests_in_flight", "gauge", "HTTP requests that are being answered.", &|usage| {
        vec![("", None, bytes(usage.in_flight))]
    });
    family(
        "coracle_http_errors_total",
        "counter",
        "HTTP requests that no guest answered, by reason.",
        &|usage| {
            let reasons =
                [("failed", usage.failed), ("overloaded", usage.overloaded), ("timeout", usage.timed_out)];
            let sample =
                |(reason, count): (&str, u64)| ("", Some(("reason", reason.to_owned())), bytes(count));
            reasons.map(sample).into()
        },
    );
    family("coracle_http_instances", "gauge", "Instances of HTTP handlers.", &|usage| {
        vec![("", None, bytes(usage.instances))]
    });
    family("coracle_http_instances_total", "counter", "Instances of HTTP handlers made so far.", &|usage| {
        vec![("", None, bytes(usage.instances_made))]
    });
    let help = "Time from the head of an HTTP request to the end of its answer.";
    family("coracle_http_request_duration_seconds", "histogram", help, &|usage| {
        let mut sum = 0;
        let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let mut samples: Vec<Sample> = bounds
            .zip(usage.durations)
            .map(|(bound, count)| {
                sum += count;
                ("_bucket", Some(("le", bound)), bytes(sum))
            })
            .collect();
        samples.push(("_sum", None, usage.duration_sum.as_secs_f64()));
        samples.push(("_count", None, bytes(sum)));
        samples
    });
}

/// What follows the name, a label more, and the value.
type Sample = (&'static str, Option<(&'static str, String)>, f64);
