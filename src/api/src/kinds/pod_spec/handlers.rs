//! Probes and lifecycle hooks: what the node does to a container to see how it is or to tell it what
//! comes.

use serde_json::Value;

use super::spec::Context;
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
    names,
};

pub(super) fn check_probes(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    container: &Value,
    context: &Context<'_>,
) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[name];
        if !is_set(probe) {
            continue;
        }
        let path = path.child(name);
        check_probe(errors, &path, probe, context);
        let grace = &probe["terminationGracePeriodSeconds"];
        let success = int(&probe["successThreshold"]);
        if name != "readinessProbe" && success != 1 {
            errors.push(field::invalid(&path.child("successThreshold"), success, "must be 1"));
        }
        if name == "readinessProbe" && is_set(grace) {
            errors.push(field::invalid(
                &path.child("terminationGracePeriodSeconds"),
                grace,
                "must not be set for readinessProbes",
            ));
        }
    }
}

fn check_probe(errors: &mut Vec<FieldCause>, path: &Path<'_>, probe: &Value, context: &Context<'_>) {
    check_handler(errors, path, probe, &["exec", "httpGet", "tcpSocket", "grpc"], context);
    for name in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        check_not_negative(errors, &path.child(name), &probe[name]);
    }
    let grace = &probe["terminationGracePeriodSeconds"];
    if is_set(grace) && int(grace) <= 0 {
        errors.push(field::invalid(
            &path.child("terminationGracePeriodSeconds"),
            int(grace),
            "must be greater than 0",
        ));
    }
}

pub(super) fn check_lifecycle(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    lifecycle: &Value,
    context: &Context<'_>,
) {
    for name in ["postStart", "preStop"] {
        if is_set(&lifecycle[name]) {
            let allowed = &["exec", "httpGet", "tcpSocket", "sleep"];
            check_handler(errors, &path.child(name), &lifecycle[name], allowed, context);
        }
    }
}

/// Exactly one of `kinds`, and that one well formed.
fn check_handler(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    handler: &Value,
    kinds: &[&str],
    context: &Context<'_>,
) {
    let mut found = kinds.iter().filter(|kind| is_set(&handler[**kind]));
    let Some(kind) = found.next() else {
        errors.push(field::required(path, "must specify a handler type"));
        return;
    };
    check_action(errors, &path.child(kind), kind, &handler[*kind], context);
    for other in found {
        errors.push(field::forbidden(&path.child(other), "may not specify more than 1 handler type"));
    }
}

fn check_action(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    kind: &str,
    action: &Value,
    context: &Context<'_>,
) {
    match kind {
        "exec" if is_empty(&action["command"]) => errors.push(field::required(&path.child("command"), "")),
        "httpGet" => check_http_get(errors, path, action),
        "tcpSocket" | "grpc" => check_port_or_name(errors, &path.child("port"), &action["port"]),
        "sleep" => {
            let seconds = int(&action["seconds"]);
            if let Some(grace) = context.grace
                && !(0..=grace).contains(&seconds)
            {
                let words =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.push(field::invalid(path, seconds, &words));
            }
        }
        _ => {}
    }
}

fn check_http_get(errors: &mut Vec<FieldCause>, path: &Path<'_>, get: &Value) {
    check_required(errors, &path.child("path"), &get["path"]);
    check_port_or_name(errors, &path.child("port"), &get["port"]);
    let scheme = text(&get["scheme"]);
    if scheme != "HTTP" && scheme != "HTTPS" {
        errors.push(field::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in items(&get["httpHeaders"]) {
        check_text(errors, &path.child("httpHeaders"), text(&header["name"]), names::http_header_name);
    }
}
