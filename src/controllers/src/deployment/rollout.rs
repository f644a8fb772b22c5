//! The sizes of a deployment's replica sets: the steps of a rollout, and scaling amid one.
//!
//! Caches may be behind: a replica set may have more pods than it asks for, because it has not been
//! scaled down yet, and its status may count available pods that are about to go. So what may exist is
//! taken as the larger of both numbers, and what is sure to be available as the smaller.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{bounds::Bounds, revision};
use crate::pods;

/// A replica set as it is to be.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// As it is; `None` if it is to be created.
    pub(super) before: Option<Arc<ReplicaSet>>,
    pub(super) set: ReplicaSet,
}

impl Draft {
    pub(super) fn of(set: &Arc<ReplicaSet>) -> Self {
        Draft { before: Some(set.clone()), set: (**set).clone() }
    }

    /// Pods asked for.
    pub(super) fn replicas(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0)
    }

    /// Pods that there are.
    pub(super) fn actual(&self) -> i32 {
        self.set.status.as_ref().map_or(0, |status| status.replicas)
    }

    /// Available pods as the status has them.
    pub(super) fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    /// Available pods that stay.
    fn safe(&self) -> i32 {
        self.available().min(self.replicas())
    }

    /// True if the replica set has been asked for something else since it told its status, which then says
    /// little: it may have acted on what it was asked before.
    pub(super) fn is_behind(&self) -> bool {
        self.before.as_ref().is_some_and(|set| {
            let observed = set.status.as_ref().and_then(|status| status.observed_generation);
            observed < set.metadata.generation
        })
    }

    /// True if it may have pods that it is no longer to have.
    fn may_shrink(&self) -> bool {
        self.is_behind() || self.actual() > self.replicas()
    }

    fn scale(&mut self, to: i32, bounds: &Bounds) {
        revision::note_size(&mut self.set, bounds);
        self.set.spec.get_or_insert_default().replicas = Some(to.max(0));
    }
}

/// A deployment's replica sets: the one of the current template, and the others by age.
#[derive(Clone, Debug)]
pub(super) struct Rollout {
    pub(super) bounds: Bounds,
    pub(super) new: Option<Draft>,
    pub(super) old: Vec<Draft>,
}

impl Rollout {
    pub(super) fn of(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Self {
        let mut sets: Vec<_> = sets.to_vec();
        sets.sort_by_cached_key(|set| {
            let created = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, pods::name(&set.metadata).to_owned())
        });
        let new = sets.iter().position(|set| revision::has_template(set, deployment));
        let new = new.map(|index| Draft::of(&sets.remove(index)));
        Rollout { bounds: Bounds::of(deployment), new, old: sets.iter().map(Draft::of).collect() }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Draft> {
        self.old.iter().chain(&self.new)
    }

    /// How many replica sets are to have pods.
    pub(super) fn active(&self) -> usize {
        self.all().filter(|draft| draft.replicas() > 0).count()
    }

    /// The highest revision of the replica sets of other templates.
    pub(super) fn newest_other(&self) -> i64 {
        self.old.iter().map(|draft| revision::revision(&draft.set)).max().unwrap_or(0)
    }

    /// True if `spec.replicas` changed since the replica sets were last scaled.
    pub(super) fn is_scaling(&self) -> bool {
        self.all().filter(|draft| draft.replicas() > 0).any(|draft| {
            revision::number(&draft.set, revision::DESIRED)
                .is_some_and(|desired| desired != self.bounds.replicas)
        })
    }

    /// One step of a rolling update: up first, then down. None before every replica set has told what the
    /// last one came to.
    pub(super) fn roll(&mut self) {
        if self.all().any(Draft::is_behind) {
            return;
        }
        self.scale_new_up();
        self.scale_old_down();
    }

    fn scale_new_up(&mut self) {
        let bounds = self.bounds;
        let others: i32 = self.old.iter().map(|draft| draft.replicas().max(draft.actual())).sum();
        let Some(new) = &mut self.new else { return };
        let have = new.replicas();
        if have > bounds.replicas {
            new.scale(bounds.replicas, &bounds);
        } else if have < bounds.replicas {
            let room = bounds.most() - others - have.max(new.actual());
            let more = room.min(bounds.replicas - have);
            if more > 0 {
                new.scale(have + more, &bounds);
            }
        }
    }

    fn scale_old_down(&mut self) {
        let bounds = self.bounds;
        let Some(new) = &self.new else { return };
        // What of the replica sets' pods is not needed, if every new pod that is not available yet stays so.
        let pods: i32 = self.all().map(Draft::replicas).sum();
        let mut spare = pods - bounds.least() - (new.replicas() - new.safe());
        // Pods that are not available are missed by nobody.
        for draft in &mut self.old {
            let broken = (draft.replicas() - draft.safe()).min(spare);
            if broken > 0 {
                let to = draft.replicas() - broken;
                draft.scale(to, &bounds);
                spare -= broken;
            }
        }
        let available: i32 = self.all().map(Draft::safe).sum();
        let mut spare = (available - bounds.least()).min(spare);
        for draft in &mut self.old {
            let less = draft.replicas().min(spare);
            if less > 0 {
                let to = draft.replicas() - less;
                draft.scale(to, &bounds);
                spare -= less;
            }
        }
    }

    /// Everything old goes. True if nothing old was left to go.
    pub(super) fn drop_old(&mut self) -> bool {
        let bounds = self.bounds;
        let mut done = true;
        for draft in self.old.iter_mut().filter(|draft| draft.replicas() > 0) {
            draft.scale(0, &bounds);
            done = false;
        }
        done
    }

    /// The new replica set gets its whole size at once.
    pub(super) fn fill_new(&mut self) {
        let bounds = self.bounds;
        if let Some(new) = self.new.as_mut().filter(|new| new.replicas() != bounds.replicas) {
            new.scale(bounds.replicas, &bounds);
        }
    }

    /// Follows a change of `spec.replicas` without going on with the rollout: amid one, every replica set
    /// gets its share, so that the risk stays spread. None grows while another may have pods that are to go:
    /// together they would be more than may be.
    pub(super) fn scale(&mut self, recreate: bool, status_replicas: i32) {
        let bounds = self.bounds;
        if self.active() <= 1 {
            let others_shrink = self.all().any(|draft| draft.replicas() == 0 && draft.may_shrink());
            let draft = self.only_or_latest();
            if let Some(draft) = draft.filter(|draft| !others_shrink || bounds.replicas < draft.replicas()) {
                draft.scale(bounds.replicas, &bounds);
            }
            return;
        }
        if self.is_saturated() {
            self.drop_old();
            return;
        }
        if !recreate {
            self.scale_in_proportion(status_replicas);
        }
    }

    fn only_or_latest(&mut self) -> Option<&mut Draft> {
        if let Some(index) = self.old.iter().position(|draft| draft.replicas() > 0) {
            return self.old.get_mut(index);
        }
        if self.new.is_some() { self.new.as_mut() } else { self.old.last_mut() }
    }

    /// True if the new replica set has all that is asked for, available.
    fn is_saturated(&self) -> bool {
        self.new.as_ref().is_some_and(|new| {
            let size = self.bounds.replicas;
            new.replicas() == size
                && revision::number(&new.set, revision::DESIRED) == Some(size)
                && new.available() == size
        })
    }

    fn scale_in_proportion(&mut self, status_replicas: i32) {
        let bounds = self.bounds;
        let have: i32 = self.all().map(Draft::replicas).sum();
        let allowed = if bounds.replicas > 0 { bounds.most() } else { 0 };
        let change = allowed - have;
        if change > 0 && self.all().any(Draft::may_shrink) {
            return;
        }
        let mut active: Vec<&mut Draft> =
            self.old.iter_mut().chain(&mut self.new).filter(|draft| draft.replicas() > 0).collect();
        // The largest first; among equals the newest grow first and the oldest shrink first.
        if change > 0 {
            active.reverse();
        }
        active.sort_by_key(|draft| std::cmp::Reverse(draft.replicas()));
        let mut done = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
        for draft in &active {
            let left = change - done;
            let share = share(draft, &bounds, status_replicas);
            let share = if change > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
            sizes.push(draft.replicas() + share);
            done += share;
        }
        // What rounding left over is the largest one's, as far as it goes.
        let mut left = change - done;
        for size in &mut sizes {
            let more = left.max(-*size);
            *size += more;
            left -= more;
        }
        for (draft, size) in active.into_iter().zip(sizes) {
            draft.scale(size, &bounds);
        }
    }
}

/// By how much a replica set changes when the deployment's size does.
fn share(draft: &Draft, bounds: &Bounds, status_replicas: i32) -> i32 {
    let have = draft.replicas();
    if bounds.replicas == 0 {
        return -have;
    }
    let before = revision::max_replicas(&draft.set).unwrap_or(status_replicas);
    if before <= 0 {
        return 0;
    }
    // Rounded to the nearest, halves up; all numbers are positive.
    let (have, most, before) = (i64::from(have), i64::from(bounds.most()), i64::from(before));
    let size = (2 * have * most + before) / (2 * before);
    i32::try_from(size - have).unwrap_or(0)
}
