//! Gives every namespace the ServiceAccount `default`.

use std::time::Duration;

use coracle_client::{Delta, During, Informer, Key, ReconcileError, WorkQueue, is_already_exists};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use crate::{
    context::{self, Context},
    namespaces, pods,
};

pub(crate) const NAME: &str = "serviceaccount";

const ACCOUNT: &str = "default";

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let homes: Informer<Namespace> = context.informers.get();
        let accounts: Informer<ServiceAccount> = context.informers.get();
        let queue = WorkQueue::new();
        let feed = async {
            homes.synced().await;
            accounts.synced().await;
            let mut deltas = accounts.subscribe();
            let lost = async {
                while let Some(delta) = deltas.next().await {
                    if let Delta::Deleted(account) = &delta
                        && pods::name(&account.metadata) == ACCOUNT
                    {
                        queue.add(Key::cluster(pods::namespace(&account.metadata)));
                    }
                }
            };
            tokio::join!(context::feed(homes.subscribe(), &queue), lost);
        };
        let (client, homes, accounts) = (context.client.clone(), homes.clone(), accounts.clone());
        let reconcile = move |key: Key| {
            let (client, homes, accounts) = (client.clone(), homes.clone(), accounts.clone());
            async move {
                let home = homes.get(&key);
                let exists = accounts.get(&Key::new(key.name.clone(), ACCOUNT)).is_some();
                if plan(home.as_deref(), exists) { create(client, &key.name).await } else { Ok(None) }
            }
        };
        context.run(NAME, queue.clone(), 1, feed, reconcile).await;
    })
}

/// True if the account has to be created.
fn plan(home: Option<&Namespace>, exists: bool) -> bool {
    !exists && home.is_some_and(namespaces::is_active)
}

async fn create(client: Client, namespace: &str) -> Result<Option<Duration>, ReconcileError> {
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(ACCOUNT.to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    match Api::namespaced(client, namespace).create(&PostParams::default(), &account).await {
        Err(error) if is_already_exists(&error) || namespaces::is_going(&error) => Ok(None),
        other => other.map(|_| None).during(|| format!("create service account {namespace}/{ACCOUNT}")),
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
    async fn every_namespace_has_an_account() {
        let bench = Bench::start(&[Controller { name: NAME, run }]);
        bench.api.create(&namespace("a"));
        let account = || bench.api.get::<ServiceAccount>("a", ACCOUNT);
        let first = eventually("the account", account).await;
        bench.api.remove::<ServiceAccount>("a", ACCOUNT);
        let second = eventually("another", account).await;
        assert_ne!(first.metadata.uid, second.metadata.uid);
    }

    #[test]
    fn a_namespace_that_goes_gets_none() {
        let mut home = namespace("a");
        assert!(plan(Some(&home), false));
        assert!(!plan(Some(&home), true));
        assert!(!plan(None, false));
        home.metadata.deletion_timestamp = Some(coracle_client::clock::time());
        assert!(!plan(Some(&home), false));
    }
}
