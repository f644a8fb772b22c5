//! Names as a pod sees them: its own, those of services, and those of the world.
//!
//! There is no resolver between the guest and the answer: a service name is a look into a table. The
//! search list is the one Kubernetes writes into `resolv.conf`: a name with fewer than five dots is first
//! tried in the pod's namespace, then among all services, then in the cluster's domain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::admit::{DenyReason, Origin};
use crate::limits::{ADDRESSES_PER_NAME, LOOKUP_TIMEOUT};
use crate::policy::{Place, canonical, place};
use crate::services::Answer;
use crate::stack::Stack;
use crate::{Fabric, ResolveError};

/// `ndots` of a pod with `dnsPolicy: ClusterFirst`.
const NDOTS: usize = 5;

pub(crate) async fn resolve(stack: &Arc<Stack>, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    if let Some(address) = literal(name) {
        return Ok(vec![address]);
    }
    let asked = Asked::parse(name).ok_or_else(|| ResolveError::Invalid(shortened(name)))?;
    if asked.is_localhost() {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    if asked.name == stack.pod.hostname {
        return Ok(stack.addresses().collect());
    }
    let gone = || ResolveError::Temporary(asked.name.clone());
    let fabric = stack.fabric.upgrade().ok_or_else(gone)?;
    match in_cluster(&fabric, stack, &asked) {
        Some(Answer::Addresses(addresses)) => Ok(addresses),
        Some(Answer::Alias(alias)) => {
            let target = Asked::parse(&alias).ok_or(ResolveError::Invalid(alias))?;
            match absolute(&fabric, &target.name) {
                Some(Answer::Addresses(addresses)) => Ok(addresses),
                // An alias of an alias: DNS follows it, but nobody needs it, and this way none loops.
                Some(Answer::Alias(_)) => Err(ResolveError::NotFound(asked.name)),
                None => outside(&fabric, stack, &target.name).await,
            }
        }
        None => outside(&fabric, stack, &asked.name).await,
    }
}

/// A host name that is well-formed, in lower case, without its final dot.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    name: String,
    /// It ended in a dot: no search list.
    absolute: bool,
}

impl Asked {
    fn parse(text: &str) -> Option<Asked> {
        let (name, absolute) = match text.strip_suffix('.') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let letter = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letter);
        let valid = name.len() <= 253 && name.split('.').all(label);
        valid.then(|| Asked { name: name.to_ascii_lowercase(), absolute })
    }

    fn is_localhost(&self) -> bool {
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

fn in_cluster(fabric: &Fabric, stack: &Stack, asked: &Asked) -> Option<Answer> {
    let search = !asked.absolute && asked.name.matches('.').count() < NDOTS;
    if search {
        let (namespace, domain) = (&stack.pod.namespace, &fabric.config().cluster_domain);
        for suffix in [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()] {
            if let Some(answer) = absolute(fabric, &format!("{}.{suffix}", asked.name)) {
                return Some(answer);
            }
        }
    }
    absolute(fabric, &asked.name)
}

/// Looks a full name up in the cluster's own domain.
fn absolute(fabric: &Fabric, name: &str) -> Option<Answer> {
    let inside = name.strip_suffix(&fabric.config().cluster_domain)?.strip_suffix('.')?;
    let labels: Vec<&str> = inside.rsplit('.').collect();
    match labels[..] {
        ["svc", namespace, service] => fabric.services().lookup(namespace, service, None),
        ["svc", namespace, service, host] => fabric.services().lookup(namespace, service, Some(host)),
        ["pod", _namespace, dashed] => {
            let address: Ipv4Addr = dashed.replace('-', ".").parse().ok()?;
            let ours = fabric.config().cluster_cidr.contains(&address);
            ours.then(|| Answer::Addresses(vec![address.into()]))
        }
        _ => None,
    }
}

/// Asks the host's resolver. Names that only this host or its network knows are not asked for: single
/// labels, the cluster's domain, and multicast DNS.
async fn outside(fabric: &Arc<Fabric>, stack: &Arc<Stack>, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let domain = &fabric.config().cluster_domain;
    let ours = name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if ours || !name.contains('.') || name.ends_with(".local") {
        return Err(ResolveError::NotFound(name.to_owned()));
    }
    if let Err(reason) = fabric.admit_name(stack, name) {
        fabric.note_denial(&Origin::Pod(Arc::clone(stack)), None, &name, reason);
        return Err(ResolveError::Denied(name.to_owned()));
    }
    let temporary = || ResolveError::Temporary(name.to_owned());
    let own = Arc::clone(&stack.lookups).try_acquire_owned().map_err(|_| temporary())?;
    let shared = Arc::clone(fabric.lookups());
    let query = name.to_owned();
    // The lookup holds its permits until the host's resolver is done with it, however long the guest waits.
    let lookup = fabric.spawn_task(async move {
        let permit = shared.acquire_owned().await;
        let found = tokio::net::lookup_host((query.as_str(), 0)).await;
        drop((permit, own));
        found.map(|found| found.map(|address| canonical(address.ip())).take(ADDRESSES_PER_NAME).collect())
    });
    let waited = fabric.spawn_task(async move { tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await });
    let found: Vec<IpAddr> = match waited.await {
        Ok(Some(Ok(Ok(Some(Ok(found)))))) => found,
        Ok(Some(Ok(Ok(Some(Err(error)))))) => {
            tracing::debug!(name, %error, "a guest's name was not found by the host's resolver");
            return Err(ResolveError::NotFound(name.to_owned()));
        }
        _ => return Err(temporary()),
    };
    let (mut allowed, denied): (Vec<IpAddr>, Vec<IpAddr>) =
        found.into_iter().partition(|address| place(*address) == Place::Outside && !fabric.is_node(*address));
    if allowed.is_empty() && !denied.is_empty() {
        fabric.note_denial(&Origin::Pod(Arc::clone(stack)), None, &name, DenyReason::Forbidden);
        return Err(ResolveError::Denied(name.to_owned()));
    }
    // Pods have no IPv6 address to dial from.
    if allowed.iter().any(IpAddr::is_ipv4) {
        allowed.retain(IpAddr::is_ipv4);
    }
    let mut seen = std::collections::HashSet::new();
    allowed.retain(|address| seen.insert(*address));
    fabric.learn_name(stack, name, &allowed);
    if allowed.is_empty() { Err(ResolveError::NotFound(name.to_owned())) } else { Ok(allowed) }
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
