//! What a pod's object says of its network: who it is to policies, how it resolves names and which it may reach; and
//! the files in which a container's programs look for that.

use std::{net::IpAddr, path::Path};

use coracle_network::{ClusterNames, DnsConfig, HostNames, NamedPort, PodConfig, PodStack};
use coracle_vfs::Directory;
use k8s_openapi::api::core::v1::{Container, Pod};

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
pub(crate) async fn write_files(
    root: Directory,
    pod: &Pod,
    container: &Container,
    addresses: &[IpAddr],
    cluster: &ClusterNames,
) {
    let hostname = env::hostname(pod);
    let files = [
        ("etc/hosts", HostNames::of_pod(pod, &hostname, cluster).hosts_file(addresses)),
        ("etc/resolv.conf", DnsConfig::of_pod(pod, cluster).resolv_conf(cluster)),
        ("etc/hostname", format!("{}\n", env::seen_hostname(pod, cluster))),
    ];
    let files: Vec<_> = files.into_iter().filter(|(path, _)| !is_mounted(container, path)).collect();
    on_disk(root, move |root| {
        root.create_directories("etc").ok()?;
        files.iter().try_for_each(|(path, text)| root.write(path, text.as_bytes()).ok())
    })
    .await;
}

/// True if a volume lies there: what it holds is the pod's own. Others of the pod's containers may do without it.
fn is_mounted(container: &Container, path: &str) -> bool {
    let path = Path::new("/").join(path);
    let mounts = container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str());
    mounts.filter(|mount| mount.len() > 1).any(|mount| path.starts_with(mount))
}

fn egress_hosts(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(EGRESS_HOSTS).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_with_files_of_its_own_keeps_them() {
        #[track_caller]
        fn check(mounts: &[&str], path: &str, expected: bool) {
            let mounts: Vec<_> = mounts.iter().map(|path| json!({"name": "v", "mountPath": path})).collect();
            let container = json!({"name": "c", "volumeMounts": mounts});
            assert_eq!(is_mounted(&serde_json::from_value(container).unwrap(), path), expected, "{mounts:?}");
        }
        check(&[], "etc/hosts", false);
        check(&["/etc/hosts"], "etc/hosts", true);
        check(&["/data", "/etc/hosts"], "etc/resolv.conf", false);
        check(&["/etc"], "etc/resolv.conf", true);
        check(&["/"], "etc/hosts", false);
    }
}
