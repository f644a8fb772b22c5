//! `serviceaccounts/…/token`: makes a token of the account.

use axum::{body::Body, response::Response};
use coracle_api::{
    FieldCause,
    field::{self, Path},
    schema,
    status::{Cause, Details, Status},
};
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    core::seconds_text,
    decode::{self, Encoding},
    dispatch::Asked,
    negotiation::negotiate,
    object,
    options::WriteOptions,
    pipeline::Call,
    respond, tokens,
    tokens::{Bound, Grant},
};

/// Seconds that a token counts if nothing else is asked for.
const DEFAULT: i64 = 3600;
/// Fewest seconds that can be asked for.
const LEAST: i64 = 600;
/// Most.
const MOST: i64 = 1 << 32;

/// POST of a TokenRequest.
pub(crate) async fn create(mut asked: Asked, body: Body) -> Result<Response, Status> {
    let output = negotiate(&asked.headers, false)?;
    let options = WriteOptions::parse(&asked.parameters, "CreateOptions")?;
    asked.call.dry_run = options.dry_run;
    let encoding = Encoding::of(&asked.headers)?;
    let message = schema::message("authentication.v1.TokenRequest")
        .ok_or_else(|| Status::internal_error("the schema has no TokenRequest"))?;
    let mut request = decode::message("TokenRequest", message, &decode::read(body).await?, encoding)?;
    let call = &asked.call;
    check_names(call, &request)?;
    let account = call.object(&*call.entry()?);
    let seconds = object::integer(&request, "/spec/expirationSeconds").unwrap_or(DEFAULT);
    check_seconds(seconds)?;
    let bound = match request.pointer("/spec/boundObjectRef").filter(|reference| reference.is_object()) {
        Some(reference) => Some(bound(call, reference)?),
        None => None,
    };
    let audiences = request.pointer("/spec/audiences").and_then(Value::as_array).into_iter().flatten();
    let mut audiences: Vec<String> = audiences.filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences = tokens::own_audiences();
    }
    let now = call.core.now();
    let grant = Grant { account: &account, bound, audiences: &audiences, now, seconds };
    let token = if call.dry_run { Some(String::new()) } else { call.core.tokens.issue(&grant) };
    let token = token.ok_or_else(|| Status::internal_error("failed to generate token"))?;
    let end = now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now);

    object::child_mut(&mut request, "spec").insert("audiences".into(), json!(audiences));
    object::child_mut(&mut request, "spec").insert("expirationSeconds".into(), json!(seconds));
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["status"] = json!({"token": token, "expirationTimestamp": seconds_text(end)});
    let metadata = object::metadata_mut(&mut request);
    metadata.insert("name".into(), json!(call.name));
    metadata.insert("namespace".into(), json!(call.namespace));
    metadata.insert("creationTimestamp".into(), json!(seconds_text(now)));
    Ok(respond::value_response(StatusCode::CREATED, output.media, &request))
}

fn check_names(call: &Call, request: &Value) -> Result<(), Status> {
    let (name, namespace) = (object::name(request), object::namespace(request));
    if !name.is_empty() && name != call.name {
        let why = format!("must match the service account name: {}", call.name);
        return Err(invalid(field::invalid(&Path::new("metadata.name"), name, &why)));
    }
    if !namespace.is_empty() && namespace != call.namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(why));
    }
    Ok(())
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    let path = Path::new("spec.expirationSeconds");
    if seconds < LEAST {
        let why = "may not specify a duration less than 10 minutes";
        return Err(invalid(field::invalid(&path, seconds, why)));
    }
    if seconds > MOST {
        return Err(invalid(field::invalid(
            &path,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        )));
    }
    Ok(())
}

fn invalid(cause: FieldCause) -> Status {
    let message =
        format!("TokenRequest.authentication.k8s.io \"\" is invalid: {}: {}", cause.field, cause.message);
    let details = Details {
        group: "authentication.k8s.io".into(),
        kind: "TokenRequest".into(),
        causes: vec![Cause::from(cause)],
        ..Details::default()
    };
    Status::new(422, "Invalid", message).with_details(details)
}

/// The object that a token is to end with.
fn bound(call: &Call, reference: &Value) -> Result<Bound, Status> {
    let text = |field: &str| object::text(reference, &format!("/{field}")).to_owned();
    let (api_version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
    let (group, version) = match api_version.split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", api_version.as_str()),
    };
    let (plural, claim) = match (group, kind.as_str()) {
        ("", "Pod") => ("pods", "pod"),
        ("", "Secret") => ("secrets", "secret"),
        ("", "Node") => ("nodes", "node"),
        _ => {
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(why));
        }
    };
    let found = get(call, plural, &name)?;
    if claim == "pod" {
        let account = object::text(&found, "/spec/serviceAccountName");
        if account != call.name {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                call.name
            )));
        }
    }
    let found_uid = object::uid(&found).to_owned();
    if !uid.is_empty() && uid != found_uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        let message = format!("Operation cannot be fulfilled on {kind} {name:?}: {why}");
        let details = Details { name, kind, ..Details::default() };
        return Err(Status::new(409, "Conflict", message).with_details(details));
    }
    let node = object::text(&found, "/spec/nodeName").to_owned();
    let node = (claim == "pod" && !node.is_empty()).then(|| {
        let uid = get(call, "nodes", &node).map(|node| object::uid(&node).to_owned());
        (node, uid.unwrap_or_default())
    });
    Ok(Bound { kind: claim, name, uid: found_uid, node })
}

fn get(call: &Call, plural: &str, name: &str) -> Result<Value, Status> {
    let resource = call.catalogue.find("", "v1", plural).cloned().ok_or_else(Status::unknown_path)?;
    let call = Call { resource, name: name.to_owned(), ..call.clone() };
    Ok(call.object(&*call.entry()?))
}
