//! Service account tokens of pods: asked for before a volume shows them, renewed before they end.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use crate::handle::PodHandle;
use bytes::Bytes;
use coracle_client::{Key, api_message, clock, random};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus},
    core::v1::{Pod, ServiceAccountTokenProjection},
};
use k8s_openapi::jiff::Timestamp;
use kube::{Client, api::PostParams, core::Request};
use parking_lot::Mutex;

/// How often tokens are looked at.
const LOOK: Duration = Duration::from_secs(30);
/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A token is renewed when this part of its life is over, in percent. Kubernetes' number.
const RENEW_PERCENT: u32 = 80;
/// The life of a token whose volume does not say. Kubernetes' default.
const DEFAULT_SECONDS: i64 = 3600;

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Purpose {
    pod: String,
    audience: String,
    seconds: i64,
}

struct Held {
    token: Bytes,
    /// Wall time: a machine that slept wakes up with tokens that have ended.
    renew_at: Timestamp,
    account: Key,
    pod: Weak<PodHandle>,
}

/// The tokens of this node's pods.
pub(crate) struct Tokens {
    client: Client,
    held: Mutex<HashMap<Purpose, Held>>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Tokens {
        Tokens { client, held: Mutex::default() }
    }

    /// Asks for every token that the pod's volumes show and that is not there yet.
    pub(crate) async fn obtain(&self, handle: &Arc<PodHandle>, pod: &Pod) -> Result<(), String> {
        for wanted in wanted(pod) {
            let purpose = purpose(handle.uid(), wanted);
            let now = clock::now();
            if self.held.lock().get(&purpose).is_some_and(|held| now < held.renew_at) {
                continue;
            }
            let account = account(pod);
            let (token, life) = self.request(&purpose, &account, handle).await?;
            let pod = Arc::downgrade(handle);
            let held = Held { token, renew_at: renew_at(life), account, pod };
            self.held.lock().insert(purpose, held);
        }
        Ok(())
    }

    /// The token for a projection, if it was obtained.
    pub(crate) fn get(&self, pod: &str, projection: &ServiceAccountTokenProjection) -> Option<Bytes> {
        self.held.lock().get(&purpose(pod, projection)).map(|held| held.token.clone())
    }

    /// Renews tokens for ever, and forgets those of pods that are gone.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = clock::now();
            let due: Vec<(Purpose, Key, Arc<PodHandle>)> = {
                let mut held = self.held.lock();
                held.retain(|_, held| held.pod.strong_count() > 0);
                let due = held.iter().filter(|(_, held)| held.renew_at <= now);
                due.filter_map(|(purpose, held)| {
                    Some((purpose.clone(), held.account.clone(), held.pod.upgrade()?))
                })
                .collect()
            };
            for (purpose, account, handle) in due {
                match self.request(&purpose, &account, &handle).await {
                    Ok((token, life)) => {
                        if let Some(held) = self.held.lock().get_mut(&purpose) {
                            held.token = token;
                            held.renew_at = renew_at(life);
                        }
                        handle.sources_changed();
                    }
                    Err(error) => tracing::debug!(pod = %handle.key(), error, "a token was not renewed yet"),
                }
            }
        }
    }

    async fn request(
        &self,
        purpose: &Purpose,
        account: &Key,
        handle: &PodHandle,
    ) -> Result<(Bytes, Duration), String> {
        let audiences = Some(purpose.audience.clone()).filter(|audience| !audience.is_empty());
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audiences.into_iter().collect(),
                expiration_seconds: Some(purpose.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(handle.key().name.clone()),
                    uid: Some(purpose.pod.clone()),
                }),
            },
            ..TokenRequest::default()
        };
        let failed = |error: &kube::Error| format!("failed to fetch token: {}", api_message(error));
        let body = serde_json::to_vec(&request).expect("a token request is serialisable");
        let path = format!("/api/v1/namespaces/{}/serviceaccounts", account.namespace);
        let request = Request::new(path)
            .create_subresource("token", &account.name, &PostParams::default(), body)
            .map_err(|error| failed(&kube::Error::BuildRequest(error)))?;
        let answer = tokio::time::timeout(PATIENCE, self.client.request::<TokenRequest>(request)).await;
        let answer = answer.map_err(|_| "failed to fetch token: the API server does not answer")?;
        let answer = answer.map_err(|error| failed(&error))?;
        let answer = answer.status.ok_or("failed to fetch token: the answer holds none")?;
        let TokenRequestStatus { token, expiration_timestamp } = answer;
        let life = expiration_timestamp.0.duration_since(clock::now());
        Ok((token.into(), life.try_into().unwrap_or(Duration::ZERO)))
    }
}

/// The tokens that a pod's volumes show.
fn wanted(pod: &Pod) -> impl Iterator<Item = &ServiceAccountTokenProjection> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let parts =
        volumes.filter_map(|volume| volume.projected.as_ref()).flat_map(|all| all.sources.iter().flatten());
    parts.filter_map(|part| part.service_account_token.as_ref())
}

fn purpose(pod: &str, projection: &ServiceAccountTokenProjection) -> Purpose {
    Purpose {
        pod: pod.to_owned(),
        audience: projection.audience.clone().unwrap_or_default(),
        seconds: projection.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
    }
}

fn account(pod: &Pod) -> Key {
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
    Key::new(pod.metadata.namespace.clone().unwrap_or_default(), name)
}

/// Tokens that were made together are not renewed together.
fn renew_at(life: Duration) -> Timestamp {
    let early = Duration::from_secs(random::below(10));
    let wait = (life * RENEW_PERCENT / 100).saturating_sub(early);
    clock::now().checked_add(wait).unwrap_or(Timestamp::MAX)
}
