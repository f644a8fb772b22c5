//! `pods/…/eviction`: a delete that the disruption budgets of the pod have to allow.
//!
//! The budget is charged before the pod goes: `status.disruptionsAllowed` is lowered and the pod noted in
//! `status.disruptedPods` by one conditional write, so that two evictions cannot both take the last place.

use axum::{body::Body, response::Response};
use coracle_api::{
    schema,
    selector::LabelSelector,
    status::{Cause, Details, Status},
};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    decode::{self, Encoding},
    delete,
    dispatch::Asked,
    facts::Facts,
    negotiation::negotiate,
    object,
    options::{DeleteOptions, WriteOptions},
    pipeline::{self, Call, Part, Update},
    respond,
};

/// Evictions that a budget's controller has not seen yet; beyond that something is wrong with it.
const MAX_DISRUPTED: usize = 2000;
/// Times that a pod may change under an eviction that had to look at it.
const ATTEMPTS: u32 = 20;

/// POST of an Eviction.
pub(crate) async fn create(mut asked: Asked, body: Body) -> Result<Response, Status> {
    let output = negotiate(&asked.headers, false)?;
    let write = WriteOptions::parse(&asked.parameters, "CreateOptions")?;
    let encoding = Encoding::of(&asked.headers)?;
    let message = schema::message("policy.v1.Eviction")
        .ok_or_else(|| Status::internal_error("the schema has no Eviction"))?;
    let eviction = decode::message("Eviction", message, &decode::read(body).await?, encoding)?;
    let version = object::text(&eviction, "/apiVersion");
    if !matches!(version, "" | "policy/v1" | "policy/v1beta1") {
        let why = "does not match the expected API version (policy/v1)";
        return Err(Status::bad_request(format!("the API version in the data ({version}) {why}")));
    }
    if object::name(&eviction) != asked.call.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let wanted = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
    let options = DeleteOptions::from_body(&wanted, &asked.parameters)?;
    asked.call.dry_run = write.dry_run || options.dry_run;
    evict(&asked.call, options).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::value_response(StatusCode::CREATED, output.media, &done))
}

async fn evict(call: &Call, options: DeleteOptions) -> Result<(), Status> {
    let mut call = call.clone();
    call.subresource = String::new();
    for _ in 0..ATTEMPTS {
        let pod = call.object(&*call.entry()?);
        if !ignores_budgets(&pod) {
            break;
        }
        let mut options = options.clone();
        let pinned = options.resource_version.is_some();
        if !is_over(&pod) && !pinned {
            // A pod that becomes ready meanwhile is one that budgets protect.
            options.resource_version = Some(object::resource_version(&pod).to_owned());
        }
        match finish(&call, options).await {
            Err(status) if status.code() == 409 && !pinned => {}
            done => return done,
        }
    }
    let pod = call.object(&*call.entry()?);
    let budgets = budgets_of(&call, &pod);
    let budget = match budgets.as_slice() {
        [] => return finish(&call, options).await,
        [one] => one,
        _ => {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "", why.into()));
        }
    };
    let name = budget.name.clone();
    let mut options = options;
    let mut pinned = false;
    if is_spare(&pod, &budget.object(&*budget.entry()?)) {
        pinned = options.resource_version.is_none();
        options.resource_version = Some(object::resource_version(&pod).to_owned());
    } else {
        let now = call.core.now_text();
        let mut charge = |old: &Value| charge(budget, old, &call.name, &now);
        pipeline::update(budget, Update { part: Part::Status, change: &mut charge }).await?;
    }
    match finish(&call, options).await {
        Err(status) if status.code() == 409 && pinned => Err(processing(&name)),
        done => done,
    }
}

/// Says in the pod why it goes, and deletes it.
async fn finish(call: &Call, mut options: DeleteOptions) -> Result<(), Status> {
    if !call.dry_run {
        let version = options.resource_version.clone();
        let now = call.core.now_text();
        let mut change = |old: &Value| {
            let mut pod = old.clone();
            if let Some(version) = &version {
                object::metadata_mut(&mut pod).insert("resourceVersion".into(), json!(version));
            }
            set_condition(&mut pod, &now);
            Ok(pod)
        };
        let saved = pipeline::update(call, Update { part: Part::Status, change: &mut change }).await?;
        if version.is_some() {
            options.resource_version =
                Some(object::resource_version(&saved.value(&call.resource)).to_owned());
        }
    }
    delete::delete(call, &options).await.map(drop)
}

fn set_condition(pod: &mut Value, now: &str) {
    let status = object::child_mut(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return };
    let is_target = |c: &Value| object::text(c, "/type") == "DisruptionTarget";
    if list.iter().any(|c| is_target(c) && object::text(c, "/status") == "True") {
        return;
    }
    list.retain(|condition| !is_target(condition));
    list.push(json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": now,
    }));
}

/// True if the pod counts for no budget: it has not begun, or is on its way out.
fn ignores_budgets(pod: &Value) -> bool {
    is_over(pod) || object::text(pod, "/status/phase") == "Pending"
}

fn is_over(pod: &Value) -> bool {
    object::is_terminating(pod) || matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let mut conditions = conditions;
    conditions.any(|c| object::text(c, "/type") == "Ready" && object::text(c, "/status") == "True")
}

/// True if the pod is not ready and its budget does not need it, so that its end disrupts nothing.
fn is_spare(pod: &Value, budget: &Value) -> bool {
    if is_ready(pod) {
        return false;
    }
    let number = |field| object::integer(budget, field).unwrap_or(0);
    let (healthy, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    object::text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || (healthy >= desired && desired > 0)
}

/// The budget with one disruption fewer, or why there is none.
fn charge(call: &Call, budget: &Value, pod: &str, now: &str) -> Result<Value, Status> {
    let name = object::name(budget);
    let number = |pointer| object::integer(budget, pointer).unwrap_or(0);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Err(processing(name));
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed < 0 {
        return Err(Status::forbidden(call.kind(), name, "pdb disruptions allowed is negative"));
    }
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    if disrupted.is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(call.kind(), name, why));
    }
    if allowed == 0 {
        return Err(violates(&why_none(budget), 0));
    }
    let mut budget = budget.clone();
    let observed = number("/status/observedGeneration");
    let status = object::child_mut(&mut budget, "status");
    status.insert("disruptionsAllowed".into(), json!(allowed - 1));
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Some(disrupted) = disrupted.as_object_mut() {
        disrupted.insert(pod.to_owned(), json!(now));
    }
    if allowed == 1 {
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = conditions.as_array_mut() {
            list.retain(|condition| object::text(condition, "/type") != "DisruptionAllowed");
            list.push(json!({
                "type": "DisruptionAllowed",
                "status": "False",
                "reason": "InsufficientPods",
                "message": "",
                "observedGeneration": observed,
                "lastTransitionTime": now,
            }));
        }
    }
    Ok(budget)
}

fn why_none(budget: &Value) -> String {
    let name = object::name(budget);
    let number = |pointer| object::integer(budget, pointer).unwrap_or(0);
    let (healthy, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
    let conditions = budget.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let mut conditions = conditions.filter(|c| object::text(c, "/type") == "DisruptionAllowed");
    match conditions.next() {
        Some(failed) if object::text(failed, "/reason") == "SyncFailed" => {
            let why = object::text(failed, "/message");
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
            )
        }
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        _ => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// 429: not now.
fn violates(why: &str, retry_after_seconds: u32) -> Status {
    let cause = Cause { reason: "DisruptionBudget".into(), message: why.to_owned(), field: String::new() };
    let details = Details { causes: vec![cause], retry_after_seconds, ..Details::default() };
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    Status::too_many_requests(message, retry_after_seconds).with_details(details)
}

/// 429: nobody knows yet.
fn processing(budget: &str) -> Status {
    violates(&format!("The disruption budget {budget} is still being processed by the server."), 10)
}

/// The budgets that cover a pod, as calls about their status.
fn budgets_of(call: &Call, pod: &Value) -> Vec<Call> {
    let Some(resource) = call.catalogue.find("policy", "v1", "poddisruptionbudgets").cloned() else {
        return Vec::new();
    };
    let listing = call.core.store.list(&resource.prefix(&call.namespace), Default::default());
    let labels = Facts::new(pod, call.kind());
    let mut budgets = Vec::new();
    for entry in listing.map(|listing| listing.entries).unwrap_or_default() {
        let budget = object::parse_stored(entry.value());
        let selector = budget.pointer("/spec/selector").unwrap_or(&Value::Null);
        // An empty selector covers every pod of the namespace, none covers nothing.
        let covers = !selector.is_null()
            && LabelSelector::from_value(selector).is_ok_and(|selector| labels.carry(&selector));
        if covers {
            budgets.push(Call {
                resource: resource.clone(),
                name: object::name(&budget).to_owned(),
                subresource: "status".to_owned(),
                ..call.clone()
            });
        }
    }
    budgets
}
