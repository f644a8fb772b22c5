//! What must hold whatever clients do: a watch tells the story of the lists, and pages are the list.

use std::collections::BTreeMap;

use futures::FutureExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::harness::{MERGE, Server, names, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SELECTORS: [&str; 4] =
    ["", "labelSelector=x%3D1", "labelSelector=x%21%3D1", "fieldSelector=metadata.name%3Dm1"];

/// Something a client does to one of a few objects. It may fail; that is part of the game.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create {
        object: u8,
        label: u8,
    },
    Relabel {
        object: u8,
        label: u8,
    },
    Touch {
        object: u8,
    },
    Delete {
        object: u8,
    },
    /// Deletes with a finalizer, so that it happens in two steps.
    Keep {
        object: u8,
    },
    LetGo {
        object: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let object = 0..4_u8;
    prop_oneof![
        3 => (object.clone(), 0..3_u8).prop_map(|(object, label)| Step::Create { object, label }),
        3 => (object.clone(), 0..3_u8).prop_map(|(object, label)| Step::Relabel { object, label }),
        1 => object.clone().prop_map(|object| Step::Touch { object }),
        2 => object.clone().prop_map(|object| Step::Delete { object }),
        1 => object.clone().prop_map(|object| Step::Keep { object }),
        1 => object.prop_map(|object| Step::LetGo { object }),
    ]
}

impl Step {
    async fn run(self, server: &Server, number: usize) {
        let path = |object: u8| format!("{MAPS}/m{object}");
        let labels = |label: u8| json!({"metadata": {"labels": {"x": label.to_string()}}});
        match self {
            Step::Create { object, label } => {
                let mut body = labels(label);
                body["metadata"]["name"] = json!(format!("m{object}"));
                server.post(MAPS, body).await
            }
            Step::Relabel { object, label } => server.patch(&path(object), MERGE, labels(label)).await,
            Step::Touch { object } => {
                server.patch(&path(object), MERGE, json!({"data": {"n": number.to_string()}})).await
            }
            Step::Delete { object } => server.delete(&path(object), json!({})).await,
            Step::Keep { object } => {
                server.patch(&path(object), MERGE, json!({"metadata": {"finalizers": ["x.io/keep"]}})).await
            }
            Step::LetGo { object } => {
                server.patch(&path(object), MERGE, json!({"metadata": {"finalizers": null}})).await
            }
        };
    }
}

/// The items of a list by name.
fn by_name(list: &Value) -> BTreeMap<String, Value> {
    names(list).into_iter().zip(list["items"].as_array().unwrap().iter().cloned()).collect()
}

/// Runs steps; a watch that began before the steps in the middle, replayed over the list of that moment,
/// must give the list of the end.
async fn watch_tells_the_story(steps: &[Step], from: usize, selector: &str) {
    let server = Server::new().await;
    let (before, after) = steps.split_at(from.min(steps.len()));
    for (number, step) in before.iter().enumerate() {
        step.run(&server, number).await;
    }
    let list = server.get(&format!("{MAPS}?{selector}")).await.is(200);
    let mut known = by_name(&list);
    let query = format!("watch=true&resourceVersion={}&{selector}", version(&list));
    let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
    for (number, step) in after.iter().enumerate() {
        step.run(&server, from + number).await;
    }
    let mut last = version(&list).parse::<u64>().unwrap();
    while let Some(Some(line)) = watch.line().now_or_never() {
        let event: Value = serde_json::from_str(&line).unwrap();
        let (name, object) =
            (event["object"]["metadata"]["name"].as_str().unwrap().to_owned(), &event["object"]);
        let revision = version(object).parse::<u64>().unwrap();
        assert!(revision > last, "events come in the order of their versions");
        last = revision;
        match event["type"].as_str().unwrap() {
            "ADDED" => assert!(known.insert(name, object.clone()).is_none(), "added what was known: {event}"),
            "MODIFIED" => {
                assert!(known.insert(name, object.clone()).is_some(), "modified the unknown: {event}");
            }
            "DELETED" => assert!(known.remove(&name).is_some(), "deleted the unknown: {event}"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(known, by_name(&server.get(&format!("{MAPS}?{selector}")).await.is(200)));
}

/// Lists in pages while objects come and go: together the pages are the list of the first page's moment.
async fn pages_are_the_list(steps: &[Step], limit: usize, selector: &str) {
    let server = Server::new().await;
    for n in 0..6 {
        let labels = json!({"x": (n % 3).to_string()});
        server.config_map("default", &format!("m{n}"), labels).await;
    }
    let whole = server.get(&format!("{MAPS}?{selector}")).await.is(200);
    let mut items = Vec::new();
    let mut token = String::new();
    for (number, step) in steps.iter().chain(std::iter::repeat(&Step::Touch { object: 0 })).enumerate() {
        let page = server.get(&format!("{MAPS}?limit={limit}&{selector}&continue={token}")).await.is(200);
        let part = page["items"].as_array().unwrap();
        assert!(part.len() <= limit);
        assert_eq!(version(&page), version(&whole));
        items.extend(part.iter().cloned());
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
        step.run(&server, number).await;
    }
    assert_eq!(&items, whole["items"].as_array().unwrap());
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_watch_tells_what_lists_show(
        steps in prop::collection::vec(step(), 1..40),
        from in 0..20_usize,
        selector in 0..SELECTORS.len(),
    ) {
        block_on(watch_tells_the_story(&steps, from, SELECTORS[selector]));
    }

    #[test]
    fn pages_together_are_the_list(
        steps in prop::collection::vec(step(), 0..8),
        limit in 1..8_usize,
        selector in 0..SELECTORS.len(),
    ) {
        block_on(pages_are_the_list(&steps, limit, SELECTORS[selector]));
    }
}
