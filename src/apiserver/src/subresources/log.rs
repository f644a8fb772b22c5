//! `pods/…/log`: the output of a container, streamed from the node that runs it.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use coracle_api::status::Status;
use futures::{StreamExt, stream};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::{container, escape};
use crate::{dispatch::Asked, object, options::Parameters, respond, verbs};

/// Parameters that the node understands, by the same names.
const PASSED: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "stream", "timestamps", "tailLines", "limitBytes"];
/// Longest error of a node that is passed on.
const MAX_ERROR: usize = 4096;

/// GET of the log.
pub(crate) async fn get(asked: &Asked) -> Result<Response, Status> {
    let call = &asked.call;
    verbs::read_barrier(call, &asked.parameters).await?;
    let pod = call.object(&*call.entry()?);
    check_options(&asked.parameters)?;
    let container = container::pick(&pod, asked.parameters.get("container"))?;
    let node = object::text(&pod, "/spec/nodeName");
    if node.is_empty() {
        // Kubernetes answers with an empty log as long as nothing can have been written.
        return Ok(respond::bytes_response(StatusCode::OK, "text/plain", Bytes::new()));
    }
    check_started(&pod, &container, asked.parameters.flag("previous"))?;
    let Some(kubelet) = call.core.nodes.get(node) else {
        return Err(Status::internal_error(&format!("the node {node:?} of the pod cannot be reached")));
    };
    let request = Request::get(kubelet_path(&pod, &container, &asked.parameters))
        .body(Body::empty())
        .map_err(|error| Status::internal_error(&error.to_string()))?;
    let answer = match kubelet.oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    if !answer.status().is_success() {
        return Err(node_error(answer).await);
    }
    let shutdown = call.core.shutdown.clone();
    let lines = answer.into_body().into_data_stream().take_until(async move { shutdown.cancelled().await });
    Ok(respond::stream_response(
        StatusCode::OK,
        "text/plain",
        Body::from_stream(lines.chain(stream::empty())),
    ))
}

fn kubelet_path(pod: &Value, container: &str, parameters: &Parameters) -> String {
    let mut path = format!(
        "/containerLogs/{}/{}/{}",
        escape(object::namespace(pod)),
        escape(object::name(pod)),
        escape(container)
    );
    let mut separator = '?';
    for name in PASSED {
        for value in parameters.all(name) {
            path.push_str(&format!("{separator}{name}={}", escape(value)));
            separator = '&';
        }
    }
    path
}

/// What a node says went wrong, in its words.
async fn node_error(answer: Response) -> Status {
    let code = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), MAX_ERROR).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status::new(404, "NotFound", text),
        _ => Status::internal_error(&text),
    }
}

fn check_options(parameters: &Parameters) -> Result<(), Status> {
    let invalid =
        |why: &str| Err(Status::new(422, "Invalid", format!("PodLogOptions \"\" is invalid: {why}")));
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        if parameters.integer(name)?.is_some_and(|value| value < least) {
            return match least {
                0 => invalid(&format!(
                    "{name}: Invalid value: {}: must be greater than or equal to 0",
                    parameters.get(name)
                )),
                _ => invalid(&format!(
                    "{name}: Invalid value: {}: must be greater than 0",
                    parameters.get(name)
                )),
            };
        }
    }
    let stream = parameters.get("stream");
    if !matches!(stream, "" | "All" | "Stdout" | "Stderr") {
        return invalid(&format!(
            "stream: Unsupported value: {stream:?}: supported values: \"All\", \"Stderr\", \"Stdout\""
        ));
    }
    if matches!(stream, "Stdout" | "Stderr") && !parameters.get("tailLines").is_empty() {
        return invalid("[]: Forbidden: `tailLines` and specific `stream` are mutually exclusive for now");
    }
    if !parameters.get("sinceSeconds").is_empty() && !parameters.get("sinceTime").is_empty() {
        return invalid("[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    Ok(())
}

/// A container that waits for its first start has no log, and the reason is what the user wants to know.
fn check_started(pod: &Value, container: &str, previous: bool) -> Result<(), Status> {
    let name = object::name(pod);
    let lists =
        ["/status/containerStatuses", "/status/initContainerStatuses", "/status/ephemeralContainerStatuses"];
    let statuses = lists.iter().filter_map(|list| pod.pointer(list).and_then(Value::as_array)).flatten();
    let status = statuses.into_iter().find(|s| s.get("name").and_then(Value::as_str) == Some(container));
    let waits = |reason: &str| {
        Err(Status::bad_request(format!(
            "container {container:?} in pod {name:?} is waiting to start: {reason}"
        )))
    };
    let Some(status) = status else { return waits("ContainerCreating") };
    let ran_before = status.pointer("/lastState/terminated").is_some();
    if previous && !ran_before {
        return Err(Status::bad_request(format!(
            "previous terminated container {container:?} in pod {name:?} not found"
        )));
    }
    match status.pointer("/state/waiting/reason").and_then(Value::as_str) {
        Some("ErrImagePull") if !ran_before => waits("image can't be pulled"),
        Some("ImagePullBackOff") if !ran_before => waits("trying and failing to pull image"),
        Some(reason) if !ran_before => waits(reason),
        _ => Ok(()),
    }
}
