//! Owners that the API was asked about and did not have. A uid never comes back.

use std::collections::{HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// Owners remembered. Kubernetes remembers 500; these are small, and a burst of deletions is larger.
const CAPACITY: usize = 4096;

/// Owners that do not exist as somebody named them: that one dependent names an owner wrongly, or from
/// another namespace, says nothing about those that name it rightly.
#[derive(Debug, Default)]
pub(super) struct Absent {
    owners: HashSet<Owner>,
    order: VecDeque<Owner>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    /// That of the dependent.
    namespace: String,
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

impl Owner {
    fn new(namespace: &str, reference: &OwnerReference) -> Owner {
        Owner {
            namespace: namespace.to_owned(),
            api_version: reference.api_version.clone(),
            kind: reference.kind.clone(),
            name: reference.name.clone(),
            uid: reference.uid.clone(),
        }
    }
}

impl Absent {
    /// Whether the owner that an object in `namespace` names is known not to exist.
    pub(super) fn contains(&self, namespace: &str, reference: &OwnerReference) -> bool {
        self.owners.contains(&Owner::new(namespace, reference))
    }

    pub(super) fn add(&mut self, namespace: &str, reference: &OwnerReference) {
        let owner = Owner::new(namespace, reference);
        if self.owners.insert(owner.clone()) {
            self.order.push_back(owner);
            if self.order.len() > CAPACITY
                && let Some(oldest) = self.order.pop_front()
            {
                self.owners.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str, uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }
    }

    #[test]
    fn an_owner_is_absent_only_as_it_was_named() {
        let mut absent = Absent::default();
        absent.add("elsewhere", &owner("a", "1"));
        absent.add("ns", &owner("wrong", "1"));
        assert!(absent.contains("elsewhere", &owner("a", "1")));
        assert!(!absent.contains("ns", &owner("a", "1")), "in its own namespace it may well be there");
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut absent = Absent::default();
        for number in 0..=CAPACITY {
            absent.add("ns", &owner("a", &number.to_string()));
        }
        assert!(!absent.contains("ns", &owner("a", "0")));
        assert!(absent.contains("ns", &owner("a", "1")));
        assert_eq!((absent.owners.len(), absent.order.len()), (CAPACITY, CAPACITY));
    }
}
