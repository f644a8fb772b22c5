//! Which of the nodes that can take a pod suits it best. Weights and formulas are Kubernetes'.

use super::{
    class::Class,
    counts::{Counts, Lookup},
    nodes::Row,
    prepared::{Fixed, Prepared},
    profile::{Profile, Strategy},
    table::{NONE, at, slot},
};

/// The best score of one aspect.
const MOST: i64 = 100;

const TAINTS_WEIGHT: i64 = 3;
const AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;
const INTER_POD_WEIGHT: i64 = 2;

/// What scores are made from.
pub(super) struct Scoring<'a> {
    pub(super) class: &'a Class,
    pub(super) profile: &'a Profile,
    pub(super) prepared: &'a Prepared,
    pub(super) rows: &'a [Row],
    pub(super) counts: &'a Counts,
}

/// Lists to work with.
pub(super) struct Work<'a> {
    /// The scores, in the order of the nodes.
    pub(super) totals: &'a mut Vec<i64>,
    pub(super) raw: &'a mut Vec<i64>,
    pub(super) seen: &'a mut Vec<bool>,
}

impl Scoring<'_> {
    /// Fills in the scores of `nodes`.
    pub(super) fn score(&self, nodes: &[(u32, Fixed)], work: &mut Work<'_>) {
        work.totals.clear();
        let wants = &self.class.requests;
        let best_effort = wants.cpu == 0 && wants.memory == 0;
        work.totals.extend(nodes.iter().map(|(node, fixed)| {
            let row = &self.rows[*node as usize];
            let balanced = if best_effort { 0 } else { self.balanced(row) };
            self.allocated(row) + balanced + i64::from(fixed.images)
        }));
        taints(nodes, work.totals);
        if !self.class.affinity.prefers_none() {
            preferences(nodes, work.totals);
        }
        if !self.prepared.soft.is_empty() {
            self.spread(nodes, work);
        }
        self.inter_pod(nodes, work);
    }

    /// The mean of the scores of CPU and memory by what is in use and what would be.
    fn allocated(&self, row: &Row) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        let more = [self.class.weight.cpu, self.class.weight.memory];
        for ((has, used), more) in row.has.iter().zip(&row.weight).zip(more) {
            if *has > 0 {
                sum += self.resource(*has, used.saturating_add(more));
                weights += 1;
            }
        }
        match &self.profile.strategy {
            Strategy::RequestedToCapacityRatio(_) if weights > 0 => (sum * 2 + weights) / (weights * 2),
            _ if weights > 0 => sum / weights,
            _ => 0,
        }
    }

    fn resource(&self, has: i64, wanted: i64) -> i64 {
        match &self.profile.strategy {
            Strategy::LeastAllocated if wanted > has => 0,
            Strategy::LeastAllocated => share(has - wanted, has),
            Strategy::MostAllocated => share(wanted.min(has), has),
            Strategy::RequestedToCapacityRatio(points) => {
                let used = if wanted > has { MOST } else { share(wanted, has) };
                curve(points, used)
            }
        }
    }

    /// Most where CPU and memory would be in use alike.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a share of a hundred")]
    fn balanced(&self, row: &Row) -> i64 {
        let wants = [self.class.requests.cpu, self.class.requests.memory];
        if row.has[0] <= 0 || row.has[1] <= 0 {
            return MOST;
        }
        let part = |it: usize| {
            let used = row.used[it].saturating_add(wants[it]);
            (used as f64 / row.has[it] as f64).min(1.0)
        };
        let deviation = ((part(0) - part(1)) / 2.0).abs();
        ((1.0 - deviation) * MOST as f64) as i64
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "counts of pods")]
    fn spread(&self, nodes: &[(u32, Fixed)], work: &mut Work<'_>) {
        struct Part<'a> {
            lookup: Lookup<'a>,
            by_node: Option<&'a [u32]>,
            weight: f64,
            skew: f64,
        }
        const IGNORED: i64 = -1;
        let soft = &self.prepared.soft;
        let lookups: Vec<Lookup<'_>> = soft.iter().map(|soft| self.counts.lookup(soft.tally)).collect();
        let ignored =
            |node: u32| self.prepared.all_labels && lookups.iter().any(|lookup| lookup.domain(node) == NONE);
        let scored = if self.prepared.all_labels {
            nodes.iter().filter(|(node, _)| !ignored(*node)).count()
        } else {
            nodes.len()
        };
        let parts: Vec<Part<'_>> = soft
            .iter()
            .zip(&lookups)
            .map(|(soft, lookup)| {
                let domains = if soft.by_node {
                    scored
                } else {
                    domains(nodes.iter().map(|it| it.0).filter(|node| !ignored(*node)), *lookup, work.seen)
                };
                Part {
                    lookup: *lookup,
                    by_node: soft.by_node.then(|| self.counts.by_node(soft.tally)),
                    weight: ((domains + 2) as f64).ln(),
                    skew: (soft.max_skew - 1) as f64,
                }
            })
            .collect();
        work.raw.clear();
        let (mut least, mut most) = (i64::MAX, 0);
        for (node, _) in nodes {
            if ignored(*node) {
                work.raw.push(IGNORED);
                continue;
            }
            let mut score = 0.0;
            for part in &parts {
                if part.lookup.domain(*node) == NONE {
                    continue;
                }
                let pods = part.by_node.map_or_else(|| part.lookup.count(*node), |pods| at(pods, *node));
                score += f64::from(pods) * part.weight + part.skew;
            }
            let score = score.round() as i64;
            (least, most) = (least.min(score), most.max(score));
            work.raw.push(score);
        }
        for (total, raw) in work.totals.iter_mut().zip(&*work.raw) {
            *total += SPREAD_WEIGHT
                * match *raw {
                    IGNORED => 0,
                    _ if most == 0 => MOST,
                    raw => MOST * (most + least - raw) / most,
                };
        }
    }

    fn inter_pod(&self, nodes: &[(u32, Fixed)], work: &mut Work<'_>) {
        let own = self.prepared.preferred.iter().map(|(weight, it)| (*weight, self.counts.lookup(*it)));
        let others = self.prepared.weighing.iter();
        let others = others.filter_map(|(weight, it)| Some((*weight, self.counts.lookup_owned(*it)?)));
        let weighing: Vec<(i64, Lookup<'_>)> = own.chain(others).collect();
        if weighing.is_empty() {
            return;
        }
        work.raw.clear();
        work.raw.extend(nodes.iter().map(|(node, _)| {
            weighing.iter().map(|(weight, lookup)| weight * i64::from(lookup.count(*node))).sum::<i64>()
        }));
        let least = work.raw.iter().copied().min().unwrap_or(0);
        let range = work.raw.iter().copied().max().unwrap_or(0) - least;
        if range > 0 {
            for (total, raw) in work.totals.iter_mut().zip(&*work.raw) {
                *total += INTER_POD_WEIGHT * (MOST * (raw - least) / range);
            }
        }
    }
}

/// How many domains the nodes are in; those without a label are one more.
fn domains(nodes: impl Iterator<Item = u32>, lookup: Lookup<'_>, seen: &mut Vec<bool>) -> usize {
    seen.clear();
    let (mut domains, mut unlabelled) = (0, 0);
    for node in nodes {
        match lookup.domain(node) {
            NONE => unlabelled = 1,
            domain => domains += usize::from(!std::mem::replace(slot(seen, domain), true)),
        }
    }
    domains + unlabelled
}

fn taints(nodes: &[(u32, Fixed)], totals: &mut [i64]) {
    let most = nodes.iter().map(|(_, fixed)| i64::from(fixed.disliked)).max().unwrap_or(0);
    if most > 0 {
        for (total, (_, fixed)) in totals.iter_mut().zip(nodes) {
            *total += TAINTS_WEIGHT * (MOST - MOST * i64::from(fixed.disliked) / most);
        }
    }
}

fn preferences(nodes: &[(u32, Fixed)], totals: &mut [i64]) {
    let most = nodes.iter().map(|(_, fixed)| i64::from(fixed.preference)).max().unwrap_or(0);
    if most > 0 {
        for (total, (_, fixed)) in totals.iter_mut().zip(nodes) {
            *total += AFFINITY_WEIGHT * (MOST * i64::from(fixed.preference) / most);
        }
    }
}

/// A part of a whole in hundredths, rounded down.
fn share(part: i64, whole: i64) -> i64 {
    match part.checked_mul(MOST) {
        Some(scaled) => scaled / whole,
        None => i64::try_from(i128::from(part) * i128::from(MOST) / i128::from(whole)).unwrap_or(MOST),
    }
}

/// The score, of a hundred, that a curve gives to a share in use.
fn curve(points: &[(u8, u8)], used: i64) -> i64 {
    let points = || points.iter().map(|(used, score)| (i64::from(*used), i64::from(*score) * 10));
    let after = points().find(|(at, _)| used <= *at);
    let before = points().take_while(|(at, _)| used > *at).last();
    match (before, after) {
        (Some((x0, y0)), Some((x1, y1))) => y0 + (y1 - y0) * (used - x0) / (x1 - x0),
        (None, Some((_, score))) | (Some((_, score)), None) => score,
        (None, None) => 0,
    }
}
