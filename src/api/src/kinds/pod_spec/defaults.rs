//! What Kubernetes fills in when a pod spec leaves it out.

use serde_json::{Value, json};

use crate::kinds::common::*;

/// Where a container may leave a last message.
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
/// Seconds between asking a pod to stop and killing it.
const GRACE_SECONDS: i64 = 30;
/// 0644: the mode of projected files.
const FILE_MODE: i64 = 0o644;
/// How long a projected service account token lives.
const TOKEN_SECONDS: i64 = 3600;

/// A field of a volume source that is filled in: source, field, default.
type VolumeDefault = (&'static str, &'static str, fn() -> Value);

/// Fields of volume sources that are filled in, besides what needs code.
const VOLUME_DEFAULTS: &[VolumeDefault] = &[
    ("secret", "defaultMode", || FILE_MODE.into()),
    ("configMap", "defaultMode", || FILE_MODE.into()),
    ("downwardAPI", "defaultMode", || FILE_MODE.into()),
    ("projected", "defaultMode", || FILE_MODE.into()),
    ("hostPath", "type", || "".into()),
    ("iscsi", "iscsiInterface", || "default".into()),
    ("rbd", "pool", || "rbd".into()),
    ("rbd", "user", || "admin".into()),
    ("rbd", "keyring", || "/etc/ceph/keyring".into()),
    ("azureDisk", "cachingMode", || "ReadWrite".into()),
    ("azureDisk", "fsType", || "ext4".into()),
    ("azureDisk", "readOnly", || false.into()),
    ("azureDisk", "kind", || "Shared".into()),
    ("scaleIO", "storageMode", || "ThinProvisioned".into()),
    ("scaleIO", "fsType", || "xfs".into()),
];

/// Defaults of a pod template (`spec.template` of workloads).
pub(in crate::kinds) fn default_template(template: &mut Value) {
    object_mut(template, "spec");
    if let Some(spec) = existing_mut(template, "spec") {
        default_spec(spec);
    }
}

/// Defaults of a pod spec, in a pod or a template.
pub(in crate::kinds) fn default_spec(spec: &mut Value) {
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    fill_absent(spec, "securityContext", json!({}));
    fill_absent(spec, "terminationGracePeriodSeconds", GRACE_SECONDS);
    fill(spec, "schedulerName", "default-scheduler");
    // Two names for one thing; the older one follows.
    let account = or(text(&spec["serviceAccountName"]), text(&spec["serviceAccount"])).to_owned();
    if !account.is_empty() {
        set(spec, "serviceAccountName", account.as_str());
        set(spec, "serviceAccount", account);
    }
    for volume in items_mut(spec, "volumes") {
        default_volume(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            default_container(container);
        }
    }
}

/// What a pod gets beyond its spec's defaults and a template does not.
pub(in crate::kinds) fn default_pod(spec: &mut Value) {
    let host_network = flag(&spec["hostNetwork"]);
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            default_requests(container);
            if host_network {
                default_host_ports(container);
            }
        }
    }
    fill_absent(spec, "enableServiceLinks", true);
}

/// Who limits a resource and says no more requests as much.
fn default_requests(container: &mut Value) {
    let limits = container["resources"]["limits"].clone();
    if !is_set(&limits) {
        return;
    }
    if let Some(resources) = existing_mut(container, "resources")
        && let Some(requests) = object_mut(resources, "requests")
    {
        for (name, amount) in entries(&limits) {
            requests.entry(name).or_insert_with(|| amount.clone());
        }
    }
}

fn default_host_ports(container: &mut Value) {
    for port in items_mut(container, "ports") {
        match int(&port["containerPort"]) {
            0 => {}
            number => fill(port, "hostPort", number),
        }
    }
}

fn default_container(container: &mut Value) {
    for port in items_mut(container, "ports") {
        fill(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        if let Some(source) = existing_mut(variable, "valueFrom") {
            default_field_ref(source);
        }
    }
    fill_absent(container, "resources", json!({}));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing_mut(container, probe) {
            default_probe(probe);
        }
    }
    if let Some(lifecycle) = existing_mut(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = existing_mut(lifecycle, hook) {
                default_http_get(hook);
            }
        }
    }
    let policy = pull_policy(text(&container["image"]));
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", TERMINATION_MESSAGE_PATH);
    fill(container, "terminationMessagePolicy", "File");
}

/// `Always` for `latest`, stated or implied: that tag moves.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = match last.split_once(':') {
        Some((_, tag)) => tag,
        None if digest || name.is_empty() => "",
        None => "latest",
    };
    if tag == "latest" { "Always" } else { "IfNotPresent" }
}

fn default_probe(probe: &mut Value) {
    fill(probe, "timeoutSeconds", 1);
    fill(probe, "periodSeconds", 10);
    fill(probe, "successThreshold", 1);
    fill(probe, "failureThreshold", 3);
    default_http_get(probe);
    if let Some(grpc) = existing_mut(probe, "grpc") {
        fill_absent(grpc, "service", "");
    }
}

fn default_http_get(handler: &mut Value) {
    if let Some(get) = existing_mut(handler, "httpGet") {
        fill(get, "path", "/");
        fill(get, "scheme", "HTTP");
    }
}

fn default_field_ref(source: &mut Value) {
    if let Some(reference) = existing_mut(source, "fieldRef") {
        fill(reference, "apiVersion", "v1");
    }
}

fn default_volume(volume: &mut Value) {
    let has_source = entries(volume).any(|(key, value)| key != "name" && is_set(value));
    if !has_source {
        set(volume, "emptyDir", json!({}));
    }
    default_volume_sources(volume);
    if let Some(image) = existing_mut(volume, "image") {
        let policy = pull_policy(text(&image["reference"]));
        fill(image, "pullPolicy", policy);
    }
    if let Some(downward) = existing_mut(volume, "downwardAPI") {
        default_downward(downward);
    }
    if let Some(projected) = existing_mut(volume, "projected") {
        for source in items_mut(projected, "sources") {
            if let Some(downward) = existing_mut(source, "downwardAPI") {
                default_downward(downward);
            }
            if let Some(token) = existing_mut(source, "serviceAccountToken") {
                fill_absent(token, "expirationSeconds", TOKEN_SECONDS);
            }
        }
    }
    if let Some(ephemeral) = existing_mut(volume, "ephemeral")
        && let Some(template) = existing_mut(ephemeral, "volumeClaimTemplate")
        && let Some(spec) = existing_mut(template, "spec")
    {
        fill_absent(spec, "volumeMode", "Filesystem");
    }
}

/// Plain fields of volume sources, in a pod's volume or a persistent one.
pub(in crate::kinds) fn default_volume_sources(volume: &mut Value) {
    for (source, field, default) in VOLUME_DEFAULTS {
        if let Some(source) = existing_mut(volume, source) {
            fill_absent(source, field, default());
        }
    }
}

fn default_downward(volume: &mut Value) {
    for file in items_mut(volume, "items") {
        default_field_ref(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_always_pulled() {
        #[track_caller]
        fn check(image: &str, want: &str) {
            assert_eq!(pull_policy(image), want, "{image}");
        }
        check("web", "Always");
        check("web:latest", "Always");
        check("registry.local/web", "Always");
        check("localhost:5000/web", "Always");
        check("localhost:5000/web:1", "IfNotPresent");
        check("registry.local/web:1", "IfNotPresent");
        check("web@sha256:00", "IfNotPresent");
        check("web:latest@sha256:00", "Always");
        check("", "IfNotPresent");
    }
}
