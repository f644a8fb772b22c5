//! How the API server reaches the kubelet API of a node: a table from node name to a service.
//!
//! A node in the same process registers its router. Nodes on other machines will register a client
//! of their HTTPS endpoint under the same name; nothing else changes.

use std::{collections::BTreeMap, sync::Arc};

use axum::Router;
use parking_lot::RwLock;

/// The kubelet APIs that can be reached, by node name. Cheap to clone.
#[derive(Clone, Default)]
pub struct NodeProxies {
    routers: Arc<RwLock<BTreeMap<String, Router>>>,
}

impl NodeProxies {
    /// Adds a node, or replaces what its name led to.
    pub fn register(&self, node_name: &str, kubelet: Router) {
        self.routers.write().insert(node_name.to_owned(), kubelet);
    }

    /// Forgets a node.
    pub fn unregister(&self, node_name: &str) {
        self.routers.write().remove(node_name);
    }

    /// The kubelet API of a node.
    pub(crate) fn get(&self, node_name: &str) -> Option<Router> {
        self.routers.read().get(node_name).cloned()
    }
}
