//! Which container of a pod is meant.

use coracle_api::status::Status;
use serde_json::Value;

use crate::object;

/// The names of the containers in one list of the spec.
fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    let list = pod.pointer(list).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|container| container.get("name").and_then(Value::as_str)).collect()
}

/// The container that is meant: the one that is asked for, or the only one.
pub(super) fn pick(pod: &Value, asked: &str) -> Result<String, Status> {
    let name = object::name(pod);
    let containers = names(pod, "/spec/containers");
    let init = names(pod, "/spec/initContainers");
    let ephemeral = names(pod, "/spec/ephemeralContainers");
    if asked.is_empty() {
        return match containers.as_slice() {
            [only] => Ok((*only).to_owned()),
            several => {
                let mut message = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    several.join(" ")
                );
                if !init.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                if !ephemeral.is_empty() {
                    message
                        .push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
                }
                Err(Status::bad_request(message))
            }
        };
    }
    if [containers, init, ephemeral].iter().any(|list| list.contains(&asked)) {
        return Ok(asked.to_owned());
    }
    Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")))
}
