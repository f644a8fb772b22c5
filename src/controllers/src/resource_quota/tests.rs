//! Quotas show what is used, and charges of others are not undone.

use std::collections::BTreeMap;

use coracle_client::{random, test_support::eventually};
use k8s_openapi::{
    api::core::v1::{
        ConfigMap, PersistentVolumeClaim, Pod, PodStatus, ResourceQuotaSpec, ResourceQuotaStatus,
        ResourceRequirements, Secret,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use serde_json::json;

use super::*;
use crate::{
    Controller,
    testing::{Bench, chaos, meta, pod},
};

const CONTROLLER: Controller = Controller { name: NAME, run };

fn amounts(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}

fn quota(hard: &[(&str, &str)]) -> ResourceQuota {
    ResourceQuota {
        metadata: meta("q"),
        spec: Some(ResourceQuotaSpec { hard: Some(amounts(hard)), ..ResourceQuotaSpec::default() }),
        status: None,
    }
}

fn asking(name: &str, cpu: &str) -> Pod {
    let mut pod = pod(name);
    let container = &mut pod.spec.as_mut().expect("set").containers[0];
    container.resources =
        Some(ResourceRequirements { requests: Some(amounts(&[("cpu", cpu)])), ..Default::default() });
    pod
}

fn end(pod: &mut Pod) {
    pod.status = Some(PodStatus { phase: Some("Succeeded".to_owned()), ..PodStatus::default() });
}

/// What the quota says: `name=used/hard`.
fn told(api: &coracle_client::test_support::FakeApi) -> String {
    let quota: ResourceQuota = api.get("ns", "q").expect("there");
    let status = quota.status.unwrap_or_default();
    let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
    let one = |(name, hard): (&String, &Quantity)| {
        format!("{name}={}/{}", used.get(name).map_or("?", |used| &used.0), hard.0)
    };
    hard.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn kinds_are_counted_by_what_is_limited() {
    #[track_caller]
    fn check(spec: &serde_json::Value, plural: &str, found: &Found, expected: &str) {
        let value = json!({"spec": spec});
        let quota: ResourceQuota = serde_json::from_value(value.clone()).expect("a quota");
        let kind = (String::new(), plural.to_owned());
        let names = plan::wanted(&quota).remove(&kind).expect("limited");
        let by_number = matches!(found, Found::Count(_));
        assert!(!by_number || plural != "pods" || !plan::needs_objects(&quota, &names), "{expected}");
        let used = plan::used(&value, &kind, &names, found);
        assert_eq!(coracle_api::amounts::text(used.iter()), expected);
    }
    let pods = || {
        let mut over = asking("over", "3");
        end(&mut over);
        let mut all = [asking("a", "500m"), asking("b", "1"), over].map(|pod| json!(pod));
        all[0]["status"]["qosClass"] = json!("BestEffort");
        Found::Objects(all.to_vec())
    };
    check(&json!({"hard": {"count/pods": "1"}}), "pods", &Found::Count(3), "count/pods=3");
    check(
        &json!({"hard": {"pods": "9", "requests.cpu": "2", "limits.memory": "1Gi", "count/pods": "1", "secrets": "1"}}),
        "pods",
        &pods(),
        "count/pods=3,limits.memory=0,pods=2,requests.cpu=1500m",
    );
    check(&json!({"hard": {"pods": "9"}, "scopes": ["BestEffort"]}), "pods", &pods(), "pods=1");
    check(&json!({"hard": {"secrets": "9"}}), "secrets", &Found::Count(2), "secrets=2");
    // No scope has a secret in it.
    let scoped = json!({"hard": {"count/secrets": "9"}, "scopes": ["BestEffort"]});
    check(&scoped, "secrets", &Found::Count(2), "count/secrets=0");
}

#[test]
fn amounts_go_down_only_when_charges_have_settled() {
    #[track_caller]
    fn check(told: &[(&str, &str)], counted: &str, settled: bool, expected: Option<&str>, later: bool) {
        let mut quota = quota(&[("pods", "4"), ("cpu", "2")]);
        let hard = Some(amounts(&[("pods", "4"), ("cpu", "2000m")]));
        quota.status = Some(ResourceQuotaStatus { hard, used: Some(amounts(told)) });
        let (pods, cpu) = counted.split_once(' ').expect("two");
        let counted = [("pods", pods), ("cpu", cpu)];
        let counted =
            counted.map(|(name, amount)| (name.to_owned(), amount.parse().expect("an amount"))).into();
        let plan = plan(&quota, &counted, |_| settled);
        let used = plan.status.map(|status| {
            let used = status.used.unwrap_or_default();
            format!("{} {}", used["pods"].0, used["cpu"].0)
        });
        assert_eq!((used.as_deref(), plan.later), (expected, later));
    }
    check(&[], "1 500m", false, Some("1 500m"), false);
    check(&[("pods", "1"), ("cpu", "0.5")], "1 500m", true, None, false);
    check(&[("pods", "2"), ("cpu", "1")], "3 1500m", false, Some("3 1500m"), false);
    check(&[("pods", "2"), ("cpu", "1")], "1 500m", false, None, true);
    check(&[("pods", "2"), ("cpu", "1")], "1 500m", true, Some("1 500m"), false);
    // One goes up, the other has to wait.
    check(&[("pods", "2"), ("cpu", "1")], "1 3", false, Some("2 3"), true);
    // What is no longer limited is no longer told.
    check(&[("pods", "1"), ("cpu", "1"), ("memory", "1")], "1 1", false, Some("1 1"), false);
}

#[tokio::test(start_paused = true)]
async fn quotas_show_what_is_used() {
    let bench = Bench::start(&[CONTROLLER]);
    let api = &bench.api;
    for name in ["a", "b", "c"] {
        api.create(&asking(name, "500m"));
    }
    api.create(&ConfigMap { metadata: meta("m"), ..ConfigMap::default() });
    api.create(&quota(&[("pods", "9"), ("requests.cpu", "2"), ("configmaps", "5"), ("example.com/x", "1")]));
    let shows = |expected: &'static str| eventually(expected, move || (told(api) == expected).then_some(()));
    shows("configmaps=1/5 example.com/x=?/1 pods=3/9 requests.cpu=1500m/2").await;

    // Gone or over: freed well within a second, and nothing is written when nothing changes.
    bench.quiet().await;
    let start = Instant::now();
    api.remove::<Pod>("ns", "a");
    api.edit("ns", "b", end);
    shows("configmaps=1/5 example.com/x=?/1 pods=1/9 requests.cpu=500m/2").await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    bench.quiet().await;
    let writes = api.writes().len();
    tokio::time::sleep(2 * RESYNC).await;
    assert_eq!(api.writes().len(), writes);

    // Other things are limited now.
    api.edit("ns", "q", |quota: &mut ResourceQuota| {
        quota.spec.get_or_insert_default().hard = Some(amounts(&[("count/pods", "3")]));
    });
    shows("count/pods=2/3").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_watched_that_no_quota_names() {
    let bench = Bench::start(&[CONTROLLER]);
    tokio::time::sleep(RESYNC).await;
    let watched = |plural: &str| {
        let path = format!("/{plural}");
        bench
            .api
            .calls()
            .iter()
            .any(|call| call.uri.split('?').next().is_some_and(|uri| uri.ends_with(&path)))
    };
    assert!(watched("resourcequotas") && !watched("pods"));
    bench.api.create(&quota(&[("pods", "9")]));
    eventually("counted", || (told(&bench.api) == "pods=0/9").then_some(())).await;
    assert!(watched("pods") && !watched("services") && !watched("configmaps"));
}

/// A charge and the object that it is for, as admission makes them; `None` if the quota is used up.
async fn admit(api: &coracle_client::test_support::FakeApi, name: &str) -> Option<()> {
    let quota: ResourceQuota = api.get("ns", "q")?;
    let used = quota.status?.used?.get("pods")?.0.parse::<u64>().ok()?;
    if used >= 5 {
        return None;
    }
    api.edit("ns", "q", |quota: &mut ResourceQuota| {
        quota.status.get_or_insert_default().used = Some(amounts(&[("pods", &(used + 1).to_string())]));
    });
    tokio::time::sleep(Duration::from_millis(random::below(SETTLE.as_millis() as u64 / 2))).await;
    api.create(&pod(name));
    Some(())
}

#[tokio::test(start_paused = true)]
async fn charges_are_not_undone_whatever_goes_wrong() {
    for seed in 4..7 {
        random::seed(seed);
        churn(seed).await;
    }
}

async fn churn(seed: u64) {
    let bench = Bench::start(&[CONTROLLER]);
    let api = &bench.api;
    chaos(api, 6);
    api.create(&quota(&[("pods", "5")]));
    let mut admitted = 0;
    for round in 0..200 {
        if admit(api, &format!("p{round}")).await.is_some() {
            admitted += 1;
        }
        let pods: Vec<Pod> = api.list();
        assert!(pods.len() <= 5, "overdrawn in round {round}, seed {seed}");
        if random::below(3) == 0
            && let Some(pod) = pods.first()
        {
            api.remove::<Pod>("ns", pod.metadata.name.as_deref().expect("named"));
        }
        tokio::time::sleep(Duration::from_millis(random::below(400))).await;
    }
    assert!(admitted > 20, "only {admitted} were admitted, seed {seed}");
    api.clear_faults();
    let expected = format!("pods={}/5", api.list::<Pod>().len());
    eventually("settled", || (told(api) == expected).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn kinds_known_by_their_metadata_are_counted() {
    let bench = Bench::start(&[CONTROLLER]);
    let api = &bench.api;
    api.create(&Secret { metadata: meta("s"), ..Secret::default() });
    api.create(&PersistentVolumeClaim { metadata: meta("c"), ..PersistentVolumeClaim::default() });
    api.create(&quota(&[("secrets", "5"), ("count/widgets.example.com", "1")]));
    eventually("counted", || (told(api) == "count/widgets.example.com=?/1 secrets=1/5").then_some(())).await;
    api.remove::<Secret>("ns", "s");
    eventually("freed", || (told(api) == "count/widgets.example.com=?/1 secrets=0/5").then_some(())).await;
}
