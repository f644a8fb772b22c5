//! A job that is suspended and resumed again and again, without faults, on the API server's real validation.

use std::time::Duration;

use coracle_client::clock;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    objects,
    scenario::{api, create, namespace},
};

/// How long the controller may take to say what became of a job: its writes are paced, its pods start.
const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until the job is as `is` says, and gives its status.
async fn until(cluster: &Cluster, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = api(&cluster.user, "Job").get("work").await.unwrap().data["status"].take();
        if is(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "never {what}: {status}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn suspended(status: &Value) -> &str {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|c| c["type"] == "Suspended").map_or("", |c| c["status"].as_str().unwrap())
}

pub(crate) async fn run() {
    let cluster = Cluster::start(1).await;
    namespace(&cluster.user).await;
    let mut job = objects::job("work", 1_000, 2, false);
    job["spec"]["suspend"] = true.into();
    create(&cluster.user, job).await;
    let mut started = json!(null);
    for _ in 0..3 {
        until(&cluster, "suspended", |status| suspended(status) == "True").await;
        let before = clock::now();
        tokio::time::sleep(Duration::from_secs(3)).await;
        suspend(&cluster, false).await;
        let status = until(&cluster, "resumed", |status| {
            suspended(status) == "False" && status["active"].as_u64().unwrap_or(0) > 0
        })
        .await;
        let start: Time = serde_json::from_value(status["startTime"].clone()).unwrap();
        assert!(start.0 > before, "it starts anew: {status}");
        assert_ne!(status["startTime"], started);
        started = status["startTime"].clone();
        suspend(&cluster, true).await;
    }
}

async fn suspend(cluster: &Cluster, suspend: bool) {
    let patch = Patch::Merge(json!({ "spec": { "suspend": suspend } }));
    api(&cluster.user, "Job").patch("work", &PatchParams::default(), &patch).await.unwrap();
}
