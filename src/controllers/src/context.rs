//! What every controller is given, and how its loop is put together.

use std::{fmt::Display, hash::Hash, sync::Arc, time::Duration};

use coracle_client::{
    Deltas, During, Informer, Informers, Key, Object, ReconcileError, Recorder, WorkQueue, is_not_found,
    run_workers,
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{Config, claim::Namespaced};

/// How often everything is looked at although nothing changed: a safety net for wake-ups that were lost
/// because a controller fell thousands of changes behind. Finding nothing to do costs next to nothing.
const RESYNC: Duration = Duration::from_mins(10);

/// Queues every object of a kind now and then, for ever.
pub(crate) async fn resync<K: Object>(informer: &Informer<K>, queue: &WorkQueue<Key>) {
    loop {
        tokio::time::sleep(RESYNC).await;
        for object in informer.list() {
            queue.add(Key::of(object.meta()));
        }
    }
}

/// Queues every object that changes.
pub(crate) async fn feed<K: Object>(mut deltas: Deltas<K>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        queue.add(Key::of(delta.object().meta()));
    }
}

/// Writes the status that `changed` has. An object that is gone needs none.
pub(crate) async fn replace_status<K: Namespaced + Serialize>(
    client: &Client,
    changed: &K,
) -> Result<(), ReconcileError> {
    let key = Key::of(changed.meta());
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    match api.replace_status(&key.name, &PostParams::default(), changed).await {
        Err(error) if is_not_found(&error) => Ok(()),
        other => other.map(|_| ()).during(|| format!("write the status of {} {key}", K::kind(&()))),
    }
}

/// What reconciles keys with a controller that all workers share: for [`Context::run`].
pub(crate) fn shared<C, K, R>(
    controller: &Arc<C>,
    reconcile: fn(Arc<C>, K) -> R,
) -> impl Fn(K) -> R + Send + Sync + use<C, K, R>
where
    C: Send + Sync,
{
    let controller = controller.clone();
    move |key| reconcile(controller.clone(), key)
}

/// What every controller is given. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) config: Arc<Config>,
    pub(crate) stop: CancellationToken,
    pub(crate) recorders: Recorders,
}

/// The recorders of all controllers, so that the last events are written at shutdown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorders(Arc<Mutex<Vec<Recorder>>>);

impl Recorders {
    pub(crate) async fn shutdown(&self) {
        let all = std::mem::take(&mut *self.0.lock());
        futures::future::join_all(all.iter().map(Recorder::shutdown)).await;
    }
}

impl Context {
    pub(crate) fn new(client: Client, informers: Informers, config: Config, stop: CancellationToken) -> Self {
        Context { client, informers, config: Arc::new(config), stop, recorders: Recorders::default() }
    }

    /// A recorder of events whose source is `component`.
    pub(crate) fn recorder(&self, component: &str) -> Recorder {
        let recorder = Recorder::new(self.client.clone(), component, "");
        self.recorders.0.lock().push(recorder.clone());
        recorder
    }

    /// Runs a loop: `feed` turns changes into keys of `queue` while workers reconcile them. Returns after
    /// shutdown, when what was under way has ended. `feed` may end early.
    pub(crate) async fn run<K, F, R>(
        &self,
        name: &'static str,
        queue: WorkQueue<K>,
        workers: usize,
        feed: impl Future<Output = ()> + Send,
        reconcile: F,
    ) where
        K: Eq + Hash + Clone + Display + Send + Sync + 'static,
        F: Fn(K) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Option<Duration>, ReconcileError>> + Send + 'static,
    {
        let feeding = async {
            self.stop.run_until_cancelled(feed).await;
            self.stop.cancelled().await;
            queue.shutdown();
        };
        tokio::join!(feeding, run_workers(name, queue.clone(), workers, reconcile));
    }
}
