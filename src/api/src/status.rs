//! What goes wrong, as it crosses the wire: Kubernetes' `Status` objects, in Kubernetes' own words.
//!
//! One constructor per reason; programs match on `reason` and `code`, people search for the message, so
//! nothing here is worded freely.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use serde_json::{Map, Value, json};

use crate::{
    kind::{FieldCause, Kind},
    patch::PatchError,
    quote::Quoted,
};

/// What Kubernetes says when `resourceVersion` is not the current one.
pub const OPTIMISTIC_LOCK: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// A failure with its HTTP code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    code: u16,
    reason: Cow<'static, str>,
    message: String,
    details: Option<Box<Details>>,
}

/// The `details` of a [`Status`]: what object it is about, and why in detail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object, or of the operation that timed out.
    pub name: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Resource (`pods`); for `Invalid` the kind (`Pod`).
    pub kind: String,
    /// UID of the object.
    pub uid: String,
    /// One entry per thing that is wrong.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; 0 says nothing. The server repeats it as the `Retry-After` header.
    pub retry_after_seconds: u32,
}

/// One entry of [`Details::causes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable cause, e.g. `FieldValueInvalid`; may be empty.
    pub reason: Cow<'static, str>,
    /// Human-readable cause.
    pub message: String,
    /// Path of the field; may be empty.
    pub field: String,
}

impl From<FieldCause> for Cause {
    fn from(cause: FieldCause) -> Cause {
        Cause { reason: Cow::Borrowed(cause.reason), message: cause.message, field: cause.field }
    }
}

impl Status {
    /// 404: there is no such object.
    pub fn not_found(kind: &Kind, name: &str) -> Status {
        let message = format!("{} {} not found", kind.qualified_resource(), Quoted(name));
        Status::new(404, "NotFound", message).about(kind, name)
    }

    /// 404: no such path, group, version or resource.
    pub fn unknown_path() -> Status {
        let status = Status::new(404, "NotFound", "the server could not find the requested resource".into());
        status.with_details(Details::default())
    }

    /// 409: an object of that name exists.
    pub fn already_exists(kind: &Kind, name: &str) -> Status {
        let message = format!("{} {} already exists", kind.qualified_resource(), Quoted(name));
        Status::new(409, "AlreadyExists", message).about(kind, name)
    }

    /// 409: every name tried for a `generateName` was taken.
    pub fn generate_name_conflict(kind: &Kind, name: &str, retry_after_seconds: u32) -> Status {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            kind.qualified_resource(),
            Quoted(name)
        );
        Status::new(409, "AlreadyExists", message).about(kind, name).retry_after(retry_after_seconds)
    }

    /// 409: the object is not in the state the request assumes; `why` is usually [`OPTIMISTIC_LOCK`].
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
        let message =
            format!("Operation cannot be fulfilled on {} {}: {why}", kind.qualified_resource(), Quoted(name));
        Status::new(409, "Conflict", message).about(kind, name)
    }

    /// 409: server-side apply met fields that others own.
    pub fn apply_conflict(causes: Vec<Cause>, message: String) -> Status {
        Status::new(409, "Conflict", message).with_details(Details { causes, ..Details::default() })
    }

    /// 422: the object breaks rules, all of which are listed.
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<FieldCause>) -> Status {
        let subject = if kind.group.is_empty() {
            kind.kind.to_string()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let mut message = format!("{subject} {} is invalid", Quoted(name));
        let mut seen = BTreeSet::new();
        let mut texts =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect::<Vec<_>>();
        texts.retain(|text| seen.insert(text.clone()));
        match texts.as_slice() {
            [] => {}
            [one] => message.push_str(&format!(": {one}")),
            many => message.push_str(&format!(": [{}]", many.join(", "))),
        }
        let details = Details {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.kind.to_string(),
            causes: causes.into_iter().map(Cause::from).collect(),
            ..Details::default()
        };
        Status::new(422, "Invalid", message).with_details(details)
    }

    /// 422 without a field: a patch that does not fit the object. Kubernetes does not say why.
    pub fn unprocessable() -> Status {
        let message = "the server rejected our request due to an error in our request".to_owned();
        Status::new(422, "Invalid", message).with_details(Details::default())
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message.into())
    }

    /// 400: the body is not an object of the kind; `why` is a [`crate::schema::TypeError`] or `strict decoding error: …`.
    pub fn undecodable(kind: &Kind, why: &dyn fmt::Display) -> Status {
        Status::bad_request(format!(
            "{} in version {} cannot be handled as a {}: {why}",
            kind.kind,
            Quoted(&kind.version),
            kind.kind
        ))
    }

    /// 400: the body does not even say what it is; `why` is usually
    /// `couldn't get version/kind; json parse error: …`.
    pub fn unrecognized(kind: &Kind, why: &dyn fmt::Display, body: &[u8]) -> Status {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({})",
            kind.kind,
            summary(body)
        ))
    }

    /// 401: nobody knows who is calling.
    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized".into())
    }

    /// 403: the caller may not do this; `name` may be empty.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Status {
        let resource = kind.qualified_resource();
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", Quoted(name))
        };
        Status::new(403, "Forbidden", message).about(kind, name)
    }

    /// 403 for a path that is no resource.
    pub fn forbidden_path(why: &str) -> Status {
        Status::new(403, "Forbidden", format!("forbidden: {why}")).with_details(Details::default())
    }

    /// 405: the kind does not know this verb, e.g. `patch`.
    pub fn method_not_allowed(kind: &Kind, action: &str) -> Status {
        let message =
            format!("{action} is not supported on resources of kind {}", Quoted(&kind.qualified_resource()));
        Status::new(405, "MethodNotAllowed", message).about(kind, "")
    }

    /// 405 for a path that is no resource.
    pub fn method_not_allowed_path() -> Status {
        let message = "the server does not allow this method on the requested resource".to_owned();
        Status::new(405, "MethodNotAllowed", message).with_details(Details::default())
    }

    /// 406: none of the answers that the client accepts can be given.
    pub fn not_acceptable(accepted: &[&str]) -> Status {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Status::new(406, "NotAcceptable", message)
    }

    /// 415: the body has a type nobody here reads.
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::new(415, "UnsupportedMediaType", message)
    }

    /// 410 `Expired`: the revision asked for is compacted; the client lists again.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message.into())
    }

    /// 410 `Gone`: what watches of old said instead of [`Status::expired`].
    pub fn gone(message: impl Into<String>) -> Status {
        Status::new(410, "Gone", message.into())
    }

    /// 413: the body or the object is too big.
    pub fn too_large(message: &str) -> Status {
        Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 429: later, please.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        Status::new(429, "TooManyRequests", message.into())
            .with_details(Details::default())
            .retry_after(retry_after_seconds)
    }

    /// 500: our fault. `why` must be fit for a stranger's eyes.
    pub fn internal_error(why: &str) -> Status {
        let cause = Cause { message: why.to_owned(), ..Cause::default() };
        Status::new(500, "InternalError", format!("Internal error occurred: {why}"))
            .with_details(Details { causes: vec![cause], ..Details::default() })
    }

    /// 500 `ServerTimeout`: a passing trouble; the operation was not carried out.
    pub fn server_timeout(kind: &Kind, operation: &str, retry_after_seconds: u32) -> Status {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            kind.qualified_resource()
        );
        Status::new(500, "ServerTimeout", message).about(kind, operation).retry_after(retry_after_seconds)
    }

    /// 504: no answer in time; the operation may still complete.
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Status {
        Status::new(504, "Timeout", format!("Timeout: {message}"))
            .with_details(Details::default())
            .retry_after(retry_after_seconds)
    }

    /// 503: not ready, or shutting down.
    pub fn service_unavailable(message: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", message.into())
    }

    /// Any other answer; prefer a constructor with a name.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: String) -> Status {
        Status { code, reason: reason.into(), message, details: None }
    }

    /// The same with these details.
    pub fn with_details(mut self, details: Details) -> Status {
        self.details = Some(Box::new(details));
        self
    }

    /// The same with one more cause.
    pub fn with_cause(mut self, cause: Cause) -> Status {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The HTTP code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The machine-readable reason, e.g. `NotFound`.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The human-readable message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the status is about, if it says so.
    pub fn details(&self) -> Option<&Details> {
        self.details.as_deref()
    }

    /// When to try again, if the status says so.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details.as_ref().map(|details| details.retry_after_seconds).filter(|&seconds| seconds > 0)
    }

    /// The `Status` object of the wire.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            value["details"] = details.to_value();
        }
        value
    }

    fn about(self, kind: &Kind, name: &str) -> Status {
        self.with_details(Details {
            name: name.to_owned(),
            group: kind.group.to_string(),
            kind: kind.plural.to_string(),
            ..Details::default()
        })
    }

    fn retry_after(mut self, seconds: u32) -> Status {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        let mut text = |key: &str, value: &str| {
            if !value.is_empty() {
                map.insert(key.to_owned(), value.into());
            }
        };
        text("name", &self.name);
        text("group", &self.group);
        text("kind", &self.kind);
        text("uid", &self.uid);
        if !self.causes.is_empty() {
            map.insert("causes".to_owned(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds".to_owned(), self.retry_after_seconds.into());
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, value) in [("reason", &*self.reason), ("message", &self.message), ("field", &self.field)] {
            if !value.is_empty() {
                map.insert(key.to_owned(), value.into());
            }
        }
        Value::Object(map)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Status {
        let text = error.to_string();
        match error {
            PatchError::Malformed(_) => Status::bad_request(text),
            PatchError::Inapplicable(_) => Status::unprocessable(),
            PatchError::TooLarge(_) => Status::too_large(&text),
        }
    }
}

/// The answer to a delete that is done: a `Status` of success that names what went.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.to_owned(),
        group: kind.group.to_string(),
        kind: kind.plural.to_string(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details.to_value(),
    })
}

/// The beginning of a body: as text if it looks like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let shown = &body[..body.len().min(SHOWN)];
    let text = if body[0] == b'{' {
        String::from_utf8_lossy(shown).into_owned()
    } else {
        shown.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    if body.len() > SHOWN { format!("{text} ...") } else { text }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables of JSON literals read better without references")]
mod tests {
    use super::*;
    use crate::{
        field::{Path, required},
        testing::kind,
    };

    #[track_caller]
    fn check(status: &Status, code: u16, reason: &str, message: &str, details: Value) {
        assert_eq!((status.code(), status.reason(), status.message()), (code, reason, message));
        let value = status.to_value();
        assert_eq!(value["code"], code);
        assert_eq!(value["status"], "Failure");
        assert_eq!(value["details"], details);
    }

    #[test]
    fn statuses_read_as_in_kubernetes() {
        let (pod, deployment) = (kind("", "Pod", "pods", ""), kind("apps", "Deployment", "deployments", ""));
        let about = json!({"name": "a", "kind": "pods"});
        check(&Status::not_found(&pod, "a"), 404, "NotFound", "pods \"a\" not found", about.clone());
        check(
            &Status::not_found(&deployment, "a"),
            404,
            "NotFound",
            "deployments.apps \"a\" not found",
            json!({"name": "a", "group": "apps", "kind": "deployments"}),
        );
        check(
            &Status::unknown_path(),
            404,
            "NotFound",
            "the server could not find the requested resource",
            json!({}),
        );
        check(
            &Status::already_exists(&pod, "a"),
            409,
            "AlreadyExists",
            "pods \"a\" already exists",
            about.clone(),
        );
        check(
            &Status::conflict(&pod, "a", OPTIMISTIC_LOCK),
            409,
            "Conflict",
            "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again",
            about.clone(),
        );
        check(&Status::forbidden(&pod, "a", "no"), 403, "Forbidden", "pods \"a\" is forbidden: no", about);
        check(
            &Status::forbidden(&pod, "", "no"),
            403,
            "Forbidden",
            "pods is forbidden: no",
            json!({"kind": "pods"}),
        );
        check(
            &Status::method_not_allowed(&pod, "patch"),
            405,
            "MethodNotAllowed",
            "patch is not supported on resources of kind \"pods\"",
            json!({"kind": "pods"}),
        );
        check(
            &Status::too_many_requests("later", 3),
            429,
            "TooManyRequests",
            "later",
            json!({"retryAfterSeconds": 3}),
        );
        check(
            &Status::internal_error("boom"),
            500,
            "InternalError",
            "Internal error occurred: boom",
            json!({"causes": [{"message": "boom"}]}),
        );
        check(
            &Status::too_large("limit is 1"),
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 1",
            Value::Null,
        );
        check(&Status::unauthorized(), 401, "Unauthorized", "Unauthorized", Value::Null);
        check(&Status::expired("old"), 410, "Expired", "old", Value::Null);
        check(
            &Status::undecodable(&pod, &"why"),
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a Pod: why",
            Value::Null,
        );
        check(
            &Status::unrecognized(&pod, &"why", b"{\"a\": 1}"),
            400,
            "BadRequest",
            "the object provided is unrecognized (must be of type Pod): why ({\"a\": 1})",
            Value::Null,
        );
        assert_eq!(Status::too_many_requests("later", 3).retry_after_seconds(), Some(3));
        assert_eq!(Status::unauthorized().retry_after_seconds(), None);
    }

    #[test]
    fn invalid_lists_every_cause() {
        let deployment = kind("apps", "Deployment", "deployments", "");
        let cause = |name: &str| required(&Path::new(name), "");
        let one = Status::invalid(&deployment, "a", vec![cause("spec")]);
        assert_eq!(one.message(), "Deployment.apps \"a\" is invalid: spec: Required value");
        let two = Status::invalid(&deployment, "a", vec![cause("spec"), cause("x"), cause("x")]);
        check(
            &two,
            422,
            "Invalid",
            "Deployment.apps \"a\" is invalid: [spec: Required value, x: Required value]",
            json!({"name": "a", "group": "apps", "kind": "Deployment", "causes": [
                {"reason": "FieldValueRequired", "message": "Required value", "field": "spec"},
                {"reason": "FieldValueRequired", "message": "Required value", "field": "x"},
                {"reason": "FieldValueRequired", "message": "Required value", "field": "x"},
            ]}),
        );
        let same = Status::invalid(&deployment, "a", vec![cause("x"), cause("x")]);
        assert_eq!(same.message(), "Deployment.apps \"a\" is invalid: x: Required value");
    }

    #[test]
    fn bodies_are_summarised() {
        assert_eq!(summary(b""), "<empty>");
        assert_eq!(summary(b"ab"), "6162");
        assert_eq!(summary(&[b'{'; 40]), format!("{} ...", "{".repeat(30)));
        assert_eq!(summary(&[0; 31]), format!("{} ...", "00".repeat(30)));
    }

    #[test]
    fn a_finished_delete_names_what_went() {
        assert_eq!(
            deleted(&kind("apps", "Deployment", "deployments", ""), "a", "u"),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": "a", "group": "apps", "kind": "deployments", "uid": "u"}})
        );
    }
}
