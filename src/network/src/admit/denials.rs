//! What was refused: counted per pod and reason, and told, a little at a time, to who makes events of it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Denials that wait to be told. Somebody reads them all the time; what does not fit is counted all the same.
const WAITING_MAX: usize = 256;

/// Different denials of one pod that are told within [`QUIET`]: enough to see what it tries, and no pod drowns
/// the events of the others.
const PER_POD: usize = 8;

/// For how long the same denial is not told again. Events of one kind are counted within ten minutes.
const QUIET: Duration = Duration::from_secs(60);

/// Why a connection, a datagram or a look-up was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// No guest may go there: the node's own addresses, link-local and metadata addresses, multicast.
    Forbidden,
    /// No NetworkPolicy about the pod that dials lets it go there.
    Egress,
    /// No NetworkPolicy about the pod that is dialled lets others in from there.
    Ingress,
    /// The node lets pods reach nothing outside the cluster that is not named for them.
    EgressDefault,
    /// The pod's `coracle.dev/egress-hosts` does not list it.
    EgressHosts,
    /// The service's `loadBalancerSourceRanges` do not name who dials.
    SourceRanges,
}

impl DenyReason {
    /// All of them.
    pub const ALL: [DenyReason; 6] = [
        DenyReason::Forbidden,
        DenyReason::Egress,
        DenyReason::Ingress,
        DenyReason::EgressDefault,
        DenyReason::EgressHosts,
        DenyReason::SourceRanges,
    ];

    /// The reason as metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DenyReason::Forbidden => "forbidden",
            DenyReason::Egress => "network-policy-egress",
            DenyReason::Ingress => "network-policy-ingress",
            DenyReason::EgressDefault => "egress-default",
            DenyReason::EgressHosts => "egress-hosts",
            DenyReason::SourceRanges => "load-balancer-source-ranges",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DenyReason::Forbidden => "no pod may reach it",
            DenyReason::Egress => "no NetworkPolicy of the pod allows it as egress",
            DenyReason::Ingress => "no NetworkPolicy of the destination allows it as ingress",
            DenyReason::EgressDefault => "the node denies egress that nothing allows",
            DenyReason::EgressHosts => "coracle.dev/egress-hosts does not list it",
            DenyReason::SourceRanges => "the service's loadBalancerSourceRanges do not list the client",
        })
    }
}

/// Something that was refused, for people to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The namespace of the pod that tried, or that was tried from outside.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// Where it wanted to, or the name that it looked up.
    pub destination: String,
    /// Why not.
    pub reason: DenyReason,
}

/// How often a pod was refused something, by reason, in the order of [`DenyReason::ALL`].
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; DenyReason::ALL.len()]);

impl Counts {
    pub(crate) fn add(&self, reason: DenyReason) {
        self.0[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> [(DenyReason, u64); DenyReason::ALL.len()] {
        DenyReason::ALL.map(|reason| (reason, self.0[reason as usize].load(Relaxed)))
    }
}

/// What was told of one pod lately.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Vec<(String, DenyReason, Instant)>>);

impl Told {
    /// Whether this should be told now; it counts as told if so.
    fn is_news(&self, destination: &str, reason: DenyReason, now: Instant) -> bool {
        let mut told = self.0.lock();
        told.retain(|(_, _, at)| now.duration_since(*at) < QUIET);
        let known = told.iter().any(|(to, why, _)| *why == reason && to == destination);
        if known || told.len() >= PER_POD {
            return false;
        }
        told.push((destination.to_owned(), reason, now));
        true
    }
}

/// The denials of a node that nobody has heard of yet.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    waiting: Mutex<VecDeque<Denial>>,
    arrived: Notify,
}

impl Denials {
    /// Tells of a denial, unless enough has been told of that pod.
    pub(crate) fn tell(
        &self,
        told: &Told,
        denial: impl FnOnce() -> Denial,
        destination: &str,
        reason: DenyReason,
    ) {
        if !told.is_news(destination, reason, Instant::now()) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push_back(denial());
            self.arrived.notify_one();
        }
    }

    /// The next one.
    pub(crate) async fn next(&self) -> Denial {
        loop {
            if let Some(denial) = self.waiting.lock().pop_front() {
                return denial;
            }
            self.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_told_of_a_little_at_a_time() {
        let told = Told::default();
        let news = |to: &str| told.is_news(to, DenyReason::Egress, Instant::now());
        assert!(news("a"));
        assert!(!news("a"), "the same again");
        assert!(told.is_news("a", DenyReason::Ingress, Instant::now()), "for another reason");
        assert_eq!((0..100).filter(|n| news(&n.to_string())).count(), PER_POD - 2);
        tokio::time::advance(QUIET).await;
        assert!(news("a"));
    }

    #[test]
    fn every_reason_has_its_place() {
        for (at, reason) in DenyReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
    }
}
