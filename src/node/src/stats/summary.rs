//! The kubelet's `/stats/summary` (`stats/v1alpha1`).

use coracle_client::clock;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{ContainerUsage, PodUsage, Usage};

/// The summary as JSON. Containers carry metrics that autoscalers can use: `tcp_connections`, and handlers
/// `http_requests_per_second`.
pub(crate) fn summary(node: &str, usage: &Usage) -> Value {
    let now = clock::now();
    let machine = &usage.node;
    let nanos = u64::try_from(machine.cpu.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "node": {
            "nodeName": node,
            "cpu": { "time": now, "usageNanoCores": machine.cpu_rate, "usageCoreNanoSeconds": nanos },
            "memory": {
                "time": now,
                "availableBytes": machine.memory.available,
                "usageBytes": machine.memory.used(),
                "workingSetBytes": machine.memory.used(),
            },
            "fs": {
                "time": now,
                "capacityBytes": machine.disk.total,
                "availableBytes": machine.disk.free,
                "usedBytes": machine.disk.total.saturating_sub(machine.disk.free),
                "inodes": machine.disk.inodes,
                "inodesFree": machine.disk.inodes_free,
                "inodesUsed": machine.disk.inodes.saturating_sub(machine.disk.inodes_free),
            },
        },
        "pods": usage.pods.iter().map(|pod| pod_stats(pod, now)).collect::<Vec<_>>(),
    })
}

fn pod_stats(pod: &PodUsage, now: Timestamp) -> Value {
    let nanos = |container: &ContainerUsage| u64::try_from(container.cpu.as_nanos()).unwrap_or(u64::MAX);
    let rates: Option<u64> = pod.containers.iter().map(|container| container.cpu_rate).sum();
    json!({
        "podRef": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
        "containers": pod.containers.iter().map(|container| container_stats(container, now)).collect::<Vec<_>>(),
        "cpu": {
            "time": now,
            "usageNanoCores": rates,
            "usageCoreNanoSeconds": pod.containers.iter().map(nanos).sum::<u64>(),
        },
        "memory": { "time": now, "usageBytes": pod.memory(), "workingSetBytes": pod.memory() },
        "volume": pod.volumes.iter().map(|(name, usage)| volume_stats(name, usage, now)).collect::<Vec<_>>(),
        "network": { "time": now, "name": "eth0", "rxBytes": pod.received, "txBytes": pod.sent },
        "ephemeral-storage": { "time": now, "usedBytes": pod.storage, "inodesUsed": pod.entries },
    })
}

/// A volume without a limit has no capacity of its own; a folder of the host or a persistent volume is not counted then.
fn volume_stats(name: &str, usage: &coracle_vfs::Usage, now: Timestamp) -> Value {
    json!({
        "name": name,
        "time": now,
        "capacityBytes": usage.limit,
        "availableBytes": usage.limit.map(|limit| limit.saturating_sub(usage.bytes)),
        "usedBytes": usage.bytes,
        "inodesUsed": usage.entries,
    })
}

fn container_stats(container: &ContainerUsage, now: Timestamp) -> Value {
    let metric =
        |name: &str, value: Value| json!({ "name": name, "type": "gauge", "time": now, "value": value });
    let mut metrics = vec![metric("tcp_connections", container.connections.into())];
    #[expect(clippy::cast_precision_loss, reason = "no container answers 2^53 requests a second")]
    if let Some(rate) = container.http_rate {
        metrics.push(metric("http_requests_per_second", (rate as f64 / 1_000.0).into()));
    }
    let nanos = u64::try_from(container.cpu.as_nanos()).unwrap_or(u64::MAX);
    json!({
        "name": container.name,
        "cpu": { "time": now, "usageNanoCores": container.cpu_rate, "usageCoreNanoSeconds": nanos },
        "memory": {
            "time": now,
            "usageBytes": container.memory,
            "workingSetBytes": container.memory,
            "rssBytes": container.memory,
        },
        "rootfs": { "time": now, "usedBytes": container.root_bytes },
        "logs": { "time": now, "usedBytes": container.log_bytes },
        "userDefinedMetrics": metrics,
    })
}
