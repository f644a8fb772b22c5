//! Claims and volumes.

use std::sync::Arc;

use coracle_client::Key;
use k8s_openapi::api::{
    core::v1::{
        NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
        PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, PersistentVolumeClaimVolumeSource,
        PersistentVolumeSpec, Pod, Volume, VolumeNodeAffinity, VolumeResourceRequirements,
    },
    storage::v1::StorageClass,
};

use super::make::*;
use crate::placement::{Cluster, VolumeAction};

const NOT_HELPFUL: &str = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";

fn mounting(name: &str, claims: &[&str]) -> Pod {
    asking(pod(name, &[]), |spec| {
        let volumes = claims.iter().map(|claim| Volume {
            name: (*claim).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: (*claim).to_owned(),
                read_only: None,
            }),
            ..Volume::default()
        });
        spec.volumes = Some(volumes.collect());
    })
}

fn claim(name: &str, class: &str, volume: Option<&str>) -> PersistentVolumeClaim {
    let mut claim = PersistentVolumeClaim::default();
    claim.metadata.name = Some(name.to_owned());
    claim.metadata.namespace = Some("ns".to_owned());
    claim.spec = Some(PersistentVolumeClaimSpec {
        storage_class_name: Some(class.to_owned()),
        volume_name: volume.map(str::to_owned),
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        resources: Some(VolumeResourceRequirements {
            requests: Some(amounts(&[("storage", "1Gi")])),
            ..VolumeResourceRequirements::default()
        }),
        ..PersistentVolumeClaimSpec::default()
    });
    let phase = if volume.is_some() { "Bound" } else { "Pending" };
    claim.status = Some(PersistentVolumeClaimStatus {
        phase: Some(phase.to_owned()),
        ..PersistentVolumeClaimStatus::default()
    });
    claim
}

/// A volume that only one node reaches.
fn volume(name: &str, class: &str, node: &str, size: &str) -> PersistentVolume {
    let mut volume = PersistentVolume::default();
    volume.metadata.name = Some(name.to_owned());
    let host = NodeSelectorRequirement {
        key: "kubernetes.io/hostname".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![host]), match_fields: None };
    volume.spec = Some(PersistentVolumeSpec {
        storage_class_name: Some(class.to_owned()),
        capacity: Some(amounts(&[("storage", size)])),
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        node_affinity: Some(VolumeNodeAffinity {
            required: Some(NodeSelector { node_selector_terms: vec![term] }),
        }),
        ..PersistentVolumeSpec::default()
    });
    volume
}

fn class(name: &str, provisioner: &str, mode: &str) -> StorageClass {
    let mut class = StorageClass {
        provisioner: provisioner.to_owned(),
        volume_binding_mode: Some(mode.to_owned()),
        ..StorageClass::default()
    };
    class.metadata.name = Some(name.to_owned());
    class
}

/// Two nodes, and classes `local` (made where needed), `static` (never made) and `now` (bound at once).
fn storage() -> Cluster {
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    let classes = [
        class("local", "coracle.dev/local", "WaitForFirstConsumer"),
        class("static", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
        class("now", "coracle.dev/local", "Immediate"),
    ];
    for class in classes {
        let name = class.metadata.name.clone().unwrap_or_default();
        cluster.set_storage_class(&name, Some(Arc::new(class)));
    }
    cluster
}

fn add(cluster: &mut Cluster, claim: PersistentVolumeClaim) {
    let key = Key::of(&claim.metadata);
    cluster.set_claim(key, Some(Arc::new(claim)));
}

fn add_volume(cluster: &mut Cluster, volume: PersistentVolume) {
    let name = volume.metadata.name.clone().unwrap_or_default();
    cluster.set_volume(&name, Some(Arc::new(volume)));
}

#[test]
fn claims_that_are_not_ready_are_waited_for() {
    let mut cluster = storage();
    let mut check = |pod: Pod, expected: &str| {
        assert_eq!(told(&mut cluster, pod), format!("0/2 nodes are available: {expected}. {NOT_HELPFUL}"));
    };
    check(mounting("p", &["data"]), "persistentvolumeclaim \"data\" not found");
    let ephemeral = asking(pod("p", &[]), |spec| {
        let source = k8s_openapi::api::core::v1::EphemeralVolumeSource::default();
        let volume = Volume { name: "tmp".to_owned(), ephemeral: Some(source), ..Volume::default() };
        spec.volumes = Some(vec![volume]);
    });
    check(ephemeral, "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-tmp\"");
    let mut cluster = storage();
    add(&mut cluster, claim("data", "now", None));
    let text =
        format!("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. {NOT_HELPFUL}");
    assert_eq!(told(&mut cluster, mounting("p", &["data"])), text);
    let mut lost = claim("data", "now", Some("gone"));
    lost.status.get_or_insert_default().phase = Some("Lost".to_owned());
    add(&mut cluster, lost);
    let text = format!(
        "0/2 nodes are available: persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"gone\". \
         {NOT_HELPFUL}"
    );
    assert_eq!(told(&mut cluster, mounting("p", &["data"])), text);
}

#[test]
fn a_bound_claim_pins_the_pod() {
    let mut cluster = storage();
    add(&mut cluster, claim("data", "local", Some("pv")));
    let text = format!(
        "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s). \
         {NOT_HELPFUL}"
    );
    assert_eq!(told(&mut cluster, mounting("p", &["data"])), text);
    add_volume(&mut cluster, volume("pv", "local", "b", "1Gi"));
    assert_eq!(told(&mut cluster, mounting("p", &["data"])), "b");
    cluster.remove_node("b");
    let text = "0/1 nodes are available: 1 node(s) had volume node affinity conflict. preemption: 0/1 nodes are \
                available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(told(&mut cluster, mounting("p", &["data"])), text);
}

#[test]
fn zones_of_volumes() {
    let mut cluster = storage();
    add(&mut cluster, claim("data", "now", Some("pv")));
    let mut zonal = volume("pv", "now", "b", "1Gi");
    zonal.metadata.labels = Some(labels(&[("topology.kubernetes.io/zone", "w__y")]));
    zonal.spec.get_or_insert_default().node_affinity = None;
    add_volume(&mut cluster, zonal);
    assert_eq!(told(&mut cluster, mounting("p", &["data"])), "b");
    cluster.remove_node("b");
    assert!(told(&mut cluster, mounting("p", &["data"])).contains("1 node(s) had no available volume zone"));
}

#[test]
fn a_claim_gets_its_volume_where_its_pod_goes() {
    let mut cluster = storage();
    add(&mut cluster, claim("data", "local", None));
    let placement = attempt(&mut cluster, mounting("p", &["data"])).expect("room");
    let made = VolumeAction::Provision { claim: Key::new("ns", "data"), node: placement.node.clone() };
    assert_eq!(placement.volumes, [made]);
    // Until the API says so too, others that mount it follow.
    let first = cluster.candidate(Arc::new(mounting("p", &["data"])));
    cluster.assume(first, &placement);
    put(&mut cluster, pod("heavy", &[("cpu", "3"), ("memory", "6Gi")]), &placement.node);
    assert_eq!(told(&mut cluster, mounting("q", &["data"])), placement.node);
    cluster.volumes_settled(&placement.volumes);
    assert_ne!(told(&mut cluster, mounting("q", &["data"])), placement.node);
    // As it stays where it was asked for.
    let mut selected = claim("data", "local", None);
    selected.metadata.annotations = Some(labels(&[("volume.kubernetes.io/selected-node", &placement.node)]));
    add(&mut cluster, selected);
    assert_eq!(told(&mut cluster, mounting("q", &["data"])), placement.node);
}

#[test]
fn a_free_volume_that_fits_is_taken_and_no_two_claims_share_one() {
    let mut cluster = storage();
    add(&mut cluster, claim("one", "static", None));
    add(&mut cluster, claim("two", "static", None));
    let text = format!(
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. {NOT_HELPFUL}"
    );
    assert_eq!(told(&mut cluster, mounting("p", &["one"])), text);
    add_volume(&mut cluster, volume("small", "static", "b", "1Mi"));
    add_volume(&mut cluster, volume("large", "static", "b", "5Gi"));
    add_volume(&mut cluster, volume("right", "static", "b", "1Gi"));
    add_volume(&mut cluster, volume("other", "static", "a", "1Gi"));
    let placement = attempt(&mut cluster, mounting("p", &["one", "two"])).expect("room");
    let bound = |claim: &str, volume: &str| VolumeAction::Bind {
        claim: Key::new("ns", claim),
        volume: volume.to_owned(),
    };
    assert_eq!(placement.volumes, [bound("one", "right"), bound("two", "large")]);
    let pod = cluster.candidate(Arc::new(mounting("p", &["one", "two"])));
    cluster.assume(pod, &placement);
    add(&mut cluster, claim("three", "static", None));
    let placement = attempt(&mut cluster, mounting("q", &["three"])).expect("room");
    assert_eq!((placement.node.as_str(), placement.volumes), ("a", vec![bound("three", "other")]));
}

#[test]
fn a_claim_for_one_pod_only() {
    let mut cluster = storage();
    let mut exclusive = claim("data", "now", Some("pv"));
    exclusive.spec.get_or_insert_default().access_modes = Some(vec!["ReadWriteOncePod".to_owned()]);
    add(&mut cluster, exclusive);
    let mut anywhere = volume("pv", "now", "b", "1Gi");
    anywhere.spec.get_or_insert_default().node_affinity = None;
    add_volume(&mut cluster, anywhere);
    put(&mut cluster, mounting("first", &["data"]), "a");
    let text = "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and \
                ReadWriteOncePod access mode. preemption: 0/2 nodes are available: 2 No preemption victims found \
                for incoming pod.";
    assert_eq!(told(&mut cluster, mounting("second", &["data"])), text);
    let important = asking(mounting("second", &["data"]), |spec| spec.priority = Some(1));
    let unplaced = attempt(&mut cluster, important).expect_err("it is in use");
    assert_eq!(unplaced.nomination.map(|it| it.node).as_deref(), Some("a"));
    cluster.remove_pod("first");
    assert!(attempt(&mut cluster, mounting("second", &["data"])).is_ok());
}
