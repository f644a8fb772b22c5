//! Feeds the fabric with Services and EndpointSlices as they change.

use std::sync::Arc;

use coracle_client::{Delta, Informers, Key};
use coracle_network::Fabric;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

/// Until the informers end.
pub(crate) async fn run(informers: Informers, fabric: Arc<Fabric>) {
    let mut services = informers.get::<Service>().subscribe();
    let mut slices = informers.get::<EndpointSlice>().subscribe();
    loop {
        tokio::select! {
            delta = services.next() => match delta {
                None => return,
                Some(Delta::Added(service) | Delta::Updated { new: service, .. }) => fabric.apply_service(&service),
                Some(Delta::Deleted(service)) => {
                    let key = Key::of(&service.metadata);
                    fabric.remove_service(&key.namespace, &key.name);
                }
            },
            delta = slices.next() => match delta {
                None => return,
                Some(Delta::Added(slice) | Delta::Updated { new: slice, .. }) => fabric.apply_slice(&slice),
                Some(Delta::Deleted(slice)) => {
                    let key = Key::of(&slice.metadata);
                    fabric.remove_slice(&key.namespace, &key.name);
                }
            },
        }
    }
}
