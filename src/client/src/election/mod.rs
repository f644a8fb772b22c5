//! Leader election by a Lease, so that of several servers one runs the controllers.
//!
//! ```text
//!              free, run out or own                 renewed every 2 s
//!   candidate ─────────────────────▶ leader ◀──────────────────────────┐
//!       ▲  │ another's: look again      │ │────────────────────────────┘
//!       │  └──────────────────────      │ not renewed for 10 s, or another's: stop what it does
//!       └───────────────────────────────┘
//! ```
//! Guarantee: as long as every process' monotonic clock runs at about the same speed, there are never two
//! leaders: one that cannot renew gives up after 10 s, and nobody takes a lease that changed less than 15 s
//! ago. What the clocks on the wall say does not matter.

mod decide;
#[cfg(test)]
mod tests;

use std::time::Duration;

use decide::{Seen, Step, decide};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{clock, is_already_exists, is_conflict, is_not_found, random};

/// How long what is under way may take to end once the lease is lost. With Kubernetes' timings others
/// wait 5 s longer than the leader tries.
const STOPPING: Duration = Duration::from_secs(4);

/// Who stands for what.
#[derive(Clone, Debug)]
pub struct Election {
    /// The namespace of the lease, usually `kube-system`.
    pub namespace: String,
    /// The name of the lease, e.g. `kube-controller-manager`.
    pub name: String,
    /// Who the candidate is. One that comes back under the same name takes its own lease at once, so two
    /// that live at the same time must not share one.
    pub identity: String,
    /// How long a lease is good for after a change.
    pub lease: Duration,
    /// How long a leader tries to renew before it gives up. Shorter than `lease`.
    pub renew_deadline: Duration,
    /// How often a leader renews and a candidate looks.
    pub retry: Duration,
}

impl Election {
    /// With Kubernetes' timings: 15 s, 10 s, 2 s.
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Self {
        Election {
            namespace: "kube-system".to_owned(),
            name: name.into(),
            identity: identity.into(),
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// A candidate.
pub struct LeaderElection {
    api: Api<Lease>,
    election: Election,
    /// The lease as it was seen last, and since when it has been so.
    seen: Option<(Lease, Instant)>,
    /// When the lease was last asked for with success; what counts is not when the answer came.
    renewed: Instant,
}

/// Why leading ended.
enum End {
    /// What was to be done is done.
    Done,
    Lost,
    Stopped,
}

/// Why a try did not make a leader.
enum Miss {
    /// Another holds the lease for so long.
    Held(Duration),
    /// A call failed, or another was faster.
    Failed,
}

impl LeaderElection {
    /// A candidate that has not seen anything yet.
    pub fn new(client: Client, election: Election) -> Self {
        let api = Api::namespaced(client, &election.namespace);
        LeaderElection { api, election, seen: None, renewed: Instant::now() }
    }

    /// Runs `work` whenever this candidate leads, until `stop`. The token that `work` gets is cancelled
    /// when the lease is lost, or at the end; what has not ended a few seconds later is dropped. Then the
    /// lease is given back, or tried for again.
    pub async fn lead<W, F>(mut self, stop: CancellationToken, mut work: W)
    where
        W: FnMut(CancellationToken) -> F,
        F: Future<Output = ()>,
    {
        let name = self.election.name.clone();
        while stop.run_until_cancelled(self.acquire()).await.is_some() {
            info!(lease = name, "leading");
            let token = stop.child_token();
            let end = {
                let mut running = std::pin::pin!(work(token.clone()));
                let end = tokio::select! {
                    () = &mut running => End::Done,
                    () = self.keep() => End::Lost,
                    () = stop.cancelled() => End::Stopped,
                };
                token.cancel();
                match end {
                    End::Done => {}
                    End::Lost => {
                        warn!(lease = name, "the lease is lost: another may lead");
                        let _ = timeout(STOPPING, running).await;
                    }
                    // While what is under way ends, nobody else may begin.
                    End::Stopped => {
                        tokio::select! {
                            () = running => {}
                            () = self.keep() => {}
                        }
                    }
                }
                end
            };
            if !matches!(end, End::Lost) {
                return self.release().await;
            }
        }
    }

    /// Waits until this candidate leads: at once if the lease is free or its own.
    pub async fn acquire(&mut self) {
        loop {
            // An answer that comes too late is none: the lease may have run out meanwhile.
            let wait = match timeout(self.election.renew_deadline, self.attempt()).await {
                Ok(Ok(())) => return,
                // It may be given back, so the candidate looks more often than it can run out.
                Ok(Err(Miss::Held(left))) => left.min(self.election.retry),
                Ok(Err(Miss::Failed)) | Err(_) => self.election.retry,
            };
            tokio::time::sleep(random::jitter(wait, 0.2)).await;
        }
    }

    /// Renews the lease. Returns when it is lost.
    pub async fn keep(&mut self) {
        loop {
            tokio::time::sleep(self.election.retry).await;
            let left = self.election.renew_deadline.saturating_sub(self.renewed.elapsed());
            match timeout(left, self.attempt()).await {
                Ok(Err(Miss::Held(_))) | Err(_) => return,
                Ok(Ok(()) | Err(Miss::Failed)) => {}
            }
        }
    }

    /// Gives the lease back, so that others need not wait until it runs out.
    pub async fn release(&mut self) {
        if self.holder() != self.election.identity {
            return;
        }
        let Some((lease, _)) = &self.seen else { return };
        let Some(spec) = lease.spec.as_ref() else { return };
        let freed = Lease { spec: Some(decide::released(spec, clock::now())), ..lease.clone() };
        let params = PostParams::default();
        let call = self.api.replace(&self.election.name, &params, &freed);
        match timeout(self.election.retry, call).await {
            Ok(Ok(_)) => self.seen = None,
            Ok(Err(error)) => debug!(%error, "the lease could not be given back"),
            Err(_) => debug!("the lease could not be given back in time"),
        }
    }

    /// Tries once to take or to renew the lease.
    async fn attempt(&mut self) -> Result<(), Miss> {
        let begun = Instant::now();
        // A leader knows what is in the lease; whoever changed it makes the write fail.
        if self.holder() != self.election.identity {
            self.look().await?;
        }
        let seen = match &self.seen {
            None => Seen { spec: None, unchanged: Duration::ZERO },
            Some((lease, since)) => {
                Seen { spec: Some(lease.spec.as_ref().unwrap_or(&EMPTY)), unchanged: since.elapsed() }
            }
        };
        let step = decide(&self.election.identity, self.election.lease, seen, clock::now());
        match step {
            Step::Wait(left) => Err(Miss::Held(left)),
            Step::Write(spec) => {
                self.write(spec).await?;
                self.renewed = begun;
                Ok(())
            }
        }
    }

    /// Reads the lease.
    async fn look(&mut self) -> Result<(), Miss> {
        match self.api.get(&self.election.name).await {
            Ok(lease) => {
                self.note(lease);
                Ok(())
            }
            Err(error) if is_not_found(&error) => {
                self.seen = None;
                Ok(())
            }
            Err(error) => {
                debug!(%error, "the lease could not be read");
                Err(Miss::Failed)
            }
        }
    }

    /// Remembers the lease, and since when it has been as it is.
    fn note(&mut self, lease: Lease) {
        let since = match &self.seen {
            Some((known, since)) if known.spec == lease.spec => *since,
            _ => Instant::now(),
        };
        self.seen = Some((lease, since));
    }

    async fn write(&mut self, spec: LeaseSpec) -> Result<(), Miss> {
        let params = PostParams::default();
        let answer = match &self.seen {
            Some((lease, _)) => {
                let changed = Lease { spec: Some(spec), ..lease.clone() };
                self.api.replace(&self.election.name, &params, &changed).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.election.name.clone()),
                    namespace: Some(self.election.namespace.clone()),
                    ..ObjectMeta::default()
                };
                self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await
            }
        };
        match answer {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(())
            }
            Err(error) => {
                if !is_conflict(&error) && !is_already_exists(&error) {
                    debug!(%error, "the lease could not be written");
                }
                // It may have been written all the same, or by another: look, then decide anew.
                self.look().await?;
                Err(if self.is_anothers() { Miss::Held(self.election.retry) } else { Miss::Failed })
            }
        }
    }

    /// The holder of the lease as it was seen last; empty if there is none.
    fn holder(&self) -> &str {
        let spec = self.seen.as_ref().and_then(|(lease, _)| lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    fn is_anothers(&self) -> bool {
        !self.holder().is_empty() && self.holder() != self.election.identity
    }
}

/// A lease that somebody made without saying anything.
static EMPTY: LeaseSpec = LeaseSpec {
    acquire_time: None,
    holder_identity: None,
    lease_duration_seconds: None,
    lease_transitions: None,
    preferred_holder: None,
    renew_time: None,
    strategy: None,
};
