//! Questions that are answered and not stored: whose token is this, who am I, may I do that.

use std::{collections::BTreeMap, sync::Arc};

use axum::{body::Body, response::Response};
use coracle_api::{schema, status::Status};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::{
    auth::User,
    authorize::{self, Action},
    core::Core,
    decode::{self, Encoding},
    negotiation::negotiate,
    object, respond,
    tokens::{self, USER_PREFIX},
};

/// Answers a review of this kind that is posted.
pub(crate) async fn create(
    core: &Arc<Core>,
    user: &User,
    kind: &str,
    namespace: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Status> {
    let output = negotiate(headers, false)?;
    let group = match kind {
        "TokenReview" | "SelfSubjectReview" => "authentication",
        _ => "authorization",
    };
    let message = schema::message(&format!("{group}.v1.{kind}"))
        .ok_or_else(|| Status::internal_error("the schema has no such review"))?;
    let body = decode::read(body).await?;
    let mut review = decode::message(kind, message, &body, Encoding::of(headers)?)?;
    let status = match kind {
        "TokenReview" => token(core, &review)?,
        "SelfSubjectReview" => json!({"userInfo": info(user)}),
        "SelfSubjectAccessReview" => access(user, &review["spec"]),
        "SelfSubjectRulesReview" => rules(user, object::text(&review, "/spec/namespace"))?,
        _ => {
            let spec = &review["spec"];
            let asked = object::text(spec, "/resourceAttributes/namespace");
            if kind == "LocalSubjectAccessReview" && asked != namespace {
                let why = "must match metadata.namespace";
                return Err(Status::bad_request(format!("spec.resourceAttributes.namespace: {why}")));
            }
            access(&subject(spec), spec)
        }
    };
    let map = review.as_object_mut().ok_or_else(|| Status::bad_request("the review is no object"))?;
    map.insert("kind".into(), json!(kind));
    map.insert("apiVersion".into(), json!(format!("{group}.k8s.io/v1")));
    map.insert("status".into(), status);
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    if let Some(metadata) = metadata.as_object_mut().filter(|_| kind == "SelfSubjectReview") {
        metadata.insert("creationTimestamp".into(), json!(core.now_text()));
    }
    Ok(respond::value_response(StatusCode::CREATED, output.media, &review))
}

fn token(core: &Core, review: &Value) -> Result<Value, Status> {
    let token = object::text(review, "/spec/token");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = review.pointer("/spec/audiences").and_then(Value::as_array);
    let wanted: Vec<String> =
        audiences.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let wanted = if wanted.is_empty() { tokens::own_audiences() } else { wanted };
    Ok(match tokens::authenticate(core, token, &wanted) {
        Ok((user, matching)) => json!({"authenticated": true, "user": info(&user), "audiences": matching}),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    })
}

/// A user as reviews show it.
fn info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// The user that a review is about. An account is in the groups of accounts, whether the review says so or not:
/// whoever shows its token is.
fn subject(spec: &Value) -> User {
    let asked = spec.get("groups").and_then(Value::as_array).into_iter().flatten();
    let asked = asked.filter_map(Value::as_str).map(str::to_owned);
    let name = object::text(spec, "/user");
    let account = name.strip_prefix(USER_PREFIX).and_then(|name| name.split_once(':'));
    let mut user = match account {
        Some((namespace, name)) => User::account(namespace, name, "", BTreeMap::new()),
        None => User { groups: Vec::new(), ..User::new(name, &[]) },
    };
    user.groups.extend(asked);
    user
}

fn access(user: &User, spec: &Value) -> Value {
    let text = |pointer: &str| object::text(spec, pointer);
    let action = if spec.get("nonResourceAttributes").is_some_and(Value::is_object) {
        Action::Path { verb: text("/nonResourceAttributes/verb"), path: text("/nonResourceAttributes/path") }
    } else {
        Action::Resource {
            verb: text("/resourceAttributes/verb"),
            group: text("/resourceAttributes/group"),
            resource: text("/resourceAttributes/resource"),
            subresource: text("/resourceAttributes/subresource"),
            namespace: text("/resourceAttributes/namespace"),
        }
    };
    match authorize::allows(user, action) {
        true => json!({"allowed": true}),
        false => json!({"allowed": false, "reason": authorize::refusal(user, action)}),
    }
}

/// What `kubectl auth can-i --list` prints.
fn rules(user: &User, namespace: &str) -> Result<Value, Status> {
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let Some(own) = authorize::account_namespace(user) else {
        return Ok(json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }));
    };
    let about_self = authorize::ABOUT_SELF.iter();
    let mut resources: Vec<Value> = about_self
        .map(|(group, name)| json!({"verbs": ["create"], "apiGroups": [group], "resources": [name]}))
        .collect();
    if namespace == own {
        resources.push(json!({"verbs": ["get", "list", "watch"], "apiGroups": ["*"], "resources": ["*"]}));
    }
    let paths: Vec<String> =
        authorize::DISCOVERY.iter().flat_map(|path| [(*path).to_owned(), format!("{path}/*")]).collect();
    let mut rules = json!({
        "resourceRules": resources,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": paths}],
        "incomplete": namespace == own,
    });
    if namespace == own {
        // A rule cannot say so.
        rules["evaluationError"] = json!("secrets cannot be read");
    }
    Ok(rules)
}

/// `/openid/v1/jwks`.
pub(crate) fn jwks(core: &Core) -> Response {
    let keys = core.tokens.jwks().to_string();
    respond::bytes_response(StatusCode::OK, "application/jwk-set+json", keys.into())
}

/// `/.well-known/openid-configuration`.
pub(crate) fn openid_configuration(headers: &HeaderMap) -> Response {
    let host = headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let base = host.map_or_else(|| tokens::ISSUER.to_owned(), |host| format!("https://{host}"));
    let configuration = json!({
        "issuer": tokens::ISSUER,
        "jwks_uri": format!("{base}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    respond::value_response(StatusCode::OK, crate::negotiation::Media::Json, &configuration)
}
