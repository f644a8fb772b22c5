//! Lists: pages, versions, selectors, forms.

use serde_json::{Value, json};

use super::harness::{MERGE, Server, TABLE, names, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_maps(count: usize) -> Server {
    let server = Server::new().await;
    for n in 0..count {
        let parity = if n % 2 == 0 { "even" } else { "odd" };
        server.config_map("default", &format!("m{n:02}"), json!({"parity": parity})).await;
    }
    server
}

#[tokio::test]
async fn pages_show_one_moment() {
    let server = with_maps(5).await;
    let first = server.get(&format!("{MAPS}?limit=2")).await.is(200);
    assert_eq!(names(&first), ["m00", "m01"]);
    assert_eq!((&first["kind"], &first["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What happens between two pages is not seen.
    server.config_map("default", "m015", json!({})).await;
    server.delete(&format!("{MAPS}/m03"), json!(null)).await.is(200);
    let token = |page: &Value| page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let second = server.get(&format!("{MAPS}?limit=2&continue={}", token(&first))).await.is(200);
    assert_eq!(names(&second), ["m02", "m03"]);
    assert_eq!(version(&second), version(&first));
    let third = server.get(&format!("{MAPS}?limit=2&continue={}", token(&second))).await.is(200);
    assert_eq!(names(&third), ["m04"]);
    assert_eq!(token(&third), "");
    let conflict = server.get(&format!("{MAPS}?resourceVersion=5&continue={}", token(&first))).await;
    conflict.fails(400, "BadRequest", "specifying resource version is not allowed when using continue");
}

#[tokio::test]
async fn an_expired_page_says_how_to_go_on() {
    let server = with_maps(4).await;
    let first = server.get(&format!("{MAPS}?limit=2")).await.is(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.config_map("default", "m03x", json!({})).await;
    server.core.store.compact(server.core.store.revision());
    let answer = server.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    answer.fails(410, "Expired", "The provided continue parameter is too old");
    let token = answer.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = server.get(&format!("{MAPS}?continue={token}")).await.is(200);
    assert_eq!(names(&rest), ["m02", "m03", "m03x"]);
    let old = server.get(&format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact")).await;
    old.fails(410, "Expired", "The resourceVersion for the provided list is too old");
}

#[tokio::test]
async fn a_limited_selection_goes_over_what_it_leaves_out() {
    let server = with_maps(7).await;
    let path = format!("{MAPS}?limit=2&labelSelector=parity%3Dodd");
    let first = server.get(&path).await.is(200);
    assert_eq!(names(&first), ["m01", "m03"]);
    assert!(first["metadata"].get("remainingItemCount").is_none());
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{path}&continue={token}")).await.is(200);
    assert_eq!(names(&second), ["m05"]);
}

#[tokio::test]
async fn versions() {
    let server = with_maps(2).await;
    let old = version(&server.get(MAPS).await.is(200));
    server.config_map("default", "new", json!({})).await;
    let list = |query: String| {
        let server = &server;
        async move { names(&server.get(&format!("{MAPS}?{query}")).await.is(200)) }
    };
    assert_eq!(list(format!("resourceVersion={old}&resourceVersionMatch=Exact")).await, ["m00", "m01"]);
    assert_eq!(list(format!("resourceVersion={old}&limit=5")).await, ["m00", "m01"]);
    assert_eq!(list(format!("resourceVersion={old}")).await, ["m00", "m01", "new"]);
    assert_eq!(
        list(format!("resourceVersion={old}&resourceVersionMatch=NotOlderThan")).await,
        ["m00", "m01", "new"]
    );
    assert_eq!(list("resourceVersion=0".into()).await, ["m00", "m01", "new"]);
}

#[tokio::test(start_paused = true)]
async fn a_version_from_the_future_times_out() {
    let server = with_maps(1).await;
    let answer = server.get(&format!("{MAPS}?resourceVersion=1000")).await;
    answer.fails(504, "Timeout", "Too large resource version: 1000, current: ");
    assert_eq!(answer.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn selectors() {
    let server = with_maps(4).await;
    server.config_map("kube-system", "m00", json!({"parity": "even"})).await;
    let list = |query: &'static str| {
        let server = &server;
        async move { names(&server.get(&format!("/api/v1/configmaps?{query}")).await.is(200)) }
    };
    assert_eq!(list("labelSelector=parity+in+(odd)").await, ["m01", "m03"]);
    assert_eq!(list("labelSelector=parity%21%3Dodd").await, ["m00", "m02", "m00"]);
    assert_eq!(list("fieldSelector=metadata.name%3Dm00").await, ["m00", "m00"]);
    assert_eq!(list("fieldSelector=metadata.namespace%3Dkube-system").await, ["m00"]);
    assert_eq!(list("fieldSelector=metadata.name%3Dm00,metadata.namespace%21%3Dkube-system").await, ["m00"]);
    let one = server.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm01")).await.is(200);
    assert_eq!(names(&one), ["m01"]);
    // A name that is the beginning of another is not the other.
    let none = server.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm0")).await.is(200);
    assert!(names(&none).is_empty());
}

#[tokio::test]
async fn selectors_see_the_newest_version() {
    let server = with_maps(1).await;
    let path = format!("{MAPS}?labelSelector=parity%3Deven");
    assert_eq!(names(&server.get(&path).await.is(200)), ["m00"]);
    let patch = json!({"metadata": {"labels": {"parity": "none"}}});
    server.patch(&format!("{MAPS}/m00"), MERGE, patch).await.is(200);
    assert!(names(&server.get(&path).await.is(200)).is_empty());
}

#[tokio::test]
async fn tables() {
    let server = with_maps(3).await;
    let table = server.get_as(&format!("{MAPS}?limit=2"), TABLE).await.is(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["metadata"]["remainingItemCount"], 1);
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "m00");
    assert_eq!(table["rows"][0]["cells"][1], 1);
    let object = &table["rows"][0]["object"];
    assert_eq!(object["kind"], "PartialObjectMetadata");
    assert_eq!((&object["metadata"]["name"], object.get("data")), (&json!("m00"), None));
    let whole = server.get_as(&format!("{MAPS}?includeObject=Object"), TABLE).await.is(200);
    assert_eq!(whole["rows"][0]["object"]["data"]["key"], "value");
    let none = server.get_as(&format!("{MAPS}?includeObject=None"), TABLE).await.is(200);
    assert!(none["rows"][0]["object"].is_null());
    let one = server.get_as(&format!("{MAPS}/m01"), TABLE).await.is(200);
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn metadata_only() {
    let server = with_maps(2).await;
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = server.get_as(MAPS, accept).await.is(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!((names(&list), list["items"][0].get("data")), (vec!["m00".into(), "m01".into()], None));
}

#[tokio::test]
async fn a_long_list_comes_in_pieces_and_whole() {
    let server = Server::new().await;
    for n in 0..12 {
        let body = json!({"metadata": {"name": format!("m{n:02}")}, "data": {"x": "y".repeat(100_000)}});
        server.post(MAPS, body).await.is(201);
    }
    let list = server.get(MAPS).await.is(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 12);
    assert!(
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|item| item["data"]["x"].as_str().unwrap().len() == 100_000)
    );
}
