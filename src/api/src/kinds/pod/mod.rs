//! Pod: containers that share an address, volumes and a fate.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    common::*,
    pod_spec::{self, Holder},
};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
};

mod label_keys;
mod part;
mod status;
mod table;
mod update;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["po"]),
        categories: texts(&["all"]),
        subresources: vec![
            Subresource::Attach,
            Subresource::Binding,
            Subresource::EphemeralContainers,
            Subresource::Eviction,
            Subresource::Exec,
            Subresource::Log,
            Subresource::PortForward,
            Subresource::Proxy,
            Subresource::Resize,
            Subresource::Status,
        ],
        ..define("", "v1", "Pod", "pods", Scope::Namespaced, Pod)
    }
}

struct Pod;

impl Hooks for Pod {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        if let Some(spec) = existing_mut(object, "spec") {
            pod_spec::default_spec(spec);
            pod_spec::default_pod(spec);
        }
        // Nodes that replace the status do not know the class, which follows from the spec for good.
        let class = pod_spec::qos_class(&object["spec"]);
        if let Some(status) = existing_mut(object, "status") {
            fill(status, "qosClass", class);
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        label_keys::merge(object);
        let mut status = json!({"phase": "Pending", "qosClass": pod_spec::qos_class(&object["spec"])});
        if !is_empty(&object["spec"]["schedulingGates"]) {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        set(object, "status", status);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = check_pod(object);
        let spec = &object["spec"];
        let path = Path::new("spec");
        if !is_empty(&spec["ephemeralContainers"]) {
            errors.push(field::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
        }
        if !is_empty(&spec["nodeName"]) && !is_empty(&spec["schedulingGates"]) {
            errors.push(field::forbidden(
                &path.child("nodeName"),
                "cannot be set until all schedulingGates have been cleared",
            ));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = check_pod(object);
        update::check(&mut errors, object, old);
        errors
    }

    fn validate_status(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        status::check(object, old)
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = check_pod(object);
        match subresource {
            "ephemeralcontainers" => part::check_ephemeral(&mut errors, object, old),
            "resize" => part::check_resize(&mut errors, object, old),
            _ => update::check(&mut errors, object, old),
        }
        errors
    }

    fn columns(&self) -> &[Column] {
        &table::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        table::row(object, now)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let of = |value: &Value| text(value).to_owned();
        vec![
            ("spec.nodeName", of(&spec["nodeName"])),
            ("spec.restartPolicy", of(&spec["restartPolicy"])),
            ("spec.schedulerName", of(&spec["schedulerName"])),
            ("spec.serviceAccountName", of(&spec["serviceAccountName"])),
            ("spec.hostNetwork", flag(&spec["hostNetwork"]).to_string()),
            ("status.phase", of(&status["phase"])),
            ("status.podIP", table::pod_ip(status).to_owned()),
            ("status.nominatedNodeName", of(&status["nominatedNodeName"])),
        ]
    }

    /// `Some(seconds)`, at least 1, if the node is to stop the pod first: as requested, or as the spec
    /// says. `None`, at once, if there is nothing to stop (no node has the pod, or it has finished) or
    /// if the request forces it with 0.
    fn deletion_grace(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let bound = !is_empty(&object["spec"]["nodeName"]);
        let finished = matches!(text(&object["status"]["phase"]), "Succeeded" | "Failed");
        let seconds = requested.unwrap_or_else(|| int(&object["spec"]["terminationGracePeriodSeconds"]));
        match seconds {
            _ if !bound || finished => None,
            0 => None,
            seconds => Some(seconds.max(1)),
        }
    }
}

/// The rules that hold whenever a pod is written.
fn check_pod(object: &Value) -> Vec<FieldCause> {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let mut errors = Vec::new();
    let (meta, spec) = (&object["metadata"], &object["spec"]);
    let annotations = Path::new("metadata.annotations");
    if let Some(mirror) = meta["annotations"][MIRROR].as_str()
        && is_empty(&spec["nodeName"])
    {
        let words = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(field::invalid(&annotations.key(MIRROR), mirror, words));
    }
    pod_spec::check_annotations(&mut errors, &annotations, &meta["annotations"]);
    let path = Path::new("spec");
    pod_spec::check_spec(&mut errors, &path, spec, Holder::Pod(text(&meta["name"])));
    if is_empty(&spec["serviceAccountName"]) {
        let volumes = path.child("volumes");
        for (index, volume) in items(&spec["volumes"]).iter().enumerate() {
            let volume_path = volumes.index(index);
            let sources = volume_path.child("projected.sources");
            for (index, source) in items(&volume["projected"]["sources"]).iter().enumerate() {
                if is_set(&source["serviceAccountToken"]) {
                    errors.push(field::forbidden(
                        &sources.index(index).child("serviceAccountToken"),
                        "must not be specified when serviceAccountName is not set",
                    ));
                }
            }
        }
    }
    errors
}
