//! How many pods the owners of pods are meant to have.

use std::{collections::BTreeMap, sync::Arc};

use coracle_client::{Informer, Informers, Key};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::Client;

use super::plan::Expected;
use crate::{
    pods,
    scale::{self, Scales},
};

/// Knows the owners that come with Kubernetes, and asks for the scale of all others.
pub(super) struct Owners {
    controllers: Informer<ReplicationController>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    scales: Scales,
}

/// An owner and how many pods it is meant to have.
struct Counted {
    uid: String,
    pods: i64,
}

impl Owners {
    pub(super) fn new(client: Client, informers: &Informers) -> Self {
        Owners {
            controllers: informers.get(),
            sets: informers.get(),
            deployments: informers.get(),
            stateful: informers.get(),
            scales: Scales::new(client),
        }
    }

    pub(super) async fn synced(&self) {
        self.controllers.synced().await;
        self.sets.synced().await;
        self.deployments.synced().await;
        self.stateful.synced().await;
    }

    /// The sum over all owners of the pods, each counted once.
    ///
    /// # Errors
    /// An owner cannot be counted; the text says why.
    pub(super) async fn expected(&self, all: &[Arc<Pod>]) -> Result<Expected, String> {
        let mut counted: BTreeMap<String, i64> = BTreeMap::new();
        let mut seen: Vec<&str> = Vec::new();
        let mut unmanaged = false;
        for pod in all {
            let Some(owner) = pods::controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            if seen.contains(&owner.uid.as_str()) {
                continue;
            }
            seen.push(&owner.uid);
            let found = self.count(pods::namespace(&pod.metadata), owner).await?;
            let Some(Counted { uid, pods }) = found else {
                return Err(format!("found no controllers for pod {:?}", pods::name(&pod.metadata)));
            };
            counted.insert(uid, pods);
        }
        let pods = counted.values().fold(0_i64, |sum, pods| sum.saturating_add(*pods));
        Ok(Expected { pods, unmanaged })
    }

    async fn count(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<Counted>, String> {
        let key = Key::new(namespace, owner.name.clone());
        let counted = |uid: &Option<String>, replicas: Option<i32>| {
            let uid = uid.clone().unwrap_or_default();
            Counted { uid, pods: i64::from(replicas.unwrap_or(1)) }
        };
        let same = |uid: &Option<String>| uid.as_ref() == Some(&owner.uid);
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let found = self.controllers.get(&key).filter(|found| same(&found.metadata.uid));
                Ok(found.map(|found| {
                    counted(&found.metadata.uid, found.spec.as_ref().and_then(|spec| spec.replicas))
                }))
            }
            ("apps", "ReplicaSet") => {
                let Some(set) = self.sets.get(&key).filter(|found| same(&found.metadata.uid)) else {
                    return Ok(None);
                };
                if let Some(deployment) = self.deployment_of(namespace, &set) {
                    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
                    return Ok(Some(counted(&deployment.metadata.uid, replicas)));
                }
                Ok(Some(counted(&set.metadata.uid, set.spec.as_ref().and_then(|spec| spec.replicas))))
            }
            ("apps", "StatefulSet") => {
                let found = self.stateful.get(&key).filter(|found| same(&found.metadata.uid));
                Ok(found.map(|found| {
                    counted(&found.metadata.uid, found.spec.as_ref().and_then(|spec| spec.replicas))
                }))
            }
            _ => self.ask(namespace, owner).await,
        }
    }

    fn deployment_of(&self, namespace: &str, set: &ReplicaSet) -> Option<Arc<Deployment>> {
        let owner = pods::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
        let found = self.deployments.get(&Key::new(namespace, owner.name.clone()))?;
        (found.metadata.uid.as_ref() == Some(&owner.uid)).then_some(found)
    }

    async fn ask(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<Counted>, String> {
        let told = |error: kube::Error| coracle_client::api_message(&error);
        let resource = self.scales.resource(&owner.api_version, &owner.kind).await.map_err(told)?;
        let Some(resource) = resource else { return Ok(None) };
        let scale = self.scales.get(&resource, namespace, &owner.name).await.map_err(told)?;
        let Some(scale) = scale else {
            let dotted = scale::dotted(&resource);
            return Err(format!("{dotted} does not implement the scale subresource"));
        };
        if scale.metadata.uid.as_ref() != Some(&owner.uid) {
            return Ok(None);
        }
        let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        Ok(Some(Counted { uid: owner.uid.clone(), pods: i64::from(replicas) }))
    }
}
