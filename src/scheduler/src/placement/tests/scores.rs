//! Which of several nodes is the better one.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ContainerImage, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PreferredSchedulingTerm, Service, ServiceSpec,
};

use super::make::*;
use crate::placement::{Cluster, Profile, Strategy, place};

const ZONE: &str = "topology.kubernetes.io/zone";

fn decide(cluster: &mut Cluster, profile: &Profile, pod: Pod) -> String {
    let pod = cluster.candidate(Arc::new(pod));
    place(cluster, profile, &pod, &mut random()).expect("there is room").node
}

#[test]
fn empty_nodes_or_full_ones_by_profile() {
    let busy = || {
        let mut cluster = cluster(vec![node("full", ROOMY), node("half", ROOMY), node("empty", ROOMY)]);
        put(&mut cluster, pod("p", &[("cpu", "3"), ("memory", "6Gi")]), "full");
        put(&mut cluster, pod("q", &[("cpu", "2"), ("memory", "4Gi")]), "half");
        cluster
    };
    let new = || pod("new", &[("cpu", "500m"), ("memory", "1Gi")]);
    assert_eq!(decide(&mut busy(), &Profile::new("x"), new()), "empty");
    assert_eq!(decide(&mut busy(), &Profile::packing("x"), new()), "full");
    // Best when between half and three quarters are in use.
    let points = vec![(0, 0), (50, 5), (63, 10), (70, 3), (100, 0)];
    let profile = Profile { strategy: Strategy::RequestedToCapacityRatio(points), ..Profile::new("x") };
    assert_eq!(decide(&mut busy(), &profile, new()), "half");
}

#[test]
fn cpu_and_memory_in_use_alike() {
    let mut cluster = cluster(vec![node("a", ROOMY), node("b", ROOMY)]);
    put(&mut cluster, pod("p", &[("cpu", "2"), ("memory", "1")]), "a");
    put(&mut cluster, pod("q", &[("cpu", "1"), ("memory", "2Gi")]), "b");
    // It evens out what is in use on the first.
    assert_eq!(told(&mut cluster, pod("new", &[("cpu", "1m"), ("memory", "4Gi")])), "a");
}

#[test]
fn nodes_that_would_rather_not() {
    let taints = Some(vec![taint("team", "red", "PreferNoSchedule")]);
    let nodes = vec![with(node("a", ROOMY), |spec, _| spec.taints = taints), node("b", ROOMY)];
    let mut cluster = cluster(nodes);
    put(&mut cluster, pod("p", &[("cpu", "1"), ("memory", "2Gi")]), "b");
    assert_eq!(told(&mut cluster, pod("new", &[])), "b");
}

#[test]
fn nodes_that_are_preferred() {
    let ssd = |name: &str, disk: &str| {
        let mut node = node(name, ROOMY);
        node.metadata.labels.get_or_insert_default().insert("disk".to_owned(), disk.to_owned());
        node
    };
    let mut cluster = cluster(vec![ssd("a", "ssd"), ssd("b", "hdd"), node("c", ROOMY)]);
    put(&mut cluster, pod("p", &[("cpu", "2"), ("memory", "4Gi")]), "a");
    let wants = |weight: i32, disk: &str| PreferredSchedulingTerm {
        weight,
        preference: NodeSelectorTerm {
            match_expressions: Some(vec![NodeSelectorRequirement {
                key: "disk".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![disk.to_owned()]),
            }]),
            match_fields: None,
        },
    };
    let pod = asking(pod("new", &[]), |spec| {
        spec.affinity.get_or_insert_default().node_affinity = Some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                wants(80, "ssd"),
                wants(5, "hdd"),
            ]),
            ..NodeAffinity::default()
        });
    });
    assert_eq!(told(&mut cluster, pod), "a");
}

#[test]
fn pods_that_are_liked_or_not() {
    let web = [("app", "web")];
    let mut near_by = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    put(&mut near_by, labelled("web", &web), "b");
    assert_eq!(told(&mut near_by, drawn(pod("new", &[]), 10, term(&web, ZONE))), "b");
    assert_eq!(told(&mut near_by, drawn(pod("new", &[]), -10, term(&web, ZONE))), "a");
    // What is there may like it or not, too; a required term of theirs weighs one.
    put(&mut near_by, drawn(labelled("fan", &[("app", "fan")]), 10, term(&[("app", "new")], ZONE)), "b");
    assert_eq!(told(&mut near_by, labelled("new", &[("app", "new")])), "b");
    put(&mut near_by, drawn(labelled("foe", &[("app", "foe")]), -30, term(&[("app", "new")], ZONE)), "b");
    assert_eq!(told(&mut near_by, labelled("new", &[("app", "new")])), "a");
}

#[test]
fn nodes_that_have_the_image() {
    let image = |name: &str, bytes: i64| ContainerImage {
        names: Some(vec![name.to_owned()]),
        size_bytes: Some(bytes),
    };
    let large = vec![image("registry.local/app:latest", 2 << 30)];
    let mut cluster =
        cluster(vec![with(node("a", ROOMY), |_, status| status.images = Some(large)), node("b", ROOMY)]);
    put(&mut cluster, pod("p", &[("cpu", "500m"), ("memory", "1Gi")]), "a");
    let wants = |image: &str| {
        let image = Some(image.to_owned());
        asking(pod("new", &[]), |spec| spec.containers[0].image = image)
    };
    assert_eq!(told(&mut cluster, wants("registry.local/app")), "a");
    assert_eq!(told(&mut cluster, wants("registry.local/app:2")), "b");
    let initialised = asking(pod("new", &[]), |spec| {
        let image = Some("registry.local/app".to_owned());
        spec.init_containers = Some(vec![Container { image, ..spec.containers[0].clone() }]);
    });
    assert_eq!(told(&mut cluster, initialised), "a");
}

/// For one container a gigabyte is all that counts, for two it is half of it.
#[test]
fn the_more_containers_the_more_images_count() {
    let image = |name: &str, bytes: i64| ContainerImage {
        names: Some(vec![name.to_owned()]),
        size_bytes: Some(bytes),
    };
    let (one, two) = (image("one:latest", 1 << 30), image("two:latest", 1 << 30));
    let both = vec![one.clone(), two];
    let mut cluster = cluster(vec![
        with(node("a", ROOMY), |_, status| status.images = Some(vec![one])),
        with(node("b", ROOMY), |_, status| status.images = Some(both)),
    ]);
    put(&mut cluster, pod("p", &[("cpu", "100m"), ("memory", "100Mi")]), "b");
    let new = asking(pod("new", &[]), |spec| {
        let container = |name: &str| Container {
            name: name.to_owned(),
            image: Some(name.to_owned()),
            ..spec.containers[0].clone()
        };
        spec.containers = vec![container("one"), container("two")];
    });
    assert_eq!(told(&mut cluster, new), "b");
}

#[test]
fn pods_of_a_service_are_spread_and_a_new_service_counts_at_once() {
    let web = [("app", "web")];
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    put(&mut cluster, labelled("one", &web), "b");
    put(&mut cluster, labelled("two", &web), "b");
    put(&mut cluster, pod("heavy", &[("cpu", "2"), ("memory", "4Gi")]), "a");
    assert_eq!(told(&mut cluster, labelled("new", &web)), "b");
    let spec = ServiceSpec { selector: Some(labels(&web)), ..ServiceSpec::default() };
    let service = Service { spec: Some(spec), ..Service::default() };
    cluster.set_service(&coracle_client::Key::new("ns", "web"), Some(&service));
    assert_eq!(told(&mut cluster, labelled("new", &web)), "a");
}

#[test]
fn soft_constraints_prefer_and_do_not_forbid() {
    let web = [("app", "web")];
    let wants = asking(labelled("new", &web), |spec| {
        spec.topology_spread_constraints = Some(vec![spread(&web, ZONE, 1, false)]);
    });
    let mut both = cluster(vec![zoned("a", "x"), zoned("b", "y"), node("c", ROOMY)]);
    put(&mut both, labelled("one", &web), "a");
    put(&mut both, pod("heavy", &[("cpu", "1"), ("memory", "2Gi")]), "b");
    assert_eq!(told(&mut both, wants.clone()), "b");
    let mut one = cluster(vec![zoned("a", "x")]);
    put(&mut one, labelled("one", &web), "a");
    assert_eq!(told(&mut one, wants), "a");
}
