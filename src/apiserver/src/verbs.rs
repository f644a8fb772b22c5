//! The verbs on objects, between the wire and the pipeline.

use std::collections::HashSet;

use axum::{body::Body, response::Response};
use coracle_api::{
    platform, schema,
    status::{self, Status},
};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    decode::{self, Encoding},
    delete::{self, Deleted},
    dispatch::Asked,
    facts::Selection,
    list::{self, Collection},
    negotiation::{Form, Media, Output, negotiate},
    object,
    options::{DeleteOptions, ListOptions, Parameters, WriteOptions, revision},
    patch::Patch,
    pipeline::{self, Call, Part, Update},
    respond, table, watch,
};

/// GET of one object, or of its status.
pub(crate) async fn get(asked: &Asked) -> Result<Response, Status> {
    let call = &asked.call;
    let output = negotiate(&asked.headers, false)?;
    read_barrier(call, &asked.parameters).await?;
    let entry = call.entry()?;
    if output.form == Form::Object {
        let bytes = pipeline::served_bytes(&call.resource, &entry);
        return Ok(respond::json_response(StatusCode::OK, output.media, bytes));
    }
    shown(call, &asked.parameters, output, StatusCode::OK, &call.object(&entry))
}

/// Waits until a read is as new as its `resourceVersion` asks.
pub(crate) async fn read_barrier(call: &Call, parameters: &Parameters) -> Result<(), Status> {
    let store = &*call.core.store;
    match revision(call.kind(), parameters.get("resourceVersion"))? {
        None => list::fresh(store).await.map(drop),
        Some(revision) => list::reach(store, revision).await,
    }
}

/// An object in the form that was asked for.
pub(crate) fn shown(
    call: &Call,
    parameters: &Parameters,
    output: Output,
    code: StatusCode,
    value: &Value,
) -> Result<Response, Status> {
    let shown = match output.form {
        Form::Object => return Ok(respond::value_response(code, output.media, value)),
        Form::Partial { version } => table::partial(value, version),
        Form::Table { version } => {
            let include = table::Include::parse(parameters.get("includeObject"))?;
            let metadata = json!({"resourceVersion": object::resource_version(value)});
            let row = table::row(call.kind(), value, include, version, call.core.now());
            table::table(call.kind(), true, metadata, vec![row], version)
        }
    };
    Ok(respond::value_response(code, output.media, &shown))
}

/// GET of a collection.
pub(crate) async fn list(asked: &Asked) -> Result<Response, Status> {
    let output = negotiate(&asked.headers, true)?;
    let options = ListOptions::parse(&asked.parameters, false)?;
    let include = table::Include::parse(asked.parameters.get("includeObject"))?;
    let selection = selection(asked, &options)?;
    list::respond(&collection(asked, &selection), &options, output, include).await
}

/// A watch of a collection or of one object.
pub(crate) async fn watch(asked: &Asked) -> Result<Response, Status> {
    let output = negotiate(&asked.headers, false)?;
    if output.media != Media::Json {
        return Err(Status::not_acceptable(&["application/json"]));
    }
    let options = ListOptions::parse(&asked.parameters, true)?;
    let include = table::Include::parse(asked.parameters.get("includeObject"))?;
    let selection = selection(asked, &options)?;
    watch::respond(&asked.call.core, &collection(asked, &selection), &options, output, include).await
}

fn collection<'a>(asked: &'a Asked, selection: &'a Selection) -> Collection<'a> {
    let call = &asked.call;
    Collection { core: &call.core, resource: &call.resource, namespace: &call.namespace, selection }
}

/// The selectors of a query; a name in the path (old watches) is one more.
fn selection(asked: &Asked, options: &ListOptions) -> Result<Selection, Status> {
    let kind = asked.call.kind();
    let mut fields = options.fields.clone();
    if !asked.info.name.is_empty() {
        let separator = if fields.is_empty() { "" } else { "," };
        fields = format!("{fields}{separator}metadata.name={}", asked.info.name);
    }
    Selection::parse(&options.labels, &fields, kind)
}

/// Options of a write, and the answer's form.
fn write_options(asked: &mut Asked, kind: &'static str) -> Result<(WriteOptions, Output), Status> {
    let output = negotiate(&asked.headers, false)?;
    let options = WriteOptions::parse(&asked.parameters, kind)?;
    asked.call.dry_run = options.dry_run;
    Ok((options, output))
}

/// The answer to a write.
fn saved(
    asked: &Asked,
    output: Output,
    code: StatusCode,
    saved: &pipeline::Saved,
    warnings: &[String],
) -> Result<Response, Status> {
    let call = &asked.call;
    let mut response = if output.form == Form::Object {
        respond::json_response(code, output.media, saved.bytes(&call.resource))
    } else {
        shown(call, &asked.parameters, output, code, &saved.value(&call.resource))?
    };
    respond::warn(&mut response, warnings);
    Ok(response)
}

/// POST to a collection.
pub(crate) async fn create(mut asked: Asked, body: Body) -> Result<Response, Status> {
    let (options, output) = write_options(&mut asked, "CreateOptions")?;
    let encoding = Encoding::of(&asked.headers)?;
    let body = decode::read(body).await?;
    let mut decoded = decode::object(asked.call.kind(), &body, encoding, options.field_validation)?;
    decoded.warnings.extend(platform::warnings(asked.call.kind(), &decoded.object));
    let result = pipeline::create(&asked.call, decoded.object).await?;
    saved(&asked, output, StatusCode::CREATED, &result, &decoded.warnings)
}

/// PUT of an object or of its status.
pub(crate) async fn update(asked: Asked, body: Body) -> Result<Response, Status> {
    update_with(asked, body, whole).await
}

/// What of a requested object is written: `take(requested, old)` is what is stored.
pub(crate) type Take = fn(Value, &Value) -> Value;

/// All of it.
fn whole(requested: Value, _old: &Value) -> Value {
    requested
}

/// PUT of an object of which `take` says what counts.
pub(crate) async fn update_with(mut asked: Asked, body: Body, take: Take) -> Result<Response, Status> {
    let (options, output) = write_options(&mut asked, "UpdateOptions")?;
    let encoding = Encoding::of(&asked.headers)?;
    let body = decode::read(body).await?;
    let decoded = decode::object(asked.call.kind(), &body, encoding, options.field_validation)?;
    check_name(&asked.call, &decoded.object)?;
    let call = &asked.call;
    let warnings = Mutex::new(Vec::new());
    let mut change = |old: &Value| {
        check_uid(call, &decoded.object, old)?;
        let object = take(decoded.object.clone(), old);
        *warnings.lock() = [decoded.warnings.clone(), new_warnings(call, &object, old)].concat();
        Ok(object)
    };
    let result = pipeline::update(call, Update { part: part(call), change: &mut change }).await?;
    saved(&asked, output, StatusCode::OK, &result, &warnings.into_inner())
}

/// PATCH of an object or of its status.
pub(crate) async fn patch(asked: Asked, body: Body) -> Result<Response, Status> {
    patch_with(asked, body, whole).await
}

/// PATCH of an object of whose new version `take` says what counts.
pub(crate) async fn patch_with(mut asked: Asked, body: Body, take: Take) -> Result<Response, Status> {
    Patch::check_type(&asked.headers, asked.call.kind())?;
    let (options, output) = write_options(&mut asked, "PatchOptions")?;
    let body = decode::read(body).await?;
    let patch = Patch::parse(&asked.headers, body, asked.call.kind())?;
    let call = &asked.call;
    let kind = call.kind();
    let warnings = Mutex::new(Vec::new());
    let mut change = |old: &Value| {
        let mut object = patch.apply(&kind.message, old)?;
        decode::check_identity(kind, &object)?;
        let problems = decode::conform(kind, &mut object)?;
        let judged = decode::judge(kind, problems, options.field_validation)?;
        check_name(call, &object)?;
        let object = take(object, old);
        *warnings.lock() = [judged, new_warnings(call, &object, old)].concat();
        Ok(object)
    };
    let result = pipeline::update(call, Update { part: part(call), change: &mut change }).await?;
    saved(&asked, output, StatusCode::OK, &result, &warnings.into_inner())
}

/// What is to be said of a change that was not to be said before.
fn new_warnings(call: &Call, object: &Value, old: &Value) -> Vec<String> {
    if part(call) == Part::Status {
        return Vec::new();
    }
    let mut warnings = platform::warnings(call.kind(), object);
    if !warnings.is_empty() {
        let known: HashSet<String> = platform::warnings(call.kind(), old).into_iter().collect();
        warnings.retain(|warning| !known.contains(warning));
    }
    warnings
}

fn part(call: &Call) -> Part {
    match call.subresource.as_str() {
        "" => Part::Whole,
        "status" => Part::Status,
        _ => Part::Subresource,
    }
}

/// The object that is put must be the one that the URL names.
pub(crate) fn check_name(call: &Call, object: &Value) -> Result<(), Status> {
    let (name, namespace) = (object::name(object), object::namespace(object));
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.name
        )));
    }
    if name != call.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    if !namespace.is_empty() && namespace != call.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
            call.namespace
        )));
    }
    Ok(())
}

/// An object that is put with a `uid` means the object of that `uid`, not another of its name.
pub(crate) fn check_uid(call: &Call, object: &Value, old: &Value) -> Result<(), Status> {
    let (wanted, found) = (object::uid(object), object::uid(old));
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    Err(Status::conflict(call.kind(), &call.name, &why))
}

/// DELETE of an object.
pub(crate) async fn delete(mut asked: Asked, body: Body) -> Result<Response, Status> {
    let output = negotiate(&asked.headers, false)?;
    let options = delete_options(&asked, &decode::read(body).await?)?;
    asked.call.dry_run = options.dry_run;
    let call = &asked.call;
    let kind = call.kind();
    let mut response = match delete::delete(call, &options).await? {
        Deleted::Gone(last) if RETURNED.contains(&kind.qualified_resource().as_str()) => {
            saved(&asked, output, StatusCode::OK, &last, &[])?
        }
        Deleted::Gone(last) => {
            let done = status::deleted(kind, &call.name, object::uid(&last.value(&call.resource)));
            respond::value_response(StatusCode::OK, output.media, &done)
        }
        Deleted::Pending(pending) => {
            let code = if options.cascades { StatusCode::ACCEPTED } else { StatusCode::OK };
            saved(&asked, output, code, &pending, &[])?
        }
    };
    if delete::is_job(kind) && options.propagation.is_none() {
        respond::warn(&mut response, &[PRESERVED_PODS.to_owned()]);
    }
    Ok(response)
}

/// Said when a job is deleted by somebody who does not say what is to become of its pods.
const PRESERVED_PODS: &str = "child pods are preserved by default when jobs are deleted; set \
    propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// Kinds whose deletion answers with the object that went instead of a Status, as in Kubernetes.
const RETURNED: &[&str] = &[
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "storageclasses.storage.k8s.io",
];

/// DELETE of a collection.
pub(crate) async fn delete_collection(mut asked: Asked, body: Body) -> Result<Response, Status> {
    let output = negotiate(&asked.headers, true)?;
    let list_options = ListOptions::parse(&asked.parameters, false)?;
    let options = delete_options(&asked, &decode::read(body).await?)?;
    asked.call.dry_run = options.dry_run;
    let selection = selection(&asked, &list_options)?;
    let call = &asked.call;
    let items = delete::delete_collection(call, &selection, &options).await?;
    let list = json!({
        "kind": format!("{}List", call.kind().kind),
        "apiVersion": call.kind().api_version(),
        "metadata": {"resourceVersion": call.core.store.revision().to_string()},
        "items": items,
    });
    Ok(respond::value_response(StatusCode::OK, output.media, &list))
}

fn delete_options(asked: &Asked, body: &[u8]) -> Result<DeleteOptions, Status> {
    if body.is_empty() {
        return DeleteOptions::from_parameters(&asked.parameters);
    }
    let encoding = Encoding::of(&asked.headers)?;
    let options = match schema::message("meta.v1.DeleteOptions") {
        Some(message) => decode::message("DeleteOptions", message, body, encoding)?,
        None => return Err(Status::internal_error("the schema has no DeleteOptions")),
    };
    let kind = options.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !matches!(kind, "" | "DeleteOptions") {
        return Err(Status::bad_request(format!(
            "decoded object cannot be converted to DeleteOptions: it is a {kind}"
        )));
    }
    DeleteOptions::from_body(&options, &asked.parameters)
}
