//! Nodes that are full: who waits for a place and gets it, who goes for want of places, and who goes for a critical pod.

use super::*;

/// A pod of so many containers that sleep. It is one that a full node does not refuse.
fn sleeping(containers: usize) -> serde_json::Value {
    let containers: Vec<_> = (0..containers)
        .map(|number| {
            let name = if number == 0 { "c".to_owned() } else { format!("c{number}") };
            json!({"name": name, "image": "registry.local/sleeps:1"})
        })
        .collect();
    let class = "system-cluster-critical";
    json!({"containers": containers, "terminationGracePeriodSeconds": 1, "priorityClassName": class})
}

/// Who finds no place says so, and runs as soon as another has given one back: one for each, in the order in which they
/// came, and although back-off would have them wait for ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_without_room_waits_for_its_turn() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    bench.create("small", sleeping(1)).await;
    bench.create("large", sleeping(15)).await;
    bench.pod("small", is_ready).await;
    bench.pod("large", is_ready).await;
    for late in ["first", "second"] {
        bench.create(late, sleeping(1)).await;
        let pod = bench.pod(late, |pod| waiting(pod) == "RunContainerError").await;
        let state = container(&pod).state.unwrap().waiting.unwrap();
        let message = "no room for another container: 16 are running, which is the limit of this node";
        assert_eq!(state.message.as_deref(), Some(message));
        assert_eq!(bench.events(late, "Failed").await, [format!("Error: {message}")]);
    }
    let begun = tokio::time::Instant::now();
    bench.delete("small").await;
    bench.pod("first", is_ready).await;
    assert_eq!(waiting(&bench.pod("second", |_| true).await), "RunContainerError", "there was one place");
    bench.delete("large").await;
    bench.pod("second", is_ready).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "nobody waited for a back-off");
    assert_eq!(bench.events("second", "Failed").await.len(), 1, "it was not tried in vain");
    bench.gone("small").await;
    bench.gone("large").await;
    bench.free_places(14).await;
    // Who is deleted while it waits gives its turn up.
    bench.create("large", sleeping(14)).await;
    bench.pod("large", is_ready).await;
    bench.create("goes", sleeping(1)).await;
    bench.pod("goes", |pod| waiting(pod) == "RunContainerError").await;
    bench.delete("goes").await;
    bench.gone("goes").await;
    bench.delete("first").await;
    bench.free_places(1).await;
}

/// Instances are what a node has instead of processes, and pods are evicted in the same words for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_most_places_is_evicted_for_them() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    let ordinary = |containers| json!({"containers": sleeping(containers)["containers"]});
    assert!(!bench.evict_for_places(), "nobody takes any");
    bench.create("critical", sleeping(4)).await;
    bench.create("one", ordinary(1)).await;
    bench.create("three", ordinary(3)).await;
    bench.pod("critical", is_ready).await;
    bench.pod("one", is_ready).await;
    bench.pod("three", is_ready).await;
    assert_eq!(bench.node_condition("PIDPressure").await.0, "False");
    assert!(bench.evict_for_places());
    let message = "The node was low on resource: pids. Threshold quantity: 1, available: 0. ";
    let pod = bench.pod("three", |pod| phase(pod) == "Failed").await;
    let status = pod.status.clone().unwrap();
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some(message)));
    assert_eq!(condition(&pod, "DisruptionTarget"), ("TerminationByKubelet".into(), message.into()));
    assert_eq!(bench.events("three", "Evicted").await, [message]);
    let (_, metrics) = bench.get("/metrics").await;
    assert!(metrics.contains("kubelet_evictions{eviction_signal=\"pid.available\"} 1\n"), "{metrics}");
    assert!(is_ready(&bench.pod("one", |_| true).await));
    assert!(bench.is_short_of_places(), "it says so for a while, so that the next does not come at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_go_for_a_static_pod() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    let cpus = bench.node().await.status.unwrap().allocatable.unwrap()["cpu"].0.clone();
    let mut greedy = json!({"containers": sleeping(1)["containers"]});
    bench.create("modest", greedy.clone()).await;
    greedy["containers"][0]["resources"] = json!({"requests": {"cpu": cpus}});
    bench.create("greedy", greedy).await;
    bench.pod("greedy", is_ready).await;
    bench.pod("modest", is_ready).await;
    let dir = bench.data_dir().join("manifests");
    std::fs::create_dir_all(&dir).unwrap();
    let container =
        json!({"name": "c", "image": "registry.local/sleeps:1", "resources": {"requests": {"cpu": "100m"}}});
    let web = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [container]}});
    std::fs::write(dir.join("web.yaml"), web.to_string()).unwrap();
    bench.pod("web-n", is_ready).await;
    let pod = bench.pod("greedy", |pod| phase(pod) == "Failed").await;
    let status = pod.status.clone().unwrap();
    let message = "Preempted in order to admit critical pod";
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Preempting"), Some(message)));
    assert_eq!(bench.events("greedy", "Preempting").await, [message]);
    let words = "Pod was preempted by Kubelet to accommodate a critical pod.";
    assert_eq!(condition(&pod, "DisruptionTarget"), ("TerminationByKubelet".into(), words.into()));
    assert!(is_ready(&bench.pod("modest", |_| true).await), "its end would have given nothing");
}
