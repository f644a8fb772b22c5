//! Reads what the metrics APIs say: resources of pods, metrics of pods and objects, and of the outside.

use std::collections::BTreeMap;

use coracle_api::Quantity;
use coracle_client::{api_message, clock, is_not_found};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::autoscaling::v2::{MetricIdentifier, MetricSpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::Client;
use serde::{Deserialize, de::DeserializeOwned};

use super::calculate::{Sample, Samples};
use crate::scale::{self, Scales};

/// What a metric was read as.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    /// By pod.
    Pods(Samples),
    /// Of one thing, in thousandths.
    One(i64),
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Option<Timestamp>,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    #[serde(default)]
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Named,
    timestamp: Option<Timestamp>,
    window_seconds: Option<i64>,
    value: String,
}

#[derive(Deserialize)]
struct ExternalValue {
    value: String,
}

/// A client of the metrics APIs.
pub(super) struct Metrics {
    pub(super) client: Client,
}

impl Metrics {
    /// Reads a metric of the pods that `selector` (as text) selects, or of what the metric names.
    ///
    /// # Errors
    /// In the words that events and conditions carry.
    pub(super) async fn read(
        &self,
        scales: &Scales,
        namespace: &str,
        selector: &str,
        metric: &MetricSpec,
    ) -> Result<Reading, String> {
        if let Some(resource) = &metric.resource {
            return self.resource(namespace, selector, &resource.name, None).await;
        }
        if let Some(resource) = &metric.container_resource {
            let container = Some(resource.container.as_str());
            return self.resource(namespace, selector, &resource.name, container).await;
        }
        if let Some(pods) = &metric.pods {
            return self.pods(namespace, selector, &pods.metric).await;
        }
        if let Some(object) = &metric.object {
            let of = &object.described_object;
            let resource = scales
                .resource(of.api_version.as_deref().unwrap_or("v1"), &of.kind)
                .await
                .map_err(|error| unable(&object.metric.name, &api_message(&error)))?;
            let plural = resource.map_or_else(|| of.kind.to_lowercase(), |resource| scale::dotted(&resource));
            let path = format!("{plural}/{}/{}", segment(&of.name), segment(&object.metric.name));
            let values = self.custom(namespace, &path, "", &object.metric).await?;
            let value = values.items.first().map(|value| milli(&value.value));
            return value
                .map(Reading::One)
                .ok_or_else(|| unable(&object.metric.name, "no metrics returned from custom metrics API"));
        }
        if let Some(external) = &metric.external {
            return self.external(namespace, &external.metric).await;
        }
        Err(format!("unknown metric source type {:?}", metric.type_))
    }

    async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<Reading, String> {
        let told = |why: &str| format!("unable to get metrics for resource {resource}: {why}");
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
            segment(selector)
        );
        let list: List<PodMetrics> = self
            .get(&path)
            .await
            .map_err(|why| told(&format!("unable to fetch metrics from resource metrics API: {why}")))?;
        if list.items.is_empty() {
            return Err(told("no metrics returned from resource metrics API"));
        }
        let mut samples = Samples::new();
        for pod in list.items {
            let mut containers = pod.containers.iter();
            let sum = match container {
                Some(name) => containers
                    .find(|container| container.name == name)
                    .and_then(|container| container.usage.get(resource))
                    .map(|text| milli(text)),
                None if pod.containers.is_empty() => None,
                // One that lacks a container says nothing of the pod.
                None => containers.try_fold(0_i64, |sum, container| {
                    container.usage.get(resource).map(|text| sum.saturating_add(milli(text)))
                }),
            };
            let Some(value) = sum else { continue };
            let window = window(&pod.window);
            let at = pod.timestamp.unwrap_or_else(clock::now);
            samples.insert(pod.metadata.name, Sample { value, at, window });
        }
        Ok(Reading::Pods(samples))
    }

    async fn pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &MetricIdentifier,
    ) -> Result<Reading, String> {
        let path = format!("pods/*/{}", segment(&metric.name));
        let list = self.custom(namespace, &path, selector, metric).await?;
        if list.items.is_empty() {
            return Err(unable(&metric.name, "no metrics returned from custom metrics API"));
        }
        let sample = |value: &MetricValue| Sample {
            value: milli(&value.value),
            at: value.timestamp.unwrap_or_else(clock::now),
            window: SignedDuration::from_secs(value.window_seconds.unwrap_or(60)),
        };
        let samples = list.items.iter().map(|value| (value.described_object.name.clone(), sample(value)));
        Ok(Reading::Pods(samples.collect()))
    }

    async fn custom(
        &self,
        namespace: &str,
        path: &str,
        selector: &str,
        metric: &MetricIdentifier,
    ) -> Result<List<MetricValue>, String> {
        let mut query = vec![format!("metricLabelSelector={}", segment(&selector_text(metric)))];
        if !selector.is_empty() {
            query.push(format!("labelSelector={}", segment(selector)));
        }
        let path =
            format!("/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/{path}?{}", query.join("&"));
        self.get(&path).await.map_err(|why| {
            unable(&metric.name, &format!("unable to fetch metrics from custom metrics API: {why}"))
        })
    }

    async fn external(&self, namespace: &str, metric: &MetricIdentifier) -> Result<Reading, String> {
        let told = |why: &str| {
            let selector = metric.selector.as_ref().and_then(|all| serde_json::to_string(all).ok());
            let selector = selector.unwrap_or_else(|| "nil".to_owned());
            format!("unable to get external metric {namespace}/{}/{selector}: {why}", metric.name)
        };
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}?labelSelector={}",
            segment(&metric.name),
            segment(&selector_text(metric))
        );
        let list: List<ExternalValue> = self
            .get(&path)
            .await
            .map_err(|why| told(&format!("unable to fetch metrics from external metrics API: {why}")))?;
        if list.items.is_empty() {
            return Err(told("no metrics returned from external metrics API"));
        }
        let sum = list.items.iter().fold(0_i64, |sum, value| sum.saturating_add(milli(&value.value)));
        Ok(Reading::One(sum))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        self.client.request(request).await.map_err(|error| told(&error))
    }
}

/// What an API says of itself; one that is not there says nothing that helps.
pub(super) fn told(error: &kube::Error) -> String {
    let message = api_message(error);
    // One that has no such sample yet.
    if is_not_found(error) && !message.starts_with("the server could not find") {
        return "the server could not find the requested resource".to_owned();
    }
    message
}

fn unable(metric: &str, why: &str) -> String {
    format!("unable to get metric {metric}: {why}")
}

fn selector_text(metric: &MetricIdentifier) -> String {
    let parse = |selector: &LabelSelector| coracle_api::selector::LabelSelector::from_api(selector).ok();
    metric.selector.as_ref().and_then(parse).map(|selector| selector.to_string()).unwrap_or_default()
}

fn milli(text: &str) -> i64 {
    Quantity::parse(text).map_or(0, |quantity| quantity.milli())
}

/// A window as the API writes it: `30s`, `1m0s`.
fn window(text: &str) -> SignedDuration {
    text.parse::<SignedDuration>().unwrap_or(SignedDuration::from_secs(60))
}

/// A text as it may stand in a path or a query.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
