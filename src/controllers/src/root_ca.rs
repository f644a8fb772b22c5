//! Publishes the cluster's CA in every namespace as the ConfigMap `kube-root-ca.crt`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_client::{
    Deltas, During, Informer, Key, ReconcileError, WorkQueue, is_already_exists, is_not_found,
};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use crate::{
    context::{self, Context},
    namespaces, pods,
};

pub(crate) const NAME: &str = "root-ca";

const MAP: &str = "kube-root-ca.crt";
const ENTRY: &str = "ca.crt";

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let homes: Informer<Namespace> = context.informers.get();
        let maps: Informer<ConfigMap> = context.informers.get();
        let publisher = Arc::new(Publisher {
            client: context.client.clone(),
            ca: context.config.ca_pem.clone(),
            homes: homes.clone(),
            maps: maps.clone(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            homes.synced().await;
            maps.synced().await;
            tokio::join!(context::feed(homes.subscribe(), &queue), feed_maps(maps.subscribe(), &queue));
        };
        let reconcile =
            context::shared(&publisher, |publisher, key| async move { publisher.reconcile(key).await });
        context.run(NAME, queue.clone(), 1, feed, reconcile).await;
    })
}

async fn feed_maps(mut deltas: Deltas<ConfigMap>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let meta = &delta.object().metadata;
        if pods::name(meta) == MAP {
            queue.add(Key::cluster(pods::namespace(meta)));
        }
    }
}

struct Publisher {
    client: Client,
    ca: String,
    homes: Informer<Namespace>,
    maps: Informer<ConfigMap>,
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Create,
    Repair,
}

fn plan(home: Option<&Namespace>, map: Option<&ConfigMap>, ca: &str) -> Plan {
    match map {
        _ if !home.is_some_and(namespaces::is_active) => Plan::Nothing,
        None => Plan::Create,
        Some(map) if map.data.as_ref().and_then(|data| data.get(ENTRY)).is_none_or(|entry| entry != ca) => {
            Plan::Repair
        }
        Some(_) => Plan::Nothing,
    }
}

impl Publisher {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let home = self.homes.get(&key);
        let map = self.maps.get(&Key::new(key.name.clone(), MAP));
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.name);
        let data = BTreeMap::from([(ENTRY.to_owned(), self.ca.clone())]);
        let outcome = match plan(home.as_deref(), map.as_deref(), &self.ca) {
            Plan::Nothing => return Ok(None),
            Plan::Create => {
                let metadata = ObjectMeta { name: Some(MAP.to_owned()), ..ObjectMeta::default() };
                let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                api.create(&PostParams::default(), &map).await
            }
            Plan::Repair => {
                let mut map = map.map(Arc::unwrap_or_clone).unwrap_or_default();
                map.data = Some(data);
                api.replace(MAP, &PostParams::default(), &map).await
            }
        };
        match outcome {
            Err(error)
                if is_already_exists(&error) || is_not_found(&error) || namespaces::is_going(&error) =>
            {
                Ok(None)
            }
            other => other.map(|_| None).during(|| format!("publish the CA in {}", key.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::test_support::eventually;

    use super::*;
    use crate::{
        Controller,
        testing::{Bench, namespace},
    };

    #[tokio::test(start_paused = true)]
    async fn the_ca_is_published_and_repaired() {
        let bench = Bench::start(&[Controller { name: NAME, run }]);
        bench.api.create(&namespace("a"));
        let published = || {
            let map = bench.api.get::<ConfigMap>("a", MAP)?;
            (map.data?.get(ENTRY)? == "the CA").then_some(())
        };
        eventually("the CA", published).await;
        bench.api.edit("a", MAP, |map: &mut ConfigMap| map.data = None);
        eventually("the CA again", published).await;
        bench.api.remove::<ConfigMap>("a", MAP);
        eventually("the CA once more", published).await;
    }
}
