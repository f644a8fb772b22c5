//! What fills the graph: an informer of every kind that is served.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_client::{Delta, Deltas, Informer, Object as Known, WorkQueue, api_message};
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{Client, core::ApiResource};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    apply::Kinds,
    graph::{Graph, Object},
};
use crate::{
    Context,
    discovery::{self, Served},
};

/// How often it is looked whether other kinds are served now. Kubernetes' number.
const REFRESH: Duration = Duration::from_secs(30);

/// How long to wait if discovery fails.
const RETRY: Duration = Duration::from_secs(1);

/// How long the collector waits at its start for kinds that cannot be listed. Kubernetes' number: one kind
/// that is broken must not keep the garbage of all others.
const FIRST_FILL: Duration = Duration::from_secs(30);

/// Takes changes of one kind into the graph until its informer ends; tells when what there was is in.
type Feed = fn(Context, Filler, oneshot::Sender<()>) -> BoxFuture<'static, ()>;

/// Kinds that this process watches with all their fields anyway.
fn known() -> Vec<(ApiResource, Feed)> {
    fn entry<K: Known<DynamicType = ()>>() -> (ApiResource, Feed) {
        let feed: Feed = |context, filler, filled| {
            let informer = context.informers.get::<K>();
            async move { filler.run(&informer, filled).await }.boxed()
        };
        (ApiResource::erase::<K>(&()), feed)
    }
    vec![
        entry::<ConfigMap>(),
        entry::<Endpoints>(),
        entry::<EndpointSlice>(),
        entry::<Lease>(),
        entry::<Namespace>(),
        entry::<Node>(),
        entry::<Pod>(),
        entry::<ReplicationController>(),
        entry::<Service>(),
        entry::<ServiceAccount>(),
    ]
}

/// Fills the graph with objects of one kind.
#[derive(Clone)]
struct Filler {
    served: Arc<Served>,
    graph: Arc<Mutex<Graph>>,
    queue: WorkQueue<String>,
}

impl Filler {
    async fn run<K: Known>(&self, informer: &Informer<K>, filled: oneshot::Sender<()>) {
        informer.synced().await;
        let mut deltas: Deltas<K> = informer.subscribe();
        while let Some(delta) = deltas.try_next() {
            self.take(&delta);
            tokio::task::coop::consume_budget().await;
        }
        // Nobody waits for a kind that is new.
        let _ = filled.send(());
        while let Some(delta) = deltas.next().await {
            self.take(&delta);
        }
    }

    fn take<K: Known>(&self, delta: &Delta<K>) {
        let object = Object::new(&self.served, delta.object().meta());
        let look = match delta {
            Delta::Added(_) | Delta::Updated { .. } => self.graph.lock().put(object),
            Delta::Deleted(_) => self.graph.lock().remove(&object.uid),
        };
        look.into_iter().for_each(|uid| self.queue.add(uid));
    }

    /// The kind is no longer served.
    fn forget(&self) {
        let mut graph = self.graph.lock();
        let look: Vec<_> = graph.of_kind(&self.served).iter().flat_map(|uid| graph.remove(uid)).collect();
        drop(graph);
        look.into_iter().for_each(|uid| self.queue.add(uid));
    }
}

/// The kinds that garbage collection deals with, and the groups of which nothing could be found.
pub(super) async fn served_kinds(client: &Client) -> Result<(Kinds, Vec<String>), kube::Error> {
    let found = discovery::discover(client).await?;
    let concerns = |served: &Served| {
        !served.is_events() && ["list", "watch", "delete"].iter().all(|verb| served.can(verb))
    };
    let served = found.served.into_iter().filter(concerns);
    let named = served
        .map(|served| ((served.resource.group.clone(), served.resource.kind.clone()), Arc::new(served)));
    Ok((named.collect(), found.stale))
}

/// Keeps a feed for every kind that is served; cancels `filled` once the graph has what there is of those
/// that were served at first. Dropping the future ends them.
pub(super) async fn run(
    context: Context,
    graph: Arc<Mutex<Graph>>,
    kinds: Arc<Mutex<Kinds>>,
    queue: WorkQueue<String>,
    filled: CancellationToken,
) {
    let known = known();
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<(String, String), (Filler, AbortHandle)> = BTreeMap::new();
    loop {
        let served = match served_kinds(&context.client).await {
            Ok((served, stale)) if stale.is_empty() => served,
            Ok((_, stale)) => {
                warn!(groups = ?stale, "some groups cannot be discovered");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => {
                warn!(error = %api_message(&error), "kinds cannot be discovered");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        running.retain(|key, (filler, task)| {
            let stays = served.get(key) == Some(&filler.served);
            if !stays {
                task.abort();
                context.informers.drop_metadata(&filler.served.resource);
                filler.forget();
            }
            stays
        });
        let mut filling = Vec::new();
        for (key, served) in &served {
            if running.contains_key(key) {
                continue;
            }
            let filler = Filler { served: served.clone(), graph: graph.clone(), queue: queue.clone() };
            let feed = known.iter().find(|(resource, _)| *resource == served.resource).map(|(_, feed)| *feed);
            let (told, is_filled) = oneshot::channel();
            filling.push(is_filled);
            let task = tasks.spawn(match feed {
                Some(feed) => feed(context.clone(), filler.clone(), told),
                None => {
                    let (informer, filler) = (context.informers.metadata(&served.resource), filler.clone());
                    async move { filler.run(&informer, told).await }.boxed()
                }
            });
            running.insert(key.clone(), (filler, task));
        }
        *kinds.lock() = served;
        if !filled.is_cancelled() {
            if tokio::time::timeout(FIRST_FILL, join_all(filling)).await.is_err() {
                warn!("not every kind could be listed; going on with the others");
            }
            filled.cancel();
        }
        while tasks.try_join_next().is_some() {}
        tokio::time::sleep(REFRESH).await;
    }
}
