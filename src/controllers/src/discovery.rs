//! What the API serves, for controllers that deal with every kind.

use std::collections::BTreeMap;

use kube::{Client, client::APIGroupDiscovery, core::ApiResource};

/// A kind that is served, in its preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
}

/// What was found, and the groups of which nothing could be found.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) served: Vec<Served>,
    pub(crate) stale: Vec<String>,
}

impl Served {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// As errors and conditions name it: `pods.` or `leases.coordination.k8s.io`.
    pub(crate) fn dotted(&self) -> String {
        format!("{}.{}", self.resource.plural, self.resource.group)
    }

    /// True for events, which come and go on their own and own nothing.
    pub(crate) fn is_events(&self) -> bool {
        self.resource.plural == "events" && matches!(self.resource.group.as_str(), "" | "events.k8s.io")
    }
}

/// Asks the API what it serves.
pub(crate) async fn discover(client: &Client) -> Result<Discovered, kube::Error> {
    let core = client.list_core_api_versions_aggregated().await?;
    let groups = client.list_api_groups_aggregated().await?;
    let mut found = Discovered::default();
    for group in core.items.into_iter().chain(groups.items) {
        take(group, &mut found);
    }
    Ok(found)
}

/// Each resource once, in the first version that has it: versions come in the order of preference.
fn take(group: APIGroupDiscovery, found: &mut Discovered) {
    let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
    let mut resources: BTreeMap<String, Served> = BTreeMap::new();
    for version in group.versions {
        let number = version.version.unwrap_or_default();
        let api_version = if name.is_empty() { number.clone() } else { format!("{name}/{number}") };
        if version.freshness.as_deref() == Some("Stale") {
            found.stale.push(api_version);
            continue;
        }
        for resource in version.resources {
            let plural = resource.resource.unwrap_or_default();
            let kind = resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default();
            resources.entry(plural.clone()).or_insert_with(|| Served {
                resource: ApiResource {
                    group: name.clone(),
                    version: number.clone(),
                    api_version: api_version.clone(),
                    kind,
                    plural,
                },
                namespaced: resource.scope.as_deref() == Some("Namespaced"),
                verbs: resource.verbs,
            });
        }
    }
    found.served.extend(resources.into_values());
}
