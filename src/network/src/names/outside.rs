//! The names of the world, through the host's resolver, and under policy.
//!
//! What the resolver says is kept for a moment, so that a pod that asks again and again costs the host nothing: an
//! answer for [`NAME_KEPT`], "no such host" for [`NO_NAME_KEPT`]. The host's resolver does not tell for how long its
//! answers hold, so these are short.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::admit::{DenyReason, Origin};
use crate::limits::{ADDRESSES_PER_NAME, LOOKUP_PAUSE, LOOKUP_TIMEOUT, NAME_KEPT, NAMES_KEPT, NO_NAME_KEPT};
use crate::policy::{Place, canonical, place};
use crate::stack::Stack;
use crate::{Fabric, ResolveError};

/// Who knows the names of the world.
pub trait HostResolver: fmt::Debug + Send + Sync {
    /// The addresses of a complete name without a final dot. Runs on the fabric's runtime.
    fn lookup(&self, name: String) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, NameError>> + Send>>;
}

/// Why a resolver has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Nobody has the name.
    NotFound,
    /// Nobody could be asked; later, perhaps.
    Temporary,
}

/// The resolver of the host that this process runs on (`getaddrinfo`).
#[derive(Debug)]
pub(crate) struct SystemResolver;

impl HostResolver for SystemResolver {
    fn lookup(&self, name: String) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, NameError>> + Send>> {
        Box::pin(async move {
            // The final dot keeps the host's own search list away from guests' names.
            let found = tokio::net::lookup_host((format!("{name}."), 0)).await;
            match found {
                Ok(found) => Ok(found.map(|address| address.ip()).collect()),
                Err(error) => {
                    tracing::debug!(name, %error, "a guest's name was not found by the host's resolver");
                    Err(kind_of(&error))
                }
            }
        })
    }
}

/// The library's error carries the resolver's code only as a text.
fn kind_of(error: &io::Error) -> NameError {
    let text = error.to_string();
    let later =
        ["Temporary failure", "Try again", "nodename nor servname"].iter().any(|part| text.contains(part));
    if later { NameError::Temporary } else { NameError::NotFound }
}

/// What the resolver has said lately; no address means that nobody has the name.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<HashMap<String, (Vec<IpAddr>, Instant)>>);

impl Cache {
    fn get(&self, name: &str, now: Instant) -> Option<Vec<IpAddr>> {
        let known = self.0.lock();
        known.get(name).filter(|(_, until)| *until > now).map(|(addresses, _)| addresses.clone())
    }

    fn put(&self, name: String, addresses: Vec<IpAddr>, now: Instant) {
        let until = now + if addresses.is_empty() { NO_NAME_KEPT } else { NAME_KEPT };
        let mut known = self.0.lock();
        if known.len() >= NAMES_KEPT {
            known.retain(|_, (_, until)| *until > now);
            if known.len() >= NAMES_KEPT {
                known.clear();
            }
        }
        known.insert(name, (addresses, until));
    }
}

/// Whether a name is one that the world could know. Those that only this host or its network knows are not asked
/// for: single labels, the cluster's own domain, multicast DNS.
pub(crate) fn is_public(fabric: &Fabric, name: &str) -> bool {
    name.contains('.') && !name.ends_with(".local") && !super::zone::is_ours(fabric, name)
}

/// Asks the host's resolver for a pod. At least one address, and none that guests may not reach.
pub(crate) async fn resolve(
    fabric: &Arc<Fabric>,
    stack: &Arc<Stack>,
    name: &str,
) -> Result<Vec<IpAddr>, ResolveError> {
    admit(fabric, stack, name)?;
    let now = Instant::now();
    let found = match fabric.names().get(name, now) {
        Some(known) => known,
        None => {
            let found = match lookup(fabric, stack, name).await {
                Ok(found) => found,
                Err(NameError::NotFound) => Vec::new(),
                Err(NameError::Temporary) => return Err(ResolveError::Temporary(name.to_owned())),
            };
            fabric.names().put(name.to_owned(), found.clone(), Instant::now());
            found
        }
    };
    judged(fabric, stack, name, found)
}

/// Whether the pod may ask for a name outside at all.
pub(super) fn admit(fabric: &Fabric, stack: &Arc<Stack>, name: &str) -> Result<(), ResolveError> {
    if !is_public(fabric, name) {
        return Err(ResolveError::NotFound(name.to_owned()));
    }
    if let Err(reason) = fabric.admit_name(stack, name) {
        fabric.note_denial(&Origin::Pod(Arc::clone(stack)), None, &name, reason);
        return Err(ResolveError::Denied(name.to_owned()));
    }
    Ok(())
}

/// What of an answer a pod is given, and may use from now on.
pub(super) fn judged(
    fabric: &Fabric,
    stack: &Arc<Stack>,
    name: &str,
    found: Vec<IpAddr>,
) -> Result<Vec<IpAddr>, ResolveError> {
    let mut seen = HashSet::new();
    let found = found.into_iter().map(canonical).filter(|address| seen.insert(*address));
    let reachable = |address: &IpAddr| place(*address) == Place::Outside && !fabric.is_node(*address);
    let (mut allowed, denied): (Vec<IpAddr>, Vec<IpAddr>) = found.partition(reachable);
    if allowed.is_empty() && !denied.is_empty() {
        fabric.note_denial(&Origin::Pod(Arc::clone(stack)), None, &name, DenyReason::Forbidden);
        return Err(ResolveError::Denied(name.to_owned()));
    }
    // A pod without an IPv6 address is given one of the world only where there is no other.
    if stack.ip6.is_none() && allowed.iter().any(IpAddr::is_ipv4) {
        allowed.retain(IpAddr::is_ipv4);
    }
    allowed.sort_by_key(IpAddr::is_ipv6);
    allowed.truncate(ADDRESSES_PER_NAME);
    fabric.learn_name(stack, name, &allowed);
    if allowed.is_empty() { Err(ResolveError::NotFound(name.to_owned())) } else { Ok(allowed) }
}

/// Runs one look-up, counted against the pod and the node until the resolver is done with it, however long the
/// guest waits.
async fn lookup(fabric: &Arc<Fabric>, stack: &Stack, name: &str) -> Result<Vec<IpAddr>, NameError> {
    let own = Arc::clone(&stack.lookups).try_acquire_owned().map_err(|_| NameError::Temporary)?;
    let (resolving, resolver) = (Arc::clone(&stack.resolving), Arc::clone(&fabric.config().resolver));
    let name = name.to_owned();
    let task = fabric.spawn_task(async move {
        // Only a pod that has its part of the resolver waits.
        let permit = loop {
            match resolving.take() {
                Some(permit) => break permit,
                None => tokio::time::sleep(LOOKUP_PAUSE).await,
            }
        };
        let found = resolver.lookup(name).await;
        drop((permit, own));
        found
    });
    match tokio::time::timeout(LOOKUP_TIMEOUT, task).await {
        Ok(Ok(Some(found))) => found,
        _ => Err(NameError::Temporary),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_a_moment() {
        let cache = Cache::default();
        let address = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
        cache.put("a.org".to_owned(), vec![address], Instant::now());
        cache.put("b.org".to_owned(), Vec::new(), Instant::now());
        assert_eq!(cache.get("a.org", Instant::now()), Some(vec![address]));
        assert_eq!(cache.get("b.org", Instant::now()), Some(Vec::new()), "that nobody has it is an answer");
        tokio::time::advance(NO_NAME_KEPT).await;
        assert_eq!(cache.get("b.org", Instant::now()), None);
        tokio::time::advance(NAME_KEPT - NO_NAME_KEPT).await;
        assert_eq!(cache.get("a.org", Instant::now()), None);
        for n in 0..NAMES_KEPT * 2 {
            cache.put(n.to_string(), Vec::new(), Instant::now());
        }
        assert!(cache.0.lock().len() <= NAMES_KEPT);
    }

    #[test]
    fn what_the_resolver_says() {
        let kind =
            |text: &str| kind_of(&io::Error::other(format!("failed to lookup address information: {text}")));
        assert_eq!(kind("Temporary failure in name resolution"), NameError::Temporary);
        assert_eq!(kind("Name or service not known"), NameError::NotFound);
    }
}
