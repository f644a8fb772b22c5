use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{header, start};
use crate::support::{eventually, http_get};

/// What a client met: answers by version, and what went wrong.
#[derive(Default)]
struct Met {
    versions: BTreeMap<String, u64>,
    failures: Vec<String>,
}

fn ask(address: &str, met: &mut Met) {
    match http_get(address, "/") {
        Ok((head, _)) if head.starts_with("HTTP/1.1 200") => {
            *met.versions.entry(header(&head, "x-version").to_owned()).or_default() += 1;
        }
        Ok((head, body)) => met.failures.push(format!("{head}\n{body}")),
        Err(error) => met.failures.push(error),
    }
}

#[test]
fn an_update_and_its_rollback_lose_no_request() {
    let modules = [("greeter-v1", "greeter:1"), ("greeter-v2", "greeter:2")];
    let Some(cluster) = start(&modules, "rolling-update/rolling-update.yaml") else { return };
    cluster.kubectl("rollout status deployment/greeter --timeout=60s");
    let address = cluster.node_port("greeter", "");
    let only = |version: &str| {
        eventually("everybody says the same", || {
            let mut met = Met::default();
            (0..8).for_each(|_| ask(&address, &mut met));
            if met.versions.keys().eq([version]) { Ok(()) } else { Err(format!("{:?}", met.versions)) }
        });
    };
    let stop = AtomicBool::new(false);
    let met = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut met = Met::default();
            while !stop.load(Ordering::Relaxed) {
                ask(&address, &mut met);
            }
            met
        });
        only("v1");
        cluster.kubectl("set image deployment/greeter greeter=registry.local/greeter:2");
        cluster.kubectl("rollout status deployment/greeter --timeout=60s");
        only("v2");
        cluster.kubectl("rollout undo deployment/greeter");
        cluster.kubectl("rollout status deployment/greeter --timeout=60s");
        only("v1");
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    assert!(met.failures.is_empty(), "{} failures: {:#?}", met.failures.len(), met.failures.first());
    assert!(met.versions.len() == 2 && met.versions.values().all(|n| *n > 10), "{:?}", met.versions);
}
