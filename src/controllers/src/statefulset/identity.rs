//! What makes a pod of a stateful set the one it is: its ordinal, its name, its claims.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::plan::Version;
use crate::{podcontrol, pods};

pub(super) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
pub(super) const REVISION: &str = "controller-revision-hash";

/// The ordinal in the name of a pod of this stateful set; `None` if it is not named like one.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let digits = pods::name(&pod.metadata).strip_prefix(pods::name(&set.metadata))?.strip_prefix('-')?;
    let plain = digits == "0" || !digits.starts_with('0');
    let digits = Some(digits).filter(|digits| plain && digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// The revision that a pod was made of.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION)).map_or("", String::as_str)
}

/// The pod of this ordinal, made of `version`.
pub(super) fn pod(set: &StatefulSet, ordinal: i32, version: &Version) -> Pod {
    let mut pod = podcontrol::from_template(set, Some(&version.template));
    let name = format!("{}-{ordinal}", pods::name(&set.metadata));
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(REVISION.to_owned(), version.name.clone());
    let claims = claims(set, ordinal);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let mut volumes: Vec<Volume> = claims
        .iter()
        .map(|(template, claim)| Volume {
            name: template.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: pods::name(&claim.metadata).to_owned(),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    // A claim takes the place of a volume of the template that has its name.
    volumes.extend(
        spec.volumes.take().into_iter().flatten().filter(|volume| !claims.contains_key(&volume.name)),
    );
    spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    pod
}

/// The claims of the pod of this ordinal, by the name of their template.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> BTreeMap<String, PersistentVolumeClaim> {
    let Some(spec) = &set.spec else { return BTreeMap::new() };
    let made = spec.volume_claim_templates.iter().flatten().map(|template| {
        let name = pods::name(&template.metadata).to_owned();
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(format!("{name}-{}-{ordinal}", pods::name(&set.metadata))),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels).filter(|labels| !labels.is_empty()),
                annotations: template.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        (name, claim)
    });
    made.collect()
}

/// The pod with the label that says its name, if it lacks it: services select single pods by it.
pub(super) fn repaired(pod: &Pod) -> Option<Pod> {
    let name = pod.metadata.name.clone()?;
    if pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_NAME)) == Some(&name) {
        return None;
    }
    let mut repaired = pod.clone();
    repaired.metadata.labels.get_or_insert_default().insert(POD_NAME.to_owned(), name);
    Some(repaired)
}
