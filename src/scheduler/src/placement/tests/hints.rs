//! Which changes wake which pods.

use std::{collections::BTreeMap, sync::Arc};

use coracle_client::Key;
use k8s_openapi::api::core::v1::{ContainerPort, Node, Pod};

use super::make::*;
use crate::placement::{Cluster, Happening, NodeChange};

const HOST: &str = "kubernetes.io/hostname";
const WEB: &[(&str, &str)] = &[("app", "web")];

/// Tries the pod, which must fail, then lets something happen; says whether it may help.
#[track_caller]
fn check(cluster: &mut Cluster, pod: &Pod, happening: impl FnOnce(&mut Cluster) -> Happening, helps: bool) {
    let failed = attempt(cluster, pod.clone()).expect_err("it does not fit").plugins;
    let candidate = cluster.candidate(Arc::new(pod.clone()));
    let happening = happening(cluster);
    assert_eq!(cluster.may_help(&happening, &candidate, failed), helps, "{happening:?}");
}

fn node_set(node: Node) -> impl FnOnce(&mut Cluster) -> Happening {
    move |cluster| {
        let name = node.metadata.name.clone().expect("named");
        let change: NodeChange = cluster.set_node(&Arc::new(node));
        Happening::Node { name, change }
    }
}

fn gone(pod: Pod) -> impl FnOnce(&mut Cluster) -> Happening {
    move |cluster| Happening::PodRemoved(cluster.candidate(Arc::new(pod)))
}

fn came(pod: Pod) -> impl FnOnce(&mut Cluster) -> Happening {
    move |cluster| Happening::PodAdded(cluster.candidate(Arc::new(pod)))
}

#[test]
fn room() {
    let small = || node("a", &[("cpu", "1"), ("pods", "9")]);
    let wants = pod("p", &[("cpu", "2")]);
    check(&mut cluster(vec![small()]), &wants, gone(pod("q", &[("cpu", "1")])), true);
    check(&mut cluster(vec![small()]), &wants, node_set(node("b", ROOMY)), true);
    check(&mut cluster(vec![small()]), &wants, node_set(node("a", ROOMY)), true);
    check(&mut cluster(vec![small()]), &wants, node_set(node("b", &[("cpu", "1"), ("pods", "9")])), false);
    check(&mut cluster(vec![small()]), &wants, came(pod("q", &[])), false);
    check(&mut cluster(vec![small()]), &wants, |_| Happening::Claim(Key::new("ns", "x")), false);
    let mut relabelled = small();
    relabelled.metadata.labels = Some(BTreeMap::new());
    check(&mut cluster(vec![small()]), &wants, node_set(relabelled), false);
}

#[test]
fn labels_and_taints() {
    let wants = asking(pod("p", &[]), |spec| spec.node_selector = Some(labels(&[("disk", "ssd")])));
    let mut right = node("a", ROOMY);
    right.metadata.labels = Some(labels(&[("disk", "ssd")]));
    let mut wrong = node("a", ROOMY);
    wrong.metadata.labels = Some(labels(&[("disk", "hdd")]));
    check(&mut cluster(vec![node("a", ROOMY)]), &wants, node_set(right), true);
    check(&mut cluster(vec![node("a", ROOMY)]), &wants, node_set(wrong), false);
    check(&mut cluster(vec![node("a", ROOMY)]), &wants, gone(pod("q", &[])), false);
    let tainted = |value: &str| {
        let taints = Some(vec![taint("team", value, "NoSchedule")]);
        with(node("a", ROOMY), |spec, _| spec.taints = taints)
    };
    check(&mut cluster(vec![tainted("red")]), &pod("p", &[]), node_set(node("a", ROOMY)), true);
    check(&mut cluster(vec![tainted("red")]), &pod("p", &[]), node_set(tainted("blue")), false);
    let cordoned = || with(node("a", ROOMY), |spec, _| spec.unschedulable = Some(true));
    check(&mut cluster(vec![cordoned()]), &pod("p", &[]), node_set(node("a", ROOMY)), true);
    check(&mut cluster(vec![cordoned()]), &pod("p", &[]), gone(pod("q", &[])), false);
}

#[test]
fn ports() {
    let wants = |name: &str, port: i32| {
        let port = ContainerPort { host_port: Some(port), ..ContainerPort::default() };
        asking(pod(name, &[]), |spec| spec.containers[0].ports = Some(vec![port]))
    };
    let taken = || {
        let mut cluster = cluster(vec![node("a", ROOMY)]);
        put(&mut cluster, wants("there", 80), "a");
        cluster
    };
    check(&mut taken(), &wants("p", 80), gone(wants("there", 80)), true);
    check(&mut taken(), &wants("p", 80), gone(wants("other", 81)), false);
}

#[test]
fn other_pods() {
    let db = || labelled("db", &[("app", "db")]);
    let wants = near(db(), vec![term(WEB, HOST)]);
    check(&mut cluster(vec![node("a", ROOMY)]), &wants, came(labelled("web", WEB)), true);
    check(&mut cluster(vec![node("a", ROOMY)]), &wants, came(labelled("x", &[("app", "x")])), false);
    check(&mut cluster(vec![node("a", ROOMY)]), &wants, gone(labelled("web", WEB)), false);
    check(&mut cluster(vec![node("a", ROOMY)]), &wants, |_| Happening::Namespace, true);
    let with_web = || {
        let mut cluster = cluster(vec![node("a", ROOMY)]);
        put(&mut cluster, labelled("web", WEB), "a");
        cluster
    };
    let shy = away(db(), vec![term(WEB, HOST)]);
    check(&mut with_web(), &shy, gone(labelled("web", WEB)), true);
    check(&mut with_web(), &shy, gone(labelled("x", &[("app", "x")])), false);
    let mut guarded = cluster(vec![node("a", ROOMY)]);
    put(&mut guarded, shy.clone(), "a");
    check(&mut guarded, &labelled("web", WEB), gone(shy), true);
}

#[test]
fn spread_and_claims() {
    let even = asking(labelled("p", WEB), |spec| {
        spec.topology_spread_constraints = Some(vec![spread(WEB, "zone", 1, true)]);
    });
    check(&mut cluster(vec![node("a", ROOMY)]), &even, came(labelled("web", WEB)), true);
    check(&mut cluster(vec![node("a", ROOMY)]), &even, came(labelled("x", &[("app", "x")])), false);
    check(&mut cluster(vec![node("a", ROOMY)]), &even, |_| Happening::NodeRemoved, true);
    let mounting = asking(pod("p", &[]), |spec| {
        let source = k8s_openapi::api::core::v1::PersistentVolumeClaimVolumeSource {
            claim_name: "data".to_owned(),
            read_only: None,
        };
        spec.volumes = Some(vec![k8s_openapi::api::core::v1::Volume {
            persistent_volume_claim: Some(source),
            ..k8s_openapi::api::core::v1::Volume::default()
        }]);
    });
    check(
        &mut cluster(vec![node("a", ROOMY)]),
        &mounting,
        |_| Happening::Claim(Key::new("ns", "data")),
        true,
    );
    check(&mut cluster(vec![node("a", ROOMY)]), &mounting, |_| Happening::Claim(Key::new("ns", "x")), false);
    check(&mut cluster(vec![node("a", ROOMY)]), &mounting, |_| Happening::Volume, true);
    check(&mut cluster(vec![node("a", ROOMY)]), &mounting, gone(pod("q", &[])), false);
}
