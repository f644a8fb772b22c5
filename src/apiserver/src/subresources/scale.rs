//! `…/scale`: one number of an object, as `autoscaling/v1` Scale, the same for every kind that has it.

use axum::{body::Body, response::Response};
use coracle_api::{
    Subresource,
    field::{self, Path},
    schema,
    status::{Cause, Details, Status},
};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    decode::{self, Encoding},
    dispatch::Asked,
    negotiation::{Media, negotiate},
    object,
    options::WriteOptions,
    patch::Patch,
    pipeline::{self, Call, Part, Update},
    respond, verbs,
};

/// The name of Scale in the schema.
const MESSAGE: &str = "autoscaling.v1.Scale";

/// GET of the scale.
pub(crate) async fn get(asked: &Asked) -> Result<Response, Status> {
    let call = &asked.call;
    let output = negotiate(&asked.headers, false)?;
    verbs::read_barrier(call, &asked.parameters).await?;
    let scale = scale_of(call, &call.object(&*call.entry()?));
    Ok(respond::value_response(StatusCode::OK, output.media, &scale))
}

/// PUT of the scale.
pub(crate) async fn update(mut asked: Asked, body: Body) -> Result<Response, Status> {
    let (media, _) = options(&mut asked, "UpdateOptions")?;
    let encoding = Encoding::of(&asked.headers)?;
    let message =
        schema::message(MESSAGE).ok_or_else(|| Status::internal_error("the schema has no Scale"))?;
    let wanted = decode::message("Scale", message, &decode::read(body).await?, encoding)?;
    verbs::check_name(&asked.call, &wanted)?;
    write(&asked, media, &mut |_| Ok(wanted.clone())).await
}

/// PATCH of the scale.
pub(crate) async fn patch(mut asked: Asked, body: Body) -> Result<Response, Status> {
    Patch::check_type(&asked.headers, asked.call.kind())?;
    let (media, _) = options(&mut asked, "PatchOptions")?;
    let body = decode::read(body).await?;
    let patch = Patch::parse(&asked.headers, body, asked.call.kind())?;
    let call = &asked.call;
    let message =
        schema::message(MESSAGE).ok_or_else(|| Status::internal_error("the schema has no Scale"))?;
    write(&asked, media, &mut |old| {
        let mut scale = patch.apply(MESSAGE, &scale_of(call, old))?;
        schema::conform_message(message, &mut scale).map_err(|e| {
            Status::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {e}"))
        })?;
        verbs::check_name(call, &scale)?;
        Ok(scale)
    })
    .await
}

fn options(asked: &mut Asked, kind: &'static str) -> Result<(Media, WriteOptions), Status> {
    let output = negotiate(&asked.headers, false)?;
    let options = WriteOptions::parse(&asked.parameters, kind)?;
    asked.call.dry_run = options.dry_run;
    Ok((output.media, options))
}

/// Writes the number of the scale that `make` makes of the newest object.
async fn write(
    asked: &Asked,
    media: Media,
    make: &mut (dyn FnMut(&Value) -> Result<Value, Status> + Send),
) -> Result<Response, Status> {
    let call = &asked.call;
    let paths = Paths::of(call);
    let mut change = |old: &Value| {
        let scale = make(old)?;
        verbs::check_uid(call, &scale, old)?;
        let replicas = object::integer(&scale, "/spec/replicas").unwrap_or(0);
        if replicas < 0 {
            return Err(invalid(&call.name, replicas));
        }
        let mut object = old.clone();
        set(&mut object, paths.spec, json!(replicas));
        let version = object::resource_version(&scale);
        if !version.is_empty() {
            object::metadata_mut(&mut object).insert("resourceVersion".into(), json!(version));
        }
        Ok(object)
    };
    // Only the number changes: the rest of the object is the server's own copy.
    let saved = pipeline::update(call, Update { part: Part::Whole, change: &mut change }).await?;
    Ok(respond::value_response(StatusCode::OK, media, &scale_of(call, &saved.value(&call.resource))))
}

fn invalid(name: &str, replicas: i64) -> Status {
    let spec = Path::new("spec");
    let cause = field::invalid(&spec.child("replicas"), replicas, "must be greater than or equal to 0");
    let message = format!("Scale.autoscaling {name:?} is invalid: {}: {}", cause.field, cause.message);
    let details = Details {
        name: name.into(),
        group: "autoscaling".into(),
        kind: "Scale".into(),
        causes: vec![Cause::from(cause)],
        ..Details::default()
    };
    Status::new(422, "Invalid", message).with_details(details)
}

/// The dotted paths of a kind's scale.
struct Paths<'a> {
    spec: &'a str,
    status: &'a str,
    selector: &'a str,
}

impl Paths<'_> {
    fn of(call: &Call) -> Paths<'_> {
        let scale = call.kind().subresources.iter().find_map(|subresource| match subresource {
            Subresource::Scale { spec_replicas, status_replicas, selector } => {
                Some(Paths { spec: spec_replicas, status: status_replicas, selector })
            }
            _ => None,
        });
        scale.unwrap_or(Paths { spec: "spec.replicas", status: "status.replicas", selector: "spec.selector" })
    }
}

/// The scale of an object.
fn scale_of(call: &Call, object: &Value) -> Value {
    let paths = Paths::of(call);
    let number = |path: &str| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object::metadata(object).and_then(|m| m.get(field)) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut status = json!({"replicas": number(paths.status)});
    let selector = at(object, paths.selector).map(selector_text).unwrap_or_default();
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    let mut spec = Map::new();
    if number(paths.spec) != 0 {
        spec.insert("replicas".into(), json!(number(paths.spec)));
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(object, |value, field| value.get(field))
}

fn set(object: &mut Value, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        if let Some(map) = object.as_object_mut() {
            map.insert(path.to_owned(), value);
        }
        return;
    };
    let child = object::child_mut(object, first);
    let mut inner = Value::Object(std::mem::take(child));
    set(&mut inner, rest, value);
    if let Value::Object(map) = inner {
        *child = map;
    }
}

/// A selector in the form of a query parameter: `a=b,c in (d,e)`.
fn selector_text(selector: &Value) -> String {
    let pairs = |map: &Map<String, Value>| -> Vec<String> {
        map.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect()
    };
    let Some(map) = selector.as_object() else { return String::new() };
    let labels = map.get("matchLabels").and_then(Value::as_object);
    let expressions = map.get("matchExpressions").and_then(Value::as_array);
    if labels.is_none() && expressions.is_none() {
        return pairs(map).join(",");
    }
    let mut terms = labels.map(pairs).unwrap_or_default();
    for expression in expressions.into_iter().flatten() {
        let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
        let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
        let mut values: Vec<&str> = values.filter_map(Value::as_str).collect();
        values.sort_unstable();
        let (key, values) = (text("key"), values.join(","));
        terms.push(match text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_text() {
        assert_eq!(selector_text(&json!({"a": "b", "c": "d"})), "a=b,c=d");
        let set = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "t", "operator": "In", "values": ["y", "x"]}, {"key": "u", "operator": "DoesNotExist"},
        ]});
        assert_eq!(selector_text(&set), "a=b,t in (x,y),!u");
        assert_eq!(selector_text(&json!(null)), "");
    }

    #[test]
    fn a_path_is_made_on_the_way() {
        let mut object = json!({"metadata": {}});
        set(&mut object, "spec.replicas", json!(3));
        assert_eq!(object, json!({"metadata": {}, "spec": {"replicas": 3}}));
    }
}
