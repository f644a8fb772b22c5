//! Horizontal pod autoscalers: every 15 seconds, as many pods as the metrics ask for.
//!
//! ```text
//!  scale ──▶ metrics ──▶ calculate ──▶ stabilise, limit ──▶ scale ──▶ status
//! ```
//! `calculate` turns readings into proposals, `behavior` holds them back, `plan` puts both together and
//! says why. What was recommended and done lately is remembered in the process, as in Kubernetes.

mod behavior;
mod calculate;
mod metrics;
mod plan;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use behavior::Memory;
use coracle_api::selector::LabelSelector;
use coracle_client::{
    Delta, Deltas, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, api_message, clock,
};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::{
        autoscaling::{
            v1::{Scale, ScaleSpec},
            v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus},
        },
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Client, core::ApiResource};
use metrics::{Metrics, Reading};
use parking_lot::Mutex;
use plan::{Observed, Plan};

use crate::{
    context::{self, Context},
    podcontrol, pods,
    scale::{self, Scales},
};

pub(crate) const NAME: &str = "horizontalpodautoscaling";

/// Autoscalers computed at the same time. Kubernetes' default.
const WORKERS: usize = 5;

/// How often each is looked at. Kubernetes' default.
const PERIOD: Duration = Duration::from_secs(15);

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let scalers: Informer<HorizontalPodAutoscaler> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("horizontal-pod-autoscaler"),
            scalers: scalers.clone(),
            pods: pods.clone(),
            scales: Scales::new(context.client.clone()),
            metrics: Metrics { client: context.client.clone() },
            memory: Mutex::default(),
            selectors: Mutex::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            scalers.synced().await;
            pods.synced().await;
            feed_scalers(scalers.subscribe(), &queue).await;
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Queues autoscalers that are new or were changed; their own status changes nothing.
async fn feed_scalers(mut deltas: Deltas<HorizontalPodAutoscaler>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let same = match &delta {
            Delta::Updated { old, new } => old.spec == new.spec,
            Delta::Added(_) | Delta::Deleted(_) => false,
        };
        if !same {
            queue.add(Key::of(&delta.object().metadata));
        }
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    scalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    scales: Scales,
    metrics: Metrics,
    /// Taken out while the key is reconciled, which one worker does at a time.
    memory: Mutex<HashMap<Key, (String, Memory)>>,
    /// Which pods each autoscaler's target had when it was looked at last.
    selectors: Mutex<BTreeMap<Key, LabelSelector>>,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let remembered = self.memory.lock().remove(&key);
        let Some(scaler) = self.scalers.get(&key) else {
            self.selectors.lock().remove(&key);
            return Ok(None);
        };
        let uid = pods::uid(&scaler.metadata).to_owned();
        let mut memory =
            remembered.filter(|(of, _)| *of == uid).map(|(_, memory)| memory).unwrap_or_default();
        let status = self.look(&key, &scaler, &mut memory).await;
        self.memory.lock().insert(key.clone(), (uid, memory));
        if let Some(status) = status {
            self.write_status(&scaler, status).await?;
        }
        Ok(Some(PERIOD))
    }

    /// Looks at the target and scales it. Answers the new status.
    async fn look(
        &self,
        key: &Key,
        scaler: &HorizontalPodAutoscaler,
        memory: &mut Memory,
    ) -> Option<HorizontalPodAutoscalerStatus> {
        let spec = scaler.spec.as_ref()?;
        let target = &spec.scale_target_ref;
        let (resource, scale) = match self.target(key, scaler).await {
            Ok(found) => found,
            Err(why) => {
                self.selectors.lock().remove(key);
                self.tell(scaler, EventType::Warning, "FailedGetScale", &why);
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {why}");
                let mut status = scaler.status.clone().unwrap_or_default();
                status::set(&mut status, "AbleToScale", false, "FailedGetScale", &message, clock::now());
                return Some(status);
            }
        };
        let selector = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        let (selected, owners) = self.selected(key, &selector);
        let mut readings: Vec<Result<Reading, String>> = Vec::new();
        if plan::is_measured(spec, &scale) && !selector.is_empty() && owners.len() < 2 {
            for metric in spec.metrics.iter().flatten() {
                readings.push(self.metrics.read(&self.scales, &key.namespace, &selector, metric).await);
            }
        }
        let observed =
            Observed { scaler, spec, scale: &scale, pods: &selected, owners: &owners, readings: &readings };
        let now = clock::now();
        let Plan { mut status, events, rescale } = plan::plan(&observed, memory, now);
        for (type_, reason, message) in &events {
            self.tell(scaler, *type_, reason, message);
        }
        let Some((desired, reason)) = rescale else { return Some(status) };
        let current = plan::replicas(&scale);
        let wanted = Scale { spec: Some(ScaleSpec { replicas: Some(desired) }), ..scale };
        match self.scales.set(&resource, &key.namespace, &target.name, &wanted).await {
            Ok(_) => {
                let message = format!("the HPA controller was able to update the target scale to {desired}");
                status::set(&mut status, "AbleToScale", true, "SucceededRescale", &message, now);
                status.last_scale_time = Some(Time(clock::seconds(now)));
                memory.scaled(desired.saturating_sub(current), now);
                let message = format!("New size: {desired}; reason: {reason}");
                self.tell(scaler, EventType::Normal, "SuccessfulRescale", &message);
            }
            Err(error) => {
                let error = api_message(&error);
                let message = format!("New size: {desired}; reason: {reason}; error: {error}");
                self.tell(scaler, EventType::Warning, "FailedRescale", &message);
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                status::set(&mut status, "AbleToScale", false, "FailedUpdateScale", &message, now);
                status.desired_replicas = current;
            }
        }
        Some(status)
    }

    /// The target's resource and scale.
    async fn target(
        &self,
        key: &Key,
        scaler: &HorizontalPodAutoscaler,
    ) -> Result<(ApiResource, Scale), String> {
        let spec = scaler.spec.as_ref().ok_or("no spec")?;
        let target = &spec.scale_target_ref;
        let api_version = target.api_version.as_deref().unwrap_or("v1");
        let told = |error: kube::Error| api_message(&error);
        let resource = self.scales.resource(api_version, &target.kind).await.map_err(told)?;
        let missing = || {
            let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
            format!("no matches for kind {:?} in group {group:?}", target.kind)
        };
        let resource = resource.ok_or_else(missing)?;
        let scale = self.scales.get(&resource, &key.namespace, &target.name).await.map_err(told)?;
        let not_found = || format!("{} {:?} not found", scale::dotted(&resource), target.name);
        let scale = scale.ok_or_else(not_found)?;
        Ok((resource, scale))
    }

    /// The pods of the target, and the autoscalers that have any of them for theirs.
    fn selected(&self, key: &Key, selector: &str) -> (Vec<Arc<Pod>>, Vec<Key>) {
        // None at all would select every pod there is, and so be in the way of all others.
        let selector = LabelSelector::parse(selector).ok().filter(|_| !selector.is_empty());
        let Some(selector) = selector else {
            self.selectors.lock().remove(key);
            return Default::default();
        };
        let mut found = self.pods.list_namespace(&key.namespace);
        found.retain(|pod| selector.matches(&pod.metadata.labels.as_ref()));
        let mut selectors = self.selectors.lock();
        selectors.insert(key.clone(), selector);
        let owns = |(owner, selector): &(&Key, &LabelSelector)| {
            owner.namespace == key.namespace
                && found.iter().any(|pod| selector.matches(&pod.metadata.labels.as_ref()))
        };
        let owners = selectors.iter().filter(owns).map(|(owner, _)| owner.clone()).collect();
        drop(selectors);
        (found, owners)
    }

    async fn write_status(
        &self,
        scaler: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), ReconcileError> {
        if scaler.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = HorizontalPodAutoscaler { status: Some(status), ..scaler.clone() };
        context::replace_status(&self.client, &changed).await
    }

    fn tell(&self, scaler: &HorizontalPodAutoscaler, type_: EventType, reason: &str, message: &str) {
        self.recorder.event(&podcontrol::reference(scaler), type_, reason, message);
    }
}
