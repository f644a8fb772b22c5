//! `pods/…/binding`: the scheduler's decision becomes the pod's node.

use axum::{body::Body, response::Response};
use coracle_api::{schema, status::Status};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    decode::{self, Encoding},
    dispatch::Asked,
    negotiation::negotiate,
    object,
    options::WriteOptions,
    pipeline::{self, Part, Update},
    respond, verbs,
};

/// POST of a Binding.
pub(crate) async fn create(mut asked: Asked, body: Body) -> Result<Response, Status> {
    let output = negotiate(&asked.headers, false)?;
    let options = WriteOptions::parse(&asked.parameters, "CreateOptions")?;
    asked.call.dry_run = options.dry_run;
    let encoding = Encoding::of(&asked.headers)?;
    let message = schema::message("core.v1.Binding")
        .ok_or_else(|| Status::internal_error("the schema has no Binding"))?;
    let binding = decode::message("Binding", message, &decode::read(body).await?, encoding)?;
    let call = &asked.call;
    if !object::name(&binding).is_empty() {
        verbs::check_name(call, &binding)?;
    }
    let node = object::text(&binding, "/target/name").to_owned();
    let kind = object::text(&binding, "/target/kind");
    if !matches!(kind, "" | "Node") {
        let why = format!("invalid: target.kind: Unsupported value: {kind:?}: supported values: \"Node\"");
        return Err(Status::bad_request(why));
    }
    if node.is_empty() {
        return Err(Status::bad_request("invalid: target.name: Required value"));
    }
    let now = call.core.now_text();
    let mut change = |old: &Value| {
        verbs::check_uid(call, &binding, old)?;
        bind(old, &binding, &node, &now).map_err(|why| binding_conflict(&call.name, &why))
    };
    pipeline::update(call, Update { part: Part::Server, change: &mut change }).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value_response(StatusCode::CREATED, output.media, &done))
}

/// Kubernetes names the subresource in this conflict.
fn binding_conflict(name: &str, why: &str) -> Status {
    let details =
        coracle_api::status::Details { name: name.into(), kind: "pods/binding".into(), ..Default::default() };
    Status::new(409, "Conflict", format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}"))
        .with_details(details)
}

/// The pod on its node, or why it cannot go there.
fn bind(old: &Value, binding: &Value, node: &str, now: &str) -> Result<Value, String> {
    let name = object::name(old);
    if object::is_terminating(old) {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let current = object::text(old, "/spec/nodeName");
    if !current.is_empty() {
        return Err(format!("pod {name} is already assigned to node {current:?}"));
    }
    let gates = old.pointer("/spec/schedulingGates").and_then(Value::as_array);
    if gates.is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = old.clone();
    object::child_mut(&mut pod, "spec").insert("nodeName".into(), json!(node));
    if let Some(annotations) =
        object::metadata(binding).and_then(|m| m.get("annotations")).and_then(Value::as_object)
    {
        let metadata = object::metadata_mut(&mut pod);
        let target = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(target) = target.as_object_mut() {
            target.extend(annotations.clone());
        }
    }
    let status = object::child_mut(&mut pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let scheduled =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|condition| condition.get("type").and_then(Value::as_str) != Some("PodScheduled"));
        list.push(scheduled);
    }
    Ok(pod)
}
