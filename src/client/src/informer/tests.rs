//! Informers against the fake API: what they promise holds when watches break.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry};
use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use super::{Delta, Informer, Informers};
use crate::{
    Key, random,
    test_support::{FakeApi, Fault, eventually},
};

fn map(name: &str, value: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.metadata.namespace = Some("ns".to_owned());
    map.data = Some(BTreeMap::from([("v".to_owned(), value.to_owned())]));
    map
}

fn set(api: &FakeApi, name: &str, value: &str) {
    api.edit("ns", name, |map: &mut ConfigMap| {
        map.data = Some(BTreeMap::from([("v".to_owned(), value.to_owned())]));
    });
}

fn value(map: &ConfigMap) -> String {
    map.data.as_ref().and_then(|data| data.get("v")).cloned().unwrap_or_default()
}

fn start(api: &FakeApi) -> (Informers, Informer<ConfigMap>, CancellationToken) {
    let shutdown = CancellationToken::new();
    let informers = Informers::new(api.client(), shutdown.clone());
    let informer = informers.get();
    (informers, informer, shutdown)
}

#[tokio::test(start_paused = true)]
async fn one_watch_serves_everyone() {
    let api = FakeApi::new();
    api.create(&map("a", "1"));
    let (informers, first, _shutdown) = start(&api);
    let second = informers.get::<ConfigMap>();
    first.synced().await;
    assert_eq!(second.len(), 1);
    let watches = || api.calls().iter().filter(|call| call.watch).count();
    eventually("the watch", || (watches() > 0).then_some(())).await;
    assert_eq!(watches(), 1);
}

#[tokio::test(start_paused = true)]
async fn subscribers_see_the_present_and_then_every_change() {
    let api = FakeApi::new();
    api.create(&map("a", "1"));
    let (_informers, informer, shutdown) = start(&api);
    informer.synced().await;
    let mut deltas = informer.subscribe();
    assert!(matches!(deltas.next().await, Some(Delta::Added(map)) if value(&map) == "1"));
    set(&api, "a", "2");
    let delta = deltas.next().await;
    assert!(matches!(&delta, Some(Delta::Updated { old, new }) if value(old) == "1" && value(new) == "2"));
    api.remove::<ConfigMap>("ns", "a");
    assert!(matches!(deltas.next().await, Some(Delta::Deleted(map)) if value(&map) == "2"));
    shutdown.cancel();
    assert!(deltas.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages() {
    let api = FakeApi::new();
    for index in 0..1203 {
        api.create(&map(&format!("m{index}"), ""));
    }
    let (_informers, informer, _shutdown) = start(&api);
    informer.synced().await;
    assert_eq!(informer.len(), 1203);
    let lists = api.calls().iter().filter(|call| !call.watch).count();
    assert_eq!(lists, 3);
}

#[tokio::test(start_paused = true)]
async fn a_cut_watch_goes_on_where_it_was() {
    let api = FakeApi::new();
    let (_informers, informer, _shutdown) = start(&api);
    informer.synced().await;
    api.cut_watches();
    let created = api.create(&map("a", "1"));
    let revision: u64 = created.resource_version().unwrap().parse().unwrap();
    informer.reached(revision).await;
    assert!(informer.get(&Key::new("ns", "a")).is_some());
    let lists = api.calls().iter().filter(|call| !call.watch).count();
    assert_eq!(lists, 1, "no second list");
}

#[tokio::test(start_paused = true)]
async fn after_gone_it_lists_again_and_tells_what_changed_meanwhile() {
    let api = FakeApi::new();
    for name in ["kept", "changed", "deleted", "replaced"] {
        api.create(&map(name, "1"));
    }
    let (_informers, informer, _shutdown) = start(&api);
    informer.synced().await;
    let mut deltas = informer.subscribe();
    while deltas.try_next().is_some() {}
    // The informer cannot watch while this happens.
    api.set_faults(|call| call.watch.then_some(Fault::Refuse(500, "InternalError")));
    api.cut_watches();
    tokio::time::sleep(Duration::from_millis(1)).await;
    set(&api, "changed", "2");
    api.remove::<ConfigMap>("ns", "deleted");
    api.remove::<ConfigMap>("ns", "replaced");
    api.create(&map("replaced", "2"));
    api.compact();
    api.clear_faults();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(format!("{:?}", deltas.next().await.expect("open")));
    }
    seen.sort();
    assert_eq!(
        seen,
        ["Added(ns/replaced)", "Deleted(ns/deleted)", "Deleted(ns/replaced)", "Updated(ns/changed)"]
    );
}

#[tokio::test(start_paused = true)]
async fn indexes_follow_the_objects() {
    let api = FakeApi::new();
    api.create(&map("a", "red"));
    let (_informers, informer, _shutdown) = start(&api);
    informer.add_index("value", |map| vec![value(map)]);
    informer.synced().await;
    api.create(&map("b", "red"));
    set(&api, "a", "blue");
    informer.reached(api.revision()).await;
    let names = |bucket: &str| -> Vec<String> {
        informer.by_index("value", bucket).iter().map(|map| map.name_any()).collect()
    };
    assert_eq!((names("red"), names("blue")), (vec!["b".to_owned()], vec!["a".to_owned()]));
    api.remove::<ConfigMap>("ns", "b");
    informer.reached(api.revision()).await;
    assert_eq!(names("red"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn managed_fields_are_not_kept() {
    let api = FakeApi::new();
    let mut object = map("a", "1");
    object.metadata.managed_fields = Some(vec![ManagedFieldsEntry::default()]);
    api.create(&object);
    let (_informers, informer, _shutdown) = start(&api);
    informer.synced().await;
    let held = informer.get(&Key::new("ns", "a")).expect("listed");
    assert_eq!(held.metadata.managed_fields, None);
}

#[tokio::test(start_paused = true)]
async fn metadata_informers_hold_any_kind() {
    let api = FakeApi::new();
    api.create(&map("a", "1"));
    let informers = Informers::new(api.client(), CancellationToken::new());
    let resource = kube::core::ApiResource::erase::<ConfigMap>(&());
    let informer = informers.metadata(&resource);
    informer.synced().await;
    assert_eq!(informer.list()[0].metadata.name.as_deref(), Some("a"));
    let mut deltas = informer.subscribe();
    deltas.next().await.expect("the object");
    informers.drop_metadata(&resource);
    assert!(deltas.next().await.is_none(), "its end is told");
}

/// Whatever breaks, the copy ends up like the original and a subscriber that replays deltas agrees.
#[tokio::test(start_paused = true)]
async fn under_faults_the_copy_converges() {
    for seed in 0..20 {
        random::seed(seed);
        let api = FakeApi::new();
        let faults = Arc::new(AtomicUsize::new(0));
        let count = faults.clone();
        api.set_faults(move |call| {
            let fault = match random::below(6) {
                0 => Fault::Refuse(500, "InternalError"),
                1 => Fault::Refuse(410, "Expired"),
                2 => Fault::Delay(Duration::from_millis(random::below(50))),
                3 => Fault::LoseReply,
                4 if call.watch => {
                    let events = random::below(4);
                    Fault::CutAfter(usize::try_from(events).unwrap_or(0))
                }
                _ => return None,
            };
            count.fetch_add(1, Ordering::Relaxed);
            Some(fault)
        });
        let (_informers, informer, _shutdown) = start(&api);
        let mut deltas = informer.subscribe();
        let mut replayed = BTreeMap::new();
        for step in 0..200 {
            let name = format!("m{}", random::below(8));
            match api.get::<ConfigMap>("ns", &name) {
                None => {
                    api.create(&map(&name, &step.to_string()));
                }
                Some(_) if random::below(3) == 0 => {
                    api.remove::<ConfigMap>("ns", &name);
                }
                Some(_) => set(&api, &name, &step.to_string()),
            }
            match random::below(12) {
                0 => api.cut_watches(),
                1 => api.compact(),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random::below(20))).await;
            while let Some(delta) = deltas.try_next() {
                replay(&mut replayed, &delta);
            }
        }
        api.clear_faults();
        informer.reached(api.revision()).await;
        while let Some(delta) = deltas.try_next() {
            replay(&mut replayed, &delta);
        }
        let truth: BTreeMap<_, _> =
            api.list::<ConfigMap>().into_iter().map(|map| (map.name_any(), value(&map))).collect();
        let copy: BTreeMap<_, _> = informer.list().iter().map(|map| (map.name_any(), value(map))).collect();
        assert_eq!(copy, truth, "seed {seed}");
        let replayed: BTreeMap<_, _> = replayed.into_iter().map(|(name, (_, value))| (name, value)).collect();
        assert_eq!(replayed, truth, "seed {seed}");
        assert!(faults.load(Ordering::Relaxed) > 0, "seed {seed}: nothing went wrong");
    }
}

/// Applies a delta and checks that it follows from what was seen before.
fn replay(seen: &mut BTreeMap<String, (Option<String>, String)>, delta: &Delta<ConfigMap>) {
    let object = delta.object();
    let name = object.name_any();
    let before = seen.get(&name).cloned();
    match delta {
        Delta::Added(_) => assert!(before.is_none(), "{delta:?} twice"),
        Delta::Updated { old, .. } => assert_eq!(before, Some((old.uid(), value(old))), "{delta:?}"),
        Delta::Deleted(last) => assert_eq!(before.and_then(|(uid, _)| uid), last.uid(), "{delta:?}"),
    }
    if matches!(delta, Delta::Deleted(_)) {
        seen.remove(&name);
    } else {
        seen.insert(name, (object.uid(), value(object)));
    }
}
