//! Resources that are answered and not stored: reviews, and the metrics of nodes and pods.
//!
//! They stand in one table, from which discovery and routes derive, as registered kinds do from theirs.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use coracle_api::status::{Details, Status};
use http::HeaderMap;

use crate::{
    auth::User,
    core::Core,
    options::Parameters,
    request_info::RequestInfo,
    resource_metrics::{self, Question},
    reviews,
};

/// One such resource.
pub(crate) struct Virtual {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) verbs: &'static [&'static str],
    /// If not empty, the resource itself is nothing, and these below its objects are what can be read.
    pub(crate) subresources: &'static [&'static str],
}

const fn review(group: &'static str, kind: &'static str, plural: &'static str) -> Virtual {
    Virtual {
        group,
        version: "v1",
        kind,
        plural,
        singular: "",
        namespaced: false,
        verbs: &["create"],
        subresources: &[],
    }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const METRICS: &str = "metrics.k8s.io";
const READS: &[&str] = &["get", "list"];

/// All of them, in the order of discovery.
pub(crate) static VIRTUALS: &[Virtual] = &[
    review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews"),
    review(AUTHENTICATION, "TokenReview", "tokenreviews"),
    Virtual {
        namespaced: true,
        ..review(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews")
    },
    review(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    review(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
    review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews"),
    Virtual {
        group: METRICS,
        version: "v1beta1",
        kind: "NodeMetrics",
        plural: "nodes",
        singular: "",
        namespaced: false,
        verbs: READS,
        subresources: &[],
    },
    Virtual {
        group: METRICS,
        version: "v1beta1",
        kind: "PodMetrics",
        plural: "pods",
        singular: "",
        namespaced: true,
        verbs: READS,
        subresources: &[],
    },
    Virtual {
        group: "custom.metrics.k8s.io",
        version: "v1beta2",
        kind: "MetricValueList",
        plural: "pods",
        singular: "",
        namespaced: true,
        verbs: &["get"],
        subresources: resource_metrics::CUSTOM,
    },
];

/// The resource that a request is about.
pub(crate) fn find(info: &RequestInfo) -> Option<&'static Virtual> {
    VIRTUALS.iter().find(|v| v.group == info.group && v.version == info.version && v.plural == info.resource)
}

/// Group versions of the table that `known` has not, in order.
pub(crate) fn groups<'a>(mut known: Vec<(&'a str, Vec<&'a str>)>) -> Vec<(&'a str, Vec<&'a str>)> {
    for Virtual { group, version, .. } in VIRTUALS {
        let index = known.iter().position(|(name, _)| name == group).unwrap_or_else(|| {
            known.push((group, Vec::new()));
            known.len() - 1
        });
        if !known[index].1.contains(version) {
            known[index].1.push(version);
        }
    }
    known
}

/// The resources of one group version.
pub(crate) fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Virtual> {
    VIRTUALS.iter().filter(move |v| v.group == group && v.version == version)
}

/// Answers a request for one of them.
pub(crate) async fn respond(
    core: &Arc<Core>,
    user: &User,
    found: &Virtual,
    info: &RequestInfo,
    parameters: &Parameters,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Status> {
    if !found.namespaced && !info.namespace.is_empty() {
        return Err(Status::unknown_path());
    }
    let below = !found.subresources.is_empty();
    if below == info.subresource.is_empty() {
        return Err(Status::unknown_path());
    }
    if !found.verbs.contains(&info.verb.as_str()) {
        return Err(Status::method_not_allowed_path());
    }
    let question = Question { core, info, parameters, headers };
    match found.kind {
        "PodMetrics" => resource_metrics::pods(&question).await,
        "NodeMetrics" => resource_metrics::nodes(&question).await,
        "MetricValueList" => resource_metrics::custom(&question).await,
        review => reviews::create(core, user, review, &info.namespace, headers, body).await,
    }
}

/// 403 for one of them.
pub(crate) fn forbidden(found: &Virtual, name: &str, why: &str) -> Status {
    let resource = format!("{}.{}", found.plural, found.group);
    let subject = if name.is_empty() { resource } else { format!("{resource} {name:?}") };
    let details = Details {
        name: name.to_owned(),
        group: found.group.to_owned(),
        kind: found.plural.to_owned(),
        ..Details::default()
    };
    Status::new(403, "Forbidden", format!("{subject} is forbidden: {why}")).with_details(details)
}
