//! The fake API as a tower service.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tower::Service;

use super::{
    Call, FakeApi, Fault,
    world::{KINDS, Part, Refusal},
};
use crate::Key;

type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

impl Service<Request<Body>> for FakeApi {
    type Response = Response<AnyBody>;
    type Error = tower::BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move { api.handle(request).await })
    }
}

/// What a request addresses.
struct Target {
    plural: String,
    namespace: String,
    name: Option<String>,
    part: Option<String>,
    query: BTreeMap<String, String>,
}

impl FakeApi {
    async fn handle(&self, request: Request<Body>) -> Result<Response<AnyBody>, tower::BoxError> {
        let (parts, body) = request.into_parts();
        let uri = parts.uri.to_string();
        let watch = uri.contains("watch=true");
        let call = Call { method: parts.method.to_string(), uri, watch };
        self.shared.calls.lock().push(call.clone());
        let fault = self.shared.faults.lock().as_mut().and_then(|faults| faults(&call));
        let mut lose = false;
        let mut cut = usize::MAX;
        match fault {
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Refuse(code, reason)) => {
                return Ok(refusal(&Refusal::new(code, reason, "a fault of the test")));
            }
            Some(Fault::LoseReply) => lose = true,
            Some(Fault::CutAfter(events)) => cut = events,
            None => {}
        }
        if let Some(value) = self.shared.answers.lock().get(parts.uri.path()) {
            return Ok(answer(200, value));
        }
        let bytes = body.collect().await?.to_bytes();
        let content: Value = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? };
        let strategic = parts
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/strategic"));
        if let Some(list) = discovery(parts.uri.path()) {
            return Ok(answer(200, &list));
        }
        let Some(target) = target(&parts.uri) else {
            return Ok(refusal(&Refusal::new(
                404,
                "NotFound",
                "the server could not find the requested resource",
            )));
        };
        if watch {
            return Ok(self.watch(target, cut));
        }
        let outcome = self.verb(parts.method.as_str(), &target, content, strategic);
        if call.method != "GET" {
            self.announce();
        }
        if lose {
            return Err("the answer was lost".into());
        }
        Ok(match outcome {
            Ok((code, value)) => answer(code, &value),
            Err(refused) => refusal(&refused),
        })
    }

    fn verb(
        &self,
        method: &str,
        target: &Target,
        content: Value,
        strategic: bool,
    ) -> Result<(u16, Value), Refusal> {
        let mut world = self.shared.world.lock();
        let Target { plural, namespace, name, part, query } = target;
        let Some(name) = name else {
            return match method {
                "GET" => {
                    let items: Vec<Value> = world
                        .list(plural)
                        .into_iter()
                        .filter(|object| {
                            namespace.is_empty() || object["metadata"]["namespace"] == **namespace
                        })
                        .cloned()
                        .collect();
                    Ok((200, page(&items, world.revision(), query)))
                }
                "POST" => world.create(plural, namespace, content).map(|value| (201, value)),
                _ => {
                    let keys: Vec<Key> = world
                        .list(plural)
                        .into_iter()
                        .filter(|object| object["metadata"]["namespace"] == **namespace)
                        .map(|object| {
                            Key::new(namespace.clone(), object["metadata"]["name"].as_str().unwrap_or(""))
                        })
                        .collect();
                    for key in keys {
                        world.delete(plural, &key, &content)?;
                    }
                    Ok((200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})))
                }
            };
        };
        let key = Key::new(namespace.clone(), name.clone());
        let write = match part.as_deref() {
            Some("status") => Part::Status,
            Some("finalize") => Part::Finalize,
            _ => Part::Main,
        };
        match (method, part.as_deref()) {
            ("GET", Some("scale")) => world.scale(plural, &key).map(|value| (200, value)),
            ("PUT", Some("scale")) => world.set_scale(plural, &key, &content).map(|value| (200, value)),
            ("GET", _) => {
                let found = world.get(plural, &key).cloned();
                let missing = || Refusal::new(404, "NotFound", format!("{plural} \"{name}\" not found"));
                found.ok_or_else(missing).map(|value| (200, value))
            }
            ("POST", Some("binding")) => world.bind(&key, &content).map(|value| (201, value)),
            ("PUT", _) => world.update(plural, &key, write, content).map(|value| (200, value)),
            ("PATCH", _) => world.patch(plural, &key, write, strategic, &content).map(|value| (200, value)),
            ("DELETE", _) => world.delete(plural, &key, &content).map(|value| (200, value)),
            _ => Err(Refusal::new(405, "MethodNotAllowed", "the server does not allow this method")),
        }
    }

    fn watch(&self, target: Target, cut: usize) -> Response<AnyBody> {
        let from = target.query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut changed = self.shared.changed.subscribe();
        let born = changed.borrow_and_update().1;
        if let Err(refused) = self.shared.world.lock().changes(&target.plural, from) {
            return refusal(&refused);
        }
        let api = self.clone();
        let batches = futures::stream::unfold((changed, from), move |(mut changed, mut from)| {
            let (api, plural) = (api.clone(), target.plural.clone());
            async move {
                loop {
                    if changed.borrow_and_update().1 != born {
                        return None;
                    }
                    let lines: Vec<Bytes> = {
                        let world = api.shared.world.lock();
                        let changes = world.changes(&plural, from).ok()?;
                        from = from.max(changes.last().map_or(0, |change| change.revision));
                        changes
                            .into_iter()
                            .map(|change| line(&json!({"type": change.type_, "object": change.object})))
                            .collect()
                    };
                    if !lines.is_empty() {
                        return Some((lines, (changed, from)));
                    }
                    changed.changed().await.ok()?;
                }
            }
        });
        let frames = batches
            .flat_map(futures::stream::iter)
            .take(cut)
            .map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
}

fn target(uri: &http::Uri) -> Option<Target> {
    let mut segments = uri.path().split('/').filter(|segment| !segment.is_empty()).peekable();
    match segments.next()? {
        "api" => segments.next()?,
        "apis" => segments.nth(1)?,
        _ => return None,
    };
    let query = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut namespace = String::new();
    let mut plural = segments.next()?.to_owned();
    let mut name = segments.next().map(str::to_owned);
    if plural == "namespaces" && segments.peek().is_some_and(|next| !matches!(*next, "status" | "finalize")) {
        namespace = name?;
        plural = segments.next()?.to_owned();
        name = segments.next().map(str::to_owned);
    }
    KINDS.iter().any(|(_, _, known, _, _)| *known == plural).then_some(())?;
    Some(Target { plural, namespace, name, part: segments.next().map(str::to_owned), query })
}

fn page(items: &[Value], revision: u64, query: &BTreeMap<String, String>) -> Value {
    let start: usize = query.get("continue").and_then(|text| text.parse().ok()).unwrap_or(0);
    let limit: usize = query
        .get("limit")
        .and_then(|text| text.parse().ok())
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX);
    let end = start.saturating_add(limit).min(items.len());
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if end < items.len() {
        metadata["continue"] = json!(end.to_string());
        metadata["remainingItemCount"] = json!(items.len() - end);
    }
    json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items.get(start..end).unwrap_or_default()})
}

/// Aggregated discovery of `/api` or `/apis`.
fn discovery(path: &str) -> Option<Value> {
    let core = match path {
        "/api" => true,
        "/apis" => false,
        _ => return None,
    };
    let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (group, version, plural, kind, namespaced) in KINDS {
        if group.is_empty() == core {
            groups.entry(group).or_default().push(json!({
                "resource": plural,
                "responseKind": {"group": group, "version": version, "kind": kind},
                "scope": if *namespaced { "Namespaced" } else { "Cluster" },
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            }));
        }
    }
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(group, resources)| json!({"metadata": {"name": group}, "versions": [{"version": "v1", "resources": resources}]}))
        .collect();
    Some(
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}),
    )
}

fn refusal(refused: &Refusal) -> Response<AnyBody> {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": refused.code, "reason": refused.reason, "message": refused.message,
    });
    if let Some(cause) = refused.cause {
        status["details"] = json!({"causes": [{"reason": cause}]});
    }
    answer(refused.code, &status)
}

fn answer(code: u16, value: &Value) -> Response<AnyBody> {
    let body = Full::new(line(value)).boxed_unsync();
    Response::builder().status(code).body(body).expect("a code between 200 and 599")
}

fn line(value: &Value) -> Bytes {
    let mut text = value.to_string();
    text.push('\n');
    Bytes::from(text)
}
