//! What Prometheus reads: the kubelet's `/metrics/resource`, `/metrics/cadvisor` and `/metrics`, by their names.

use std::{collections::BTreeMap, fmt::Write};

use coracle_runtime::{BUCKETS, HttpUsage};

use super::{
    ContainerUsage, PodUsage, Usage,
    known::{Known, KnownContainer},
};
use crate::host::DiskUse;

/// A page in Prometheus' text format.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.written(name, &written(labels), value);
    }

    /// A sample whose labels are written already.
    fn written(&mut self, name: &str, labels: &str, value: f64) {
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        let _ = writeln!(self.0, "{name}{open}{labels}{close} {value}");
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

    /// A sample for each container of which there is one.
    fn containers(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        rows: &[Row<'_>],
        value: impl Fn(&ContainerUsage, &KnownContainer) -> Option<f64>,
    ) {
        self.family(name, kind, help);
        for row in rows {
            if let Some(value) = value(row.usage, row.known) {
                self.written(name, &row.labels, value);
            }
        }
    }
}

/// A container with its labels, which are the same in all families of a page.
struct Row<'a> {
    labels: String,
    usage: &'a ContainerUsage,
    known: &'a KnownContainer,
}

/// Of a container of which nothing is known yet.
static UNKNOWN: KnownContainer = KnownContainer { id: String::new(), image: String::new(), started: None };

/// The containers, with their names and those of their pods, and the labels that `more` knows.
fn rows<'a>(
    usage: &'a Usage,
    known: &'a [Known],
    more: impl Fn(&Known, &KnownContainer) -> String,
) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for (pod, known) in usage.pods.iter().zip(known) {
        let rest = known.containers.iter().chain(std::iter::repeat(&UNKNOWN));
        for (container, of) in pod.containers.iter().zip(rest) {
            let mut labels =
                written(&[("container", &container.name), ("namespace", &pod.namespace), ("pod", &pod.name)]);
            labels.push_str(&more(known, of));
            rows.push(Row { labels, usage: container, known: of });
        }
    }
    rows
}

fn written(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (number, (label, value)) in labels.iter().enumerate() {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{}{label}=\"{value}\"", if number == 0 { "" } else { "," });
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "samples are floats; 2^53 bytes are eight petabytes")]
fn bytes(amount: u64) -> f64 {
    amount as f64
}

/// `/metrics/resource`: what metrics-server reads.
pub(crate) fn resource(usage: &Usage, known: &[Known]) -> String {
    let mut page = Page::default();
    let rows = rows(usage, known, |_, _| String::new());
    let cpu = "Cumulative cpu time consumed by the container in core-seconds";
    page.containers(("container_cpu_usage_seconds_total", "counter", cpu), &rows, |container, _| {
        Some(container.cpu.as_secs_f64())
    });
    let memory = "Current working set of the container in bytes";
    page.containers(("container_memory_working_set_bytes", "gauge", memory), &rows, |container, _| {
        Some(bytes(container.memory))
    });
    let start = "Start time of the container since unix epoch in seconds";
    page.containers(("container_start_time_seconds", "gauge", start), &rows, |_, known| started(known));
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

#[expect(clippy::cast_precision_loss, reason = "samples are floats; 2^53 seconds are ages")]
fn started(known: &KnownContainer) -> Option<f64> {
    known.started.map(|seconds| seconds as f64)
}

/// `/metrics/cadvisor`: the names that dashboards of other clusters know. They look for containers by their images and
/// cgroups, too.
pub(crate) fn cadvisor(cores: u64, usage: &Usage, known: &[Known]) -> String {
    let mut page = Page::default();
    let rows = rows(usage, known, |pod, of| match of.id.as_str() {
        "" => String::new(),
        id => {
            let cgroup = format!("{}/{id}", pod.cgroup);
            format!(",{}", written(&[("id", &cgroup), ("image", &of.image), ("name", id)]))
        }
    });
    let name = "container_cpu_usage_seconds_total";
    page.family(name, "counter", "Cumulative cpu time consumed in seconds.");
    for row in &rows {
        let labels = format!("{},cpu=\"total\"", row.labels);
        page.written(name, &labels, row.usage.cpu.as_secs_f64());
    }
    for (name, help) in [
        (
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
        ),
        ("container_memory_working_set_bytes", "Current working set in bytes."),
        ("container_memory_rss", "Size of RSS in bytes."),
    ] {
        page.containers((name, "gauge", help), &rows, |container, _| Some(bytes(container.memory)));
    }
    let limit = ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.");
    page.containers(limit, &rows, |container, _| Some(bytes(container.memory_limit.unwrap_or(0))));
    let start = "Start time of the container since unix epoch in seconds.";
    page.containers(("container_start_time_seconds", "gauge", start), &rows, |_, known| started(known));
    let files = (
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
    );
    page.containers(files, &rows, |container, _| Some(bytes(container.root_bytes)));
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
        for (pod, known) in usage.pods.iter().zip(known).filter(|(pod, _)| !pod.containers.is_empty()) {
            let labels = [
                ("interface", "eth0"),
                ("namespace", &*pod.namespace),
                ("pod", &*pod.name),
                ("id", &*known.cgroup),
            ];
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

/// `kubelet_volume_stats_…`: each claim that pods of the node use, once. A volume without a limit has what its disk
/// has.
pub(crate) fn volumes(usage: &Usage, known: &[Known]) -> String {
    let disk = &usage.node.disk;
    let mut claims = BTreeMap::new();
    for (pod, known) in usage.pods.iter().zip(known) {
        for (volume, claim) in &known.claims {
            let usage = pod.volumes.iter().find(|(name, _)| **name == **volume);
            if let Some((_, usage)) = usage {
                claims.insert((&pod.namespace, claim), usage);
            }
        }
    }
    let mut page = Page::default();
    type Value = fn(&coracle_vfs::Usage, &DiskUse) -> u64;
    let families: [(&str, &str, Value); 6] = [
        ("available_bytes", "Number of available bytes in the volume", |volume, disk| match volume.limit {
            Some(limit) => limit.saturating_sub(volume.bytes).min(disk.free),
            None => disk.free,
        }),
        ("capacity_bytes", "Capacity in bytes of the volume", |volume, disk| {
            volume.limit.unwrap_or(disk.total)
        }),
        ("inodes", "Maximum number of inodes in the volume", |_, disk| disk.inodes),
        ("inodes_free", "Number of free inodes in the volume", |_, disk| disk.inodes_free),
        ("inodes_used", "Number of used inodes in the volume", |volume, disk| match volume.limit {
            Some(_) => volume.entries,
            None => disk.inodes.saturating_sub(disk.inodes_free),
        }),
        ("used_bytes", "Number of used bytes in the volume", |volume, disk| match volume.limit {
            Some(_) => volume.bytes,
            None => disk.total.saturating_sub(disk.free),
        }),
    ];
    for (name, help, value) in families.into_iter().filter(|_| !claims.is_empty()) {
        let name = format!("kubelet_volume_stats_{name}");
        page.family(&name, "gauge", help);
        for ((namespace, claim), volume) in &claims {
            let labels = [("namespace", namespace.as_str()), ("persistentvolumeclaim", claim.as_str())];
            page.sample(&name, &labels, bytes(value(volume, disk)));
        }
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
