//! What is used stays until it is not.

use coracle_client::test_support::eventually;
use k8s_openapi::api::core::v1::PersistentVolumeStatus;
use kube::api::DeleteParams;

use super::*;
use crate::{
    Controller as Registered,
    testing::{self, Bench, meta, pod, run_on},
};

fn protected(name: &str, finalizer: &str) -> ObjectMeta {
    ObjectMeta { finalizers: Some(vec![finalizer.to_owned()]), ..meta(name) }
}

#[tokio::test(start_paused = true)]
async fn a_claim_stays_as_long_as_a_pod_uses_it() {
    let bench = Bench::start(&[Registered { name: NAME, run }]);
    let api = &bench.api;
    api.create(&PersistentVolumeClaim { metadata: protected("data", CLAIM_FINALIZER), ..Default::default() });
    let mut user = pod("p");
    run_on(&mut user, "n", "10.0.0.1", true);
    testing::claim(&mut user, "data");
    api.create(&user);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(api.client(), "ns");
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(api.get::<PersistentVolumeClaim>("ns", "data").is_some());
    api.edit("ns", "p", |pod: &mut Pod| pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned()));
    eventually("it goes", || api.get::<PersistentVolumeClaim>("ns", "data").is_none().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_stays_as_long_as_it_is_bound() {
    let bench = Bench::start(&[Registered { name: NAME, run }]);
    let api = &bench.api;
    let metadata = ObjectMeta { namespace: None, ..protected("v", VOLUME_FINALIZER) };
    let phase = |phase: &str| {
        Some(PersistentVolumeStatus { phase: Some(phase.to_owned()), ..PersistentVolumeStatus::default() })
    };
    api.create(&PersistentVolume { metadata, spec: None, status: phase("Bound") });
    let volumes: Api<PersistentVolume> = Api::all(api.client());
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(api.get::<PersistentVolume>("", "v").is_some());
    api.edit("", "v", |volume: &mut PersistentVolume| volume.status = phase("Released"));
    eventually("it goes", || api.get::<PersistentVolume>("", "v").is_none().then_some(())).await;
}
