//! `kill -9` at any moment: what was acknowledged is there afterwards, and pods run again, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::{Cluster, eventually, get, manifest};

/// Kills; each comes after another stretch of writing.
const KILLS: u32 = 5;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn nothing_acknowledged_is_lost_and_pods_run_again_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut cluster = Cluster::start();
    cluster.push(&["web", "content", "adapter", "shop", "ambassador"]);
    let connection = cluster.connection();
    runtime.block_on(async {
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&manifest("demo.yaml")).unwrap();
        for object in &mut objects {
            for port in object.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten()
            {
                port.as_object_mut().unwrap().remove("nodePort");
            }
            connection.apply(object).await.unwrap();
        }
    });
    let before = four_ready_pods(&runtime, &cluster, 0);

    // What the API server has answered: name → value, or None when the deletion was answered.
    let acknowledged: Arc<Mutex<BTreeMap<String, Option<String>>>> = Arc::default();
    for round in 0..KILLS {
        let connection = cluster.connection();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (connection, acknowledged) = (connection.clone(), acknowledged.clone());
                runtime.spawn(async move {
                    for n in 0.. {
                        let name = format!("w{writer}-r{round}-{n}");
                        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": "1"}});
                        if connection.create(MAPS, &object).await.is_err() {
                            return;
                        }
                        acknowledged.lock().await.insert(name.clone(), Some("1".into()));
                        let path = format!("{MAPS}/{name}");
                        match n % 3 {
                            0 => {
                                // Until it is answered it may be there in either form.
                                acknowledged.lock().await.remove(&name);
                                let patch = connection
                                    .request(Method::PATCH, &path)
                                    .header("content-type", "application/merge-patch+json")
                                    .body(r#"{"data":{"v":"2"}}"#);
                                if !patch.send().await.is_ok_and(|r| r.status().is_success()) {
                                    return;
                                }
                                acknowledged.lock().await.insert(name, Some("2".into()));
                            }
                            1 => {
                                acknowledged.lock().await.remove(&name);
                                if connection.delete(&path).await.is_err() {
                                    return;
                                }
                                acknowledged.lock().await.insert(name, None);
                            }
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        // The moment of the kill is the point of the test; every round has another.
        let enough = runtime.block_on(acknowledged.lock()).len() + 10 + 17 * round as usize;
        eventually("some writes", || match runtime.block_on(acknowledged.lock()).len() {
            n if n >= enough => Ok(()),
            n => Err(format!("{n} of {enough} were acknowledged")),
        });
        cluster.signal("KILL");
        for writer in writers {
            runtime.block_on(writer).unwrap();
        }
        cluster.up();

        let there = runtime.block_on(maps(&cluster));
        for (name, value) in runtime.block_on(acknowledged.lock()).iter() {
            assert_eq!(there.get(name), value.as_ref(), "{name} after kill {round}");
        }
        // The same pods, run again in place: neither replaced nor doubled.
        assert_eq!(four_ready_pods(&runtime, &cluster, round + 1), before);
    }
}

async fn maps(cluster: &Cluster) -> BTreeMap<String, String> {
    let list = get(&cluster.connection(), MAPS).await.unwrap();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| {
            let value = item["data"]["v"].as_str().unwrap_or_default();
            (item["metadata"]["name"].as_str().unwrap().to_owned(), value.to_owned())
        })
        .collect()
}

/// Waits until there are four pods, every container of theirs runs, is ready and was restarted exactly
/// `restarts` times; gives the pods' uids.
fn four_ready_pods(runtime: &tokio::runtime::Runtime, cluster: &Cluster, restarts: u32) -> BTreeSet<String> {
    let connection = cluster.connection();
    eventually("four ready pods", || {
        let list = runtime.block_on(get(&connection, "/api/v1/namespaces/default/pods"))?;
        let pods = list["items"].as_array().ok_or("no list")?;
        let runs = |c: &Value| {
            c["ready"] == true && !c["state"]["running"].is_null() && c["restartCount"] == json!(restarts)
        };
        let states = |pod: &Value| pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let ready = pods.iter().filter(|pod| !states(pod).is_empty() && states(pod).iter().all(runs)).count();
        if (pods.len(), ready) != (4, 4) {
            let states: Vec<_> = pods.iter().flat_map(states).map(|c| c.to_string()).collect();
            return Err(format!(
                "{ready} of {} pods run after {restarts} restarts: {}",
                pods.len(),
                states.join("\n")
            ));
        }
        Ok(pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str()).map(str::to_owned).collect())
    })
}
