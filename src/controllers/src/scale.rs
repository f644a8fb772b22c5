//! The `scale` subresource of objects of any kind.

use std::time::Duration;

use coracle_client::is_not_found;
use k8s_openapi::api::autoscaling::v1::Scale;
use kube::{
    Client,
    api::PostParams,
    core::{ApiResource, Request},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::discovery::{self, Served};

/// How long it is believed what the API serves: kinds come and go rarely.
const BELIEVED: Duration = Duration::from_secs(30);

/// Kinds that every API serves: `(group, version, kind, plural)`.
const KNOWN: &[(&str, &str, &str, &str)] = &[
    ("", "v1", "ReplicationController", "replicationcontrollers"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
];

/// Reads and writes scales.
pub(crate) struct Scales {
    client: Client,
    served: Mutex<Option<(Instant, Vec<Served>)>>,
}

impl Scales {
    pub(crate) fn new(client: Client) -> Self {
        Scales { client, served: Mutex::default() }
    }

    /// The resource of a kind; `None` if the API serves no such kind in namespaces. Any version will do.
    pub(crate) async fn resource(
        &self,
        api_version: &str,
        kind: &str,
    ) -> Result<Option<ApiResource>, kube::Error> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let known = KNOWN.iter().find(|(of, _, name, _)| *of == group && *name == kind);
        if let Some((group, version, kind, plural)) = known {
            let api_version =
                if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
            return Ok(Some(ApiResource {
                group: (*group).to_owned(),
                version: (*version).to_owned(),
                api_version,
                kind: (*kind).to_owned(),
                plural: (*plural).to_owned(),
            }));
        }
        let find = |served: &[Served]| {
            let all = served.iter().filter(|served| served.namespaced).map(|served| &served.resource);
            all.into_iter().find(|resource| resource.group == group && resource.kind == kind).cloned()
        };
        let fresh = match &*self.served.lock() {
            Some((when, served)) if when.elapsed() < BELIEVED => Some(find(served)),
            _ => None,
        };
        if let Some(found) = fresh {
            return Ok(found);
        }
        let served = discovery::discover(&self.client).await?.served;
        let found = find(&served);
        *self.served.lock() = Some((Instant::now(), served));
        Ok(found)
    }

    /// The scale of an object; `None` if there is no such object, or its kind has no scale.
    pub(crate) async fn get(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Scale>, kube::Error> {
        let request = Request::new(path(resource, namespace))
            .get_subresource("scale", name)
            .map_err(kube::Error::BuildRequest)?;
        match self.client.request(request).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Changes the scale of an object. A scale that is not the newest is a conflict.
    pub(crate) async fn set(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        scale: &Scale,
    ) -> Result<Scale, kube::Error> {
        let body = serde_json::to_vec(scale).expect("a scale is serialisable");
        let request = Request::new(path(resource, namespace))
            .replace_subresource("scale", name, &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)?;
        self.client.request(request).await
    }
}

/// The resource as messages name it: `deployments.apps`, or `pods`.
pub(crate) fn dotted(resource: &ApiResource) -> String {
    match resource.group.as_str() {
        "" => resource.plural.clone(),
        group => format!("{}.{group}", resource.plural),
    }
}

fn path(resource: &ApiResource, namespace: &str) -> String {
    let root = if resource.group.is_empty() { "/api" } else { "/apis" };
    format!("{root}/{}/namespaces/{namespace}/{}", resource.api_version, resource.plural)
}
