//! What pods ask for and nodes have.

use std::collections::BTreeMap;

use coracle_api::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

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
    pub(super) fn exceeds(&self, other: &Resources) -> bool {
        self.cpu > other.cpu
            || self.memory > other.memory
            || self.storage > other.storage
            || self.other.iter().any(|(name, amount)| *amount > other.amount(name))
    }

    pub(super) fn amount(&self, name: &str) -> i64 {
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
