//! What a pod's object says of its network: who it is to policies, how it resolves names and which it may reach; and
//! the files in which a container's programs look for that.

use std::net::IpAddr;

use coracle_network::{ClusterNames, DnsConfig, HostNames, NamedPort, PodConfig, PodStack};
use coracle_vfs::Directory;
use k8s_openapi::api::core::v1::Pod;

use crate::{env, termination::on_disk};

/// The names of the hosts outside the cluster that a pod may reach, between commas.
const EGRESS_HOSTS: &str = "coracle.dev/egress-hosts";

/// The part of a stack's configuration that comes from the pod's object alone.
pub(crate) fn config(pod: &Pod, cluster: &ClusterNames) -> PodConfig {
    let hostname = env::hostname(pod);
    PodConfig {
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ports: NamedPort::of_pod(pod),
        egress_hosts: egress_hosts(pod).map(str::to_owned),
        dns: Some(DnsConfig::of_pod(pod, cluster)),
        host_names: Some(HostNames::of_pod(pod, &hostname, cluster)),
        hostname,
        ..PodConfig::default()
    }
}

/// Tells the stack what may change in a pod that runs.
pub(crate) fn update(stack: &PodStack, pod: &Pod) {
    stack.set_labels(pod.metadata.labels.clone().unwrap_or_default(), egress_hosts(pod));
}

/// Writes `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`, for programs that resolve names themselves. They are
/// a courtesy: where they cannot be written, the node's own resolver knows the same.
pub(crate) async fn write_files(root: Directory, pod: &Pod, addresses: &[IpAddr], cluster: &ClusterNames) {
    let hostname = env::hostname(pod);
    let files = [
        ("etc/hosts", HostNames::of_pod(pod, &hostname, cluster).hosts_file(addresses)),
        ("etc/resolv.conf", DnsConfig::of_pod(pod, cluster).resolv_conf(cluster)),
        ("etc/hostname", format!("{hostname}\n")),
    ];
    // What a volume of the pod holds there is the pod's own.
    let is_mounted = |path: &str| {
        let mounts = pod.spec.iter().flat_map(|spec| {
            let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
            containers.flat_map(|container| container.volume_mounts.iter().flatten())
        });
        let path = format!("/{path}");
        let covers = |mount: &str| std::path::Path::new(&path).starts_with(mount);
        mounts.map(|mount| mount.mount_path.as_str()).filter(|mount| mount.len() > 1).any(covers)
    };
    let files: Vec<_> = files.into_iter().filter(|(path, _)| !is_mounted(path)).collect();
    on_disk(root, move |root| {
        root.create_directories("etc").ok()?;
        files.iter().try_for_each(|(path, text)| root.write(path, text.as_bytes()).ok())
    })
    .await;
}

fn egress_hosts(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(EGRESS_HOSTS).map(String::as_str)
}
