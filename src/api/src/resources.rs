//! What pods ask for and nodes have, as the scheduler and nodes count it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use crate::Quantity;

/// What a container without requests counts as when nodes are compared (never when they are filtered).
/// Kubernetes' numbers.
const ASSUMED_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 << 20;

/// Amounts of resources. Pods are counted apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of ephemeral storage.
    pub storage: i64,
    /// Everything else by name, in whole units.
    pub other: BTreeMap<String, i64>,
}

/// The condition of a pod whose new resources its node has not given it.
pub const RESIZE_PENDING: &str = "PodResizePending";

type Amounts = BTreeMap<String, ApiQuantity>;

impl Resources {
    /// The amounts in a list of quantities; `pods` is left out. What is not a quantity counts as nothing.
    pub fn of(amounts: Option<&Amounts>) -> Self {
        let mut resources = Resources::default();
        for (name, quantity) in amounts.into_iter().flatten() {
            let Ok(quantity) = Quantity::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => resources.cpu = quantity.milli(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.storage = quantity.value(),
                "pods" => {}
                _ => {
                    resources.other.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    /// What a pod asks for: the sum of its containers, or what its most demanding init container needs
    /// while it runs, whichever is more, unless the pod as a whole says otherwise; plus overhead.
    pub fn requested_by(pod: &Pod) -> Self {
        Self::sum(pod, requests_of)
    }

    /// What a pod takes of its node: what it asks for or what the node has given it, whichever is more, as the two may
    /// differ while it is resized. What its node can never give it counts for nothing.
    pub fn taken_by(pod: &Pod) -> Self {
        let Some(status) = pod.status.as_ref().filter(|_| is_being_resized(pod)) else {
            return Self::requested_by(pod);
        };
        let conditions = status.conditions.iter().flatten();
        let never = conditions.into_iter().any(|condition| {
            condition.type_ == RESIZE_PENDING && condition.reason.as_deref() == Some("Infeasible")
        });
        let main = status.container_statuses.iter().flatten();
        let known: Vec<_> = main.chain(status.init_container_statuses.iter().flatten()).collect();
        Self::sum(pod, |container| {
            let wanted = requests_of(container);
            match known.iter().find(|status| status.name == container.name).and_then(|known| given(known)) {
                Some(given) if never => given,
                Some(mut given) => {
                    given.raise_to(&wanted);
                    given
                }
                None => wanted,
            }
        })
    }

    /// Like [`Resources::requested_by`], where containers that ask for nothing count as a little.
    pub fn weight_of(pod: &Pod) -> Self {
        Self::sum(pod, |container| {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let asks = |name: &str| requests.is_some_and(|requests| requests.contains_key(name));
            let mut resources = Resources::of(requests);
            if !asks("cpu") {
                resources.cpu = ASSUMED_CPU;
            }
            if !asks("memory") {
                resources.memory = ASSUMED_MEMORY;
            }
            resources
        })
    }

    fn sum(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Self {
        let Some(spec) = &pod.spec else { return Resources::default() };
        let mut running = Resources::default();
        for container in &spec.containers {
            running.add(&of(container));
        }
        // Init containers run one after another; those that restart always stay and run beside the rest.
        let mut staying = Resources::default();
        let mut most = Resources::default();
        for container in spec.init_containers.iter().flatten() {
            let mut needed = of(container);
            if container.restart_policy.as_deref() == Some("Always") {
                staying.add(&needed);
                most.raise_to(&staying);
            } else {
                needed.add(&staying);
                most.raise_to(&needed);
            }
        }
        running.add(&staying);
        running.raise_to(&most);
        running.replace_by(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
        running.add(&Resources::of(spec.overhead.as_ref()));
        running
    }

    /// Requests of the pod as a whole stand for those of its containers.
    fn replace_by(&mut self, whole: Option<&Amounts>) {
        let Some(whole) = whole else { return };
        let amounts = Resources::of(Some(whole));
        if whole.contains_key("cpu") {
            self.cpu = amounts.cpu;
        }
        if whole.contains_key("memory") {
            self.memory = amounts.memory;
        }
        for (name, amount) in amounts.other {
            self.other.insert(name, amount);
        }
    }

    /// Adds amounts.
    pub fn add(&mut self, more: &Resources) {
        self.cpu = self.cpu.saturating_add(more.cpu);
        self.memory = self.memory.saturating_add(more.memory);
        self.storage = self.storage.saturating_add(more.storage);
        for (name, amount) in &more.other {
            let own = self.other.entry(name.clone()).or_default();
            *own = own.saturating_add(*amount);
        }
    }

    /// Takes amounts away.
    pub fn subtract(&mut self, less: &Resources) {
        self.cpu = self.cpu.saturating_sub(less.cpu);
        self.memory = self.memory.saturating_sub(less.memory);
        self.storage = self.storage.saturating_sub(less.storage);
        for (name, amount) in &less.other {
            if let Some(own) = self.other.get_mut(name) {
                *own = own.saturating_sub(*amount);
                if *own == 0 {
                    self.other.remove(name);
                }
            }
        }
    }

    /// True if any amount is more than in `other`.
    #[must_use]
    pub fn exceeds(&self, other: &Resources) -> bool {
        self.cpu > other.cpu
            || self.memory > other.memory
            || self.storage > other.storage
            || self.other.iter().any(|(name, amount)| *amount > other.amount(name))
    }

    /// The amount of one that is neither CPU, memory nor storage.
    pub fn amount(&self, name: &str) -> i64 {
        self.other.get(name).copied().unwrap_or(0)
    }

    /// Every amount becomes at least the other's.
    fn raise_to(&mut self, least: &Resources) {
        self.cpu = self.cpu.max(least.cpu);
        self.memory = self.memory.max(least.memory);
        self.storage = self.storage.max(least.storage);
        for (name, amount) in &least.other {
            let own = self.other.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

fn requests_of(container: &Container) -> Resources {
    Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// Whether a node has given any of the pod's containers other amounts than they ask for.
pub fn is_being_resized(pod: &Pod) -> bool {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return false };
    let all = |main: &[Container], statuses: Option<&Vec<ContainerStatus>>| {
        let differs = |status: &ContainerStatus| {
            let container = main.iter().find(|container| container.name == status.name);
            let wanted = container.and_then(|container| container.resources.as_ref()?.requests.as_ref());
            let some = |list: Option<_>| list.filter(|list: &&Amounts| !list.is_empty());
            allocated(status).is_some_and(|given| some(given) != some(wanted))
        };
        statuses.into_iter().flatten().any(differs)
    };
    all(&spec.containers, status.container_statuses.as_ref())
        || all(spec.init_containers.as_deref().unwrap_or_default(), status.init_container_statuses.as_ref())
}

/// What the node reserves for a container, if it says: nothing, where it says what the container has and no more.
pub fn allocated(status: &ContainerStatus) -> Option<Option<&Amounts>> {
    let reserved = status.allocated_resources.as_ref();
    (reserved.is_some() || status.resources.is_some()).then_some(reserved)
}

/// What the node has given a container, as far as it says: what it reserves for it, and what the container has.
fn given(status: &ContainerStatus) -> Option<Resources> {
    let has = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut given = Resources::of(allocated(status)?);
    given.raise_to(&Resources::of(has));
    Some(given)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_that_is_resized_takes_what_it_has_and_what_it_may_get() {
        #[track_caller]
        fn check(wanted: &str, given: &Value, reason: &Value, expected: i64) {
            let mut status =
                json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0});
            status.as_object_mut().expect("an object").extend(given.as_object().cloned().unwrap_or_default());
            let pod = json!({
                "metadata": {},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": wanted}}}]},
                "status": {
                    "conditions": [{"type": RESIZE_PENDING, "status": "True", "reason": reason}],
                    "containerStatuses": [status],
                },
            });
            let pod = serde_json::from_value(pod).expect("a pod");
            assert_eq!(Resources::taken_by(&pod).cpu, expected);
        }
        let one = json!({"allocatedResources": {"cpu": "1"}});
        check("2", &one, &json!("Deferred"), 2000);
        check("500m", &one, &Value::Null, 1000);
        check("200", &one, &json!("Infeasible"), 1000);
        check("2", &Value::Null, &Value::Null, 2000);
        check("200", &json!({"resources": {}}), &json!("Infeasible"), 0);
        check("200", &json!({"resources": {}}), &json!("Deferred"), 200_000);
    }
}
