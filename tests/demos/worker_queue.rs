use super::{body, start};
use crate::support::{eventually, http_post};

#[test]
fn more_workers_work_at_the_same_time() {
    let Some(cluster) = start(&[("worker-queue", "worker-queue:1")], "worker-queue/worker-queue.yaml") else {
        return;
    };
    cluster.kubectl("wait --for=condition=Available deployment --all --timeout=60s");
    let queue = cluster.node_port("queue", "");
    let mut done = 0;
    let mut work = |tasks: u64| {
        let (head, _) = http_post(&queue, &format!("/tasks?count={tasks}"), "").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        done += tasks;
        eventually("all tasks are done", || {
            let report: serde_json::Value =
                serde_json::from_str(&body(&queue, "/")?).map_err(|e| e.to_string())?;
            if report["done"] == done { Ok(report) } else { Err(report.to_string()) }
        })
    };
    let alone = work(4);
    assert_eq!(alone["most_at_once"], 1, "{alone}");
    cluster.kubectl("scale deployment worker --replicas=4");
    cluster.kubectl("rollout status deployment/worker --timeout=60s");
    let together = work(32);
    assert_eq!(together["most_at_once"], 4, "{together}");
    assert_eq!(together["workers"].as_object().unwrap().len(), 4, "{together}");
}
