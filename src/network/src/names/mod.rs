//! Names as a pod sees them: its own, those of services, and those of the world.
//!
//! There is no resolver between the guest and the answer: a service name is a look into a table. Who is asked,
//! and where names that are not complete are looked for, is the pod's `dnsPolicy` and `dnsConfig` ([`config`]); what
//! is in the cluster's own domain, [`zone`]; the world is asked through the host's resolver ([`outside`]) or the
//! servers that the pod names ([`stub`]).
//!
//! Names are resolved by the node, not over the pod's network, so a NetworkPolicy need not open port 53 for them. A
//! pod that can reach nothing outside does not get names from there either.

mod config;
pub(crate) mod outside;
pub(crate) mod stub;
pub(crate) mod zone;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub use config::{ClusterNames, DnsConfig, HostNames, Server};
pub use outside::{HostResolver, NameError};
use zone::Found;

use crate::limits::{ADDRESSES_PER_NAME, RESOLVE_TIMEOUT};
use crate::stack::Stack;
use crate::{Fabric, ResolveError};

/// Aliases that are followed from one name. An alias of an alias is rare, and this way none loops.
const ALIASES: usize = 4;

pub(crate) async fn resolve(stack: &Arc<Stack>, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    if let Some(address) = literal(name) {
        return Ok(vec![address]);
    }
    let asked = Asked::parse(name).ok_or_else(|| ResolveError::Invalid(shortened(name)))?;
    if asked.is_localhost() {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    if let Some(own) = stack.names.find(&asked.name, stack.addresses()) {
        return Ok(own);
    }
    let gone = || ResolveError::Temporary(asked.name.clone());
    let fabric = stack.fabric.upgrade().ok_or_else(gone)?;
    // Most names are found in a table, and then nobody waits.
    let mut left = stack.dns.candidates(&asked.name, asked.absolute);
    for candidate in left.by_ref() {
        match at_once(&fabric, stack, &candidate) {
            Some(Ok(addresses)) => return Ok(addresses),
            Some(Err(_)) => {}
            None => {
                let left: Vec<String> = std::iter::once(candidate).chain(left).collect();
                let (name, task_fabric, stack) = (asked.name.clone(), Arc::clone(&fabric), Arc::clone(stack));
                let walk = async move {
                    let walk = walk(&task_fabric, &stack, &name, left);
                    let timed_out = |_| Err(ResolveError::Temporary(name.clone()));
                    tokio::time::timeout(RESOLVE_TIMEOUT, walk).await.unwrap_or_else(timed_out)
                };
                return fabric.spawn_task(walk).await.ok().flatten().unwrap_or_else(|| Err(gone()));
            }
        }
    }
    Err(ResolveError::NotFound(asked.name.clone()))
}

/// Looks the candidates up, one after the other, waiting where it must.
async fn walk(
    fabric: &Arc<Fabric>,
    stack: &Arc<Stack>,
    asked: &str,
    candidates: Vec<String>,
) -> Result<Vec<IpAddr>, ResolveError> {
    let mut problem = ResolveError::NotFound(asked.to_owned());
    for candidate in candidates {
        let found = match at_once(fabric, stack, &candidate) {
            Some(found) => found,
            None => ask(fabric, stack, &candidate).await,
        };
        match found {
            Ok(addresses) => return Ok(addresses),
            // Not to be found is the last thing to say if something else went wrong.
            Err(ResolveError::NotFound(_)) => {}
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

/// What is known of a complete name without waiting; `None` if somebody must be asked.
fn at_once(fabric: &Fabric, stack: &Stack, name: &str) -> Option<Result<Vec<IpAddr>, ResolveError>> {
    let Some(Server::Cluster(_)) = stack.dns.servers.first() else {
        return stack.dns.servers.is_empty().then(|| Err(ResolveError::NotFound(name.to_owned())));
    };
    match in_cluster(fabric, name) {
        InCluster::Addresses(addresses) => Some(Ok(addresses)),
        InCluster::Nothing => Some(Err(ResolveError::NotFound(name.to_owned()))),
        InCluster::Outside(outside) if !outside::is_public(fabric, &outside) => {
            Some(Err(ResolveError::NotFound(name.to_owned())))
        }
        InCluster::Outside(_) => None,
    }
}

/// Asks the pod's servers for a complete name: the next one only if one did not answer.
async fn ask(fabric: &Arc<Fabric>, stack: &Arc<Stack>, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let mut problem = ResolveError::NotFound(name.to_owned());
    for server in &stack.dns.servers {
        let found = match server {
            Server::Cluster(_) => match in_cluster(fabric, name) {
                InCluster::Addresses(addresses) => Ok(addresses),
                InCluster::Nothing => Err(ResolveError::NotFound(name.to_owned())),
                InCluster::Outside(outside) => outside::resolve(fabric, stack, &outside).await,
            },
            Server::Host => outside::resolve(fabric, stack, name).await,
            Server::Address(address) => stub::resolve(fabric, stack, *address, name).await,
        };
        match found {
            Err(error @ ResolveError::Temporary(_)) => problem = error,
            other => return other,
        }
    }
    Err(problem)
}

/// What the cluster says of a complete name.
pub(crate) enum InCluster {
    /// At least one address.
    Addresses(Vec<IpAddr>),
    /// The name is the cluster's own, and has no address.
    Nothing,
    /// This name of the world is meant.
    Outside(String),
}

pub(crate) fn in_cluster(fabric: &Fabric, name: &str) -> InCluster {
    let mut name = name.to_owned();
    for _ in 0..ALIASES {
        if !zone::is_ours(fabric, &name) {
            return InCluster::Outside(name);
        }
        match zone::find(fabric, &name) {
            Some(Found::Records { mut addresses, .. }) if !addresses.is_empty() => {
                addresses.sort_by_key(IpAddr::is_ipv6);
                addresses.truncate(ADDRESSES_PER_NAME);
                return InCluster::Addresses(addresses);
            }
            Some(Found::Alias(alias)) => match Asked::parse(&alias) {
                Some(target) => name = target.name,
                None => return InCluster::Nothing,
            },
            Some(Found::Records { .. } | Found::Text(_)) | None => return InCluster::Nothing,
        }
    }
    InCluster::Nothing
}

/// A host name that is well-formed, in lower case, without its final dot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) name: String,
    /// It ended in a dot: no search list.
    absolute: bool,
}

impl Asked {
    pub(crate) fn parse(text: &str) -> Option<Asked> {
        let (name, absolute) = match text.strip_suffix('.') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let letter = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letter);
        let valid = name.len() <= 253 && name.split('.').all(label);
        valid.then(|| Asked { name: name.to_ascii_lowercase(), absolute })
    }

    pub(crate) fn is_localhost(&self) -> bool {
        self.name == "localhost" || self.name.ends_with(".localhost")
    }
}

fn literal(name: &str) -> Option<IpAddr> {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse().ok()
}

/// A name as it may appear in an error: a guest can ask for megabytes.
fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, valid: bool) {
        assert_eq!(Asked::parse(name).is_some(), valid, "{name:?}");
    }

    #[test]
    fn well_formed_names() {
        for name in ["web", "web.default", "WEB.default.svc.cluster.local.", "_sip._tcp.x", "1a-b"] {
            check(name, true);
        }
        let long = format!("{}.x", "a".repeat(64));
        for name in ["", ".", "a..b", ".a", "a b", "a/b", "a\0b", "ä.de", long.as_str(), &"a.".repeat(130)] {
            check(name, false);
        }
        assert_eq!(Asked::parse("A.b."), Some(Asked { name: "a.b".to_owned(), absolute: true }));
    }

    #[test]
    fn literals() {
        assert_eq!(literal("10.0.0.1"), Some(Ipv4Addr::new(10, 0, 0, 1).into()));
        assert_eq!(literal("[::1]"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(literal("10.0.0.1.x"), None);
    }
}
