//! Who goes and who stays: plans on small graphs, and the running collector.

use std::time::Duration;

use coracle_client::{
    random,
    test_support::{FakeApi, Fault, eventually},
};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Event, Node, Pod, Secret, Service},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::{Api, Resource, ResourceExt, api::DeleteParams};

use super::{
    graph::{FOREGROUND, Graph, Object},
    plan::{Plan, Policy, plan},
};
use crate::{
    Controller as Registered,
    discovery::discover,
    testing::{Bench, chaos, meta, pod, service},
};

const ONLY: &[Registered] = &[Registered { name: super::NAME, run: super::run }];

fn owned_by(owner: &ConfigMap, block: bool) -> OwnerReference {
    OwnerReference { block_owner_deletion: Some(block), ..owner.owner_ref(&()).expect("it has a uid") }
}

fn map(name: &str, owners: Vec<OwnerReference>) -> ConfigMap {
    let metadata = ObjectMeta { owner_references: Some(owners), ..meta(name) };
    ConfigMap { metadata, ..ConfigMap::default() }
}

async fn delete(bench: &Bench, name: &str, options: DeleteParams) {
    let api: Api<ConfigMap> = Api::namespaced(bench.api.client(), "ns");
    api.delete(name, &options).await.expect("deleted");
}

fn names(bench: &Bench) -> Vec<String> {
    bench.api.list::<ConfigMap>().iter().map(ResourceExt::name_any).collect()
}

/// A graph from lines `name[ deleting][ finalizer=F] < owner[!] ...`, where `!` blocks the owner.
fn graph(served: &std::sync::Arc<crate::discovery::Served>, lines: &[&str]) -> Graph {
    let mut graph = Graph::default();
    for line in lines {
        graph.put(object(served, line));
    }
    graph
}

fn object(served: &std::sync::Arc<crate::discovery::Served>, line: &str) -> Object {
    let (own, owners) = line.split_once('<').unwrap_or((line, ""));
    let mut words = own.split_whitespace();
    let mut meta = meta(words.next().expect("a name"));
    meta.uid = meta.name.clone();
    for word in words {
        match word.split_once('=') {
            Some((_, finalizer)) => meta.finalizers = Some(vec![finalizer.to_owned()]),
            None => meta.deletion_timestamp = Some(coracle_client::clock::time()),
        }
    }
    let reference = |word: &str| {
        let name = word.trim_end_matches('!').to_owned();
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            uid: name.clone(),
            name,
            block_owner_deletion: Some(word.ends_with('!')),
            controller: None,
        }
    };
    meta.owner_references = Some(owners.split_whitespace().map(reference).collect());
    Object::new(served, &meta)
}

#[tokio::test(start_paused = true)]
async fn plans() {
    let api = FakeApi::new();
    let served = discover(&api.client()).await.expect("served").served;
    let maps = served.into_iter().find(|served| served.resource.kind == "ConfigMap").expect("served");
    let maps = std::sync::Arc::new(maps);
    let check = |lines: &[&str], name: &str, expected: Plan| {
        let graph = graph(&maps, lines);
        let object = graph.get(name).expect("in the graph");
        let got = plan(object, &graph, |owner| owner.uid.starts_with("gone"), |uid| uid.starts_with("there"));
        assert_eq!(got, expected, "{lines:?} {name}");
    };
    let uids = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>();
    check(&["a"], "a", Plan::Nothing);
    check(&["a", "b < a"], "b", Plan::Nothing);
    check(&["b < there"], "b", Plan::Nothing);
    check(&["b < gone"], "b", Plan::Delete(Policy::Background));
    check(&["b deleting < gone"], "b", Plan::Nothing);
    check(&["a", "b < a gone"], "b", Plan::DropOwners(uids(&["gone"])));
    check(&["b < gone gone2"], "b", Plan::Delete(Policy::Background));
    check(&["b finalizer=orphan < gone"], "b", Plan::Delete(Policy::Orphan));
    let asked = object(&maps, "b < who").owners;
    check(&["b < who gone"], "b", Plan::Ask(asked));
    // Foreground: the owner waits for those that block it; they go; then it does.
    let owner = "a deleting finalizer=foregroundDeletion";
    check(&[owner], "a", Plan::Finish);
    check(&[owner, "b < a"], "a", Plan::Finish);
    check(&[owner, "b < a!", "c < a"], "a", Plan::LookAt(uids(&["b", "c"])));
    check(&[owner, "b deleting < a!"], "a", Plan::LookAt(uids(&[])));
    check(&[owner, "b < a!"], "b", Plan::Delete(Policy::Background));
    check(&[owner, "b < a!", "c < b"], "b", Plan::Delete(Policy::Foreground));
    check(&[owner, "z", "b < a! z"], "b", Plan::DropOwners(uids(&["a"])));
    check(&["a deleting finalizer=foregroundDeletion < a!"], "a", Plan::Finish);
    let circle =
        ["a deleting finalizer=foregroundDeletion < b!", "b deleting finalizer=foregroundDeletion < a!"];
    check(&circle, "a", Plan::Finish);
    check(&["a deleting finalizer=orphan", "b < a"], "a", Plan::Orphan);
}

#[tokio::test(start_paused = true)]
async fn dependents_go_after_their_owner() {
    let bench = Bench::start(ONLY);
    let owner = bench.api.create(&map("owner", vec![]));
    let child = bench.api.create(&map("child", vec![owned_by(&owner, false)]));
    bench.api.create(&map("grandchild", vec![owned_by(&child, false)]));
    let mut secret = Secret { metadata: meta("secret"), ..Secret::default() };
    secret.metadata.owner_references = Some(vec![owned_by(&owner, false)]);
    bench.api.create(&secret);
    bench.api.create(&map("bystander", vec![]));
    bench.quiet().await;
    assert_eq!(names(&bench).len(), 4, "nobody goes without a reason");
    delete(&bench, "owner", DeleteParams::background()).await;
    eventually("only the bystander", || (names(&bench) == ["bystander"]).then_some(())).await;
    eventually("no secret", || bench.api.list::<Secret>().is_empty().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_the_owner_goes_last() {
    let bench = Bench::start(ONLY);
    let owner = bench.api.create(&map("owner", vec![]));
    let child = bench.api.create(&map("child", vec![owned_by(&owner, true)]));
    let mut held = map("grandchild", vec![owned_by(&child, true)]);
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    bench.api.create(&held);
    bench.quiet().await;
    delete(&bench, "owner", DeleteParams::foreground()).await;
    bench.quiet().await;
    assert_eq!(names(&bench), ["child", "grandchild", "owner"], "the last of them is held");
    bench.api.edit("ns", "grandchild", |map: &mut ConfigMap| map.metadata.finalizers = None);
    eventually("the end of all", || names(&bench).is_empty().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn orphans_stay() {
    let bench = Bench::start(ONLY);
    let owner = bench.api.create(&map("owner", vec![]));
    bench.api.create(&map("child", vec![owned_by(&owner, false)]));
    bench.quiet().await;
    delete(&bench, "owner", DeleteParams::orphan()).await;
    eventually("the owner's end", || (names(&bench) == ["child"]).then_some(())).await;
    bench.quiet().await;
    let child: ConfigMap = bench.api.get("ns", "child").expect("it stays");
    assert_eq!(child.metadata.owner_references.unwrap_or_default().len(), 0);
}

/// An owner that is going, with a finalizer, and a secret that it owns, before anybody collects garbage.
fn going(finalizer: &str, held: bool) -> FakeApi {
    let api = FakeApi::new();
    let owner = api.create(&map("owner", vec![]));
    api.edit("ns", "owner", |map: &mut ConfigMap| {
        map.metadata.finalizers = Some(vec![finalizer.to_owned()]);
        map.metadata.deletion_timestamp = Some(coracle_client::clock::time());
    });
    let mut secret = Secret { metadata: meta("secret"), ..Secret::default() };
    secret.metadata.owner_references = Some(vec![owned_by(&owner, true)]);
    secret.metadata.finalizers = held.then(|| vec!["example.com/hold".to_owned()]);
    api.create(&secret);
    api
}

/// Secrets are listed later than all else, because somebody is slow.
fn slow_secrets(api: &FakeApi) {
    let mut slow = true;
    api.set_faults(move |call| {
        let is_list = call.uri.contains("/secrets") && !call.watch;
        (is_list && std::mem::take(&mut slow)).then_some(Fault::Delay(Duration::from_secs(10)))
    });
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_starts_orphans_what_it_has_not_heard_of() {
    let api = going("orphan", false);
    slow_secrets(&api);
    let bench = Bench::start_on(api, ONLY);
    bench.quiet().await;
    assert!(names(&bench).is_empty(), "the owner goes");
    let secret: Secret = bench.api.get("ns", "secret").expect("it stays");
    assert_eq!(secret.metadata.owner_references.unwrap_or_default().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_starts_waits_for_what_it_has_not_heard_of() {
    let api = going(FOREGROUND, true);
    slow_secrets(&api);
    let bench = Bench::start_on(api, ONLY);
    bench.quiet().await;
    assert_eq!(names(&bench), ["owner"], "its dependent is held");
    bench.api.edit("ns", "secret", |secret: &mut Secret| secret.metadata.finalizers = None);
    eventually("the end of both", || {
        (names(&bench).is_empty() && bench.api.list::<Secret>().is_empty()).then_some(())
    })
    .await;
}

/// A watch that hangs shows fewer dependents than there are.
#[tokio::test(start_paused = true)]
async fn a_cache_that_is_behind_decides_nothing() {
    for orphan in [true, false] {
        let bench = Bench::start(ONLY);
        let owner = bench.api.create(&map("owner", vec![]));
        bench.quiet().await;
        bench.api.set_faults(|call| {
            let is_watch = call.uri.contains("/secrets") && call.watch;
            is_watch.then_some(Fault::Delay(Duration::from_mins(5)))
        });
        bench.api.cut_watches();
        let mut secret = Secret { metadata: meta("secret"), ..Secret::default() };
        secret.metadata.owner_references = Some(vec![owned_by(&owner, true)]);
        bench.api.create(&secret);
        let options = if orphan { DeleteParams::orphan() } else { DeleteParams::foreground() };
        delete(&bench, "owner", options).await;
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(names(&bench).is_empty(), orphan, "an owner in the foreground waits");
        bench.api.clear_faults();
        tokio::time::sleep(Duration::from_mins(2)).await;
        eventually("the owner's end", || names(&bench).is_empty().then_some(())).await;
        let owners = |secret: Secret| secret.metadata.owner_references.unwrap_or_default().len();
        let left = bench.api.get::<Secret>("ns", "secret").map(owners);
        assert_eq!(left, orphan.then_some(0), "an orphan stays, a dependent goes first");
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_in_another_namespace_is_told_of() {
    let bench = Bench::start(ONLY);
    let mut elsewhere = map("elsewhere", vec![]);
    elsewhere.metadata.namespace = Some("other".to_owned());
    let elsewhere = bench.api.create(&elsewhere);
    bench.quiet().await;
    bench.api.create(&map("foreign", vec![owned_by(&elsewhere, false)]));
    let mut node = Node { metadata: meta("n"), ..Node::default() };
    node.metadata.namespace = None;
    node.metadata.owner_references = Some(vec![owned_by(&elsewhere, false)]);
    bench.api.create(&node);
    bench.quiet().await;
    assert!(bench.api.get::<Node>("", "n").is_some(), "Kubernetes keeps it");
    bench.handle.shutdown().await;
    let told = bench.api.list::<Event>().into_iter().filter(|event| {
        event.reason.as_deref() == Some("OwnerRefInvalidNamespace")
            && event.type_.as_deref() == Some("Warning")
    });
    let mut told: Vec<_> = told
        .map(|event| (event.involved_object.name.unwrap_or_default(), event.message.unwrap_or_default()))
        .collect();
    told.sort();
    let uid = elsewhere.metadata.uid.expect("it has one");
    let message = |namespace: &str| {
        format!(
            "ownerRef [v1/ConfigMap, namespace: {namespace}, name: elsewhere, uid: {uid}] does not exist in namespace \
             \"{namespace}\""
        )
    };
    assert_eq!(told, [("foreign".to_owned(), message("ns")), ("n".to_owned(), message(""))]);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_not_an_owner() {
    let bench = Bench::start(ONLY);
    let first = bench.api.create(&map("owner", vec![]));
    bench.api.remove::<ConfigMap>("ns", "owner");
    bench.api.create(&map("owner", vec![]));
    bench.api.create(&map("stale", vec![owned_by(&first, false)]));
    eventually("the stale one's end", || (names(&bench) == ["owner"]).then_some(())).await;
    // An owner in another namespace is none.
    let mut elsewhere = map("elsewhere", vec![]);
    elsewhere.metadata.namespace = Some("other".to_owned());
    let elsewhere = bench.api.create(&elsewhere);
    bench.api.create(&map("foreign", vec![owned_by(&elsewhere, false)]));
    eventually("the foreign one's end", || {
        bench.api.get::<ConfigMap>("ns", "foreign").is_none().then_some(())
    })
    .await;
    assert!(bench.api.get::<ConfigMap>("other", "elsewhere").is_some());
}

#[tokio::test(start_paused = true)]
async fn owners_of_kinds_that_are_not_served_are_not_judged() {
    let bench = Bench::start(ONLY);
    let mut owner = owned_by(&bench.api.create(&map("owner", vec![])), false);
    owner.kind = "Mystery".to_owned();
    owner.api_version = "example.com/v1".to_owned();
    bench.api.create(&map("child", vec![owner]));
    bench.quiet().await;
    assert_eq!(names(&bench), ["child", "owner"]);
}

#[tokio::test(start_paused = true)]
async fn kinds_may_differ() {
    let bench = Bench::start(ONLY);
    let mut node = Node { metadata: meta("n"), ..Node::default() };
    node.metadata.namespace = None;
    let node = bench.api.create(&node);
    let service = bench.api.create(&service("web", IntOrString::Int(80)));
    let mut both = pod("both");
    both.metadata.owner_references =
        Some(vec![node.owner_ref(&()).expect("it has a uid"), service.owner_ref(&()).expect("it has a uid")]);
    bench.api.create(&both);
    bench.quiet().await;
    bench.api.remove::<Node>("", "n");
    let owners = || bench.api.get::<Pod>("ns", "both")?.metadata.owner_references.map(|owners| owners.len());
    eventually("one owner less", || owners().filter(|count| *count == 1)).await;
    bench.api.remove::<Service>("ns", "web");
    eventually("the end", || bench.api.list::<Pod>().is_empty().then_some(())).await;
}

/// Under faults of every kind: who has an owner stays, who has none goes.
#[tokio::test(start_paused = true)]
async fn under_faults_only_the_unowned_go() {
    for seed in 0..5 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        chaos(&bench.api, 4);
        let mut roots = Vec::new();
        for index in 0..6 {
            let root = bench.api.create(&map(&format!("root{index}"), vec![]));
            let child = bench.api.create(&map(&format!("root{index}-child"), vec![owned_by(&root, true)]));
            bench.api.create(&map(&format!("root{index}-grandchild"), vec![owned_by(&child, true)]));
            roots.push(root);
        }
        for root in roots.iter().take(3) {
            tokio::time::sleep(Duration::from_millis(random::below(200))).await;
            if random::below(2) == 0 {
                bench.api.remove::<ConfigMap>("ns", &root.name_any());
            } else {
                bench.api.edit("ns", &root.name_any(), |map: &mut ConfigMap| {
                    map.metadata.deletion_timestamp = Some(coracle_client::clock::time());
                    map.metadata.finalizers = Some(vec![FOREGROUND.to_owned()]);
                });
            }
            bench.api.cut_watches();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        bench.api.clear_faults();
        bench.quiet().await;
        let left = names(&bench);
        assert_eq!(left.len(), 9, "seed {seed}: {left:?}");
        assert!(left.iter().all(|name| name >= &"root3".to_owned()), "seed {seed}: {left:?}");
    }
}
