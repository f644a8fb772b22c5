//! `namespaces/…/finalize`: the namespace controller says that a namespace is empty.

use axum::{body::Body, response::Response};
use http::StatusCode;
use serde_json::{Value, json};

use coracle_api::{
    Kind,
    field::{self, Path},
    names,
    status::Status,
};

use crate::{
    decode::{self, Encoding},
    dispatch::Asked,
    negotiation::negotiate,
    object,
    options::WriteOptions,
    pipeline::{self, Part, Update},
    respond, verbs,
};

/// PUT of a Namespace of which only `spec.finalizers` counts.
pub(crate) async fn update(mut asked: Asked, body: Body) -> Result<Response, Status> {
    let output = negotiate(&asked.headers, false)?;
    let options = WriteOptions::parse(&asked.parameters, "UpdateOptions")?;
    asked.call.dry_run = options.dry_run;
    let encoding = Encoding::of(&asked.headers)?;
    let body = decode::read(body).await?;
    let decoded = decode::object(asked.call.kind(), &body, encoding, options.field_validation)?;
    let call = &asked.call;
    verbs::check_name(call, &decoded.object)?;
    check_finalizers(call.kind(), &decoded.object)?;
    let mut change = |old: &Value| {
        verbs::check_uid(call, &decoded.object, old)?;
        let mut namespace = old.clone();
        let version = object::resource_version(&decoded.object);
        if !version.is_empty() {
            object::metadata_mut(&mut namespace).insert("resourceVersion".into(), json!(version));
        }
        let spec = object::child_mut(&mut namespace, "spec");
        match decoded.object.pointer("/spec/finalizers") {
            Some(finalizers) => drop(spec.insert("finalizers".into(), finalizers.clone())),
            None => drop(spec.remove("finalizers")),
        }
        Ok(namespace)
    };
    let saved = pipeline::update(call, Update { part: Part::Server, change: &mut change }).await?;
    Ok(respond::json_response(StatusCode::OK, output.media, saved.bytes(&call.resource)))
}

fn check_finalizers(kind: &Kind, namespace: &Value) -> Result<(), Status> {
    let path = Path::new("spec");
    let finalizers = namespace.pointer("/spec/finalizers").and_then(Value::as_array).into_iter().flatten();
    let mut causes = Vec::new();
    for finalizer in finalizers.filter_map(Value::as_str) {
        let problems = names::qualified_name(finalizer);
        causes.extend(problems.iter().map(|why| field::invalid(&path.child("finalizers"), finalizer, why)));
        if problems.is_empty() && !finalizer.contains('/') && finalizer != "kubernetes" {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(field::invalid(&path.child("finalizers"), finalizer, why));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid(kind, object::name(namespace), causes)) }
}
