//! Which pods must go so that the node can take a critical one, as the kubelet chooses them: as few as can be and those
//! that ask for least, best-effort pods before burstable ones before guaranteed ones. The choice is pure.

use std::sync::Arc;

use coracle_api::Resources;

use crate::{
    context::Context,
    handle::{Eviction, PodHandle},
};

/// The reason of the event, and of the pod's failure. Kubernetes' word.
pub(crate) const REASON: &str = "Preempting";
/// What is said of the pod. Kubernetes' words.
const MESSAGE: &str = "Preempted in order to admit critical pod";
/// What its condition says. Kubernetes' words.
pub(crate) const DISRUPTED: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

/// `status.qosClass`, who goes first first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    BestEffort,
    Burstable,
    Guaranteed,
}

/// A pod that may have to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) uid: &'a str,
    pub(crate) class: Class,
    pub(crate) requests: &'a Resources,
}

impl Candidate<'_> {
    /// What it gives back of a resource.
    fn gives(&self, name: &str) -> i64 {
        match name {
            "pods" => 1,
            "cpu" => self.requests.cpu,
            "memory" => self.requests.memory,
            "ephemeral-storage" => self.requests.storage,
            other => self.requests.amount(other),
        }
    }
}

/// What is lacking: names of resources, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lacking(pub(crate) Vec<(Box<str>, i64)>);

impl Lacking {
    /// What is still lacking when these have gone.
    fn without(&self, gone: &[&Candidate<'_>]) -> Lacking {
        let left = |(name, amount): &(Box<str>, i64)| {
            let given = gone.iter().map(|one| one.gives(name)).fold(0, i64::saturating_add);
            (name.clone(), amount.saturating_sub(given))
        };
        Lacking(self.0.iter().map(left).filter(|(_, amount)| *amount > 0).collect())
    }

    /// How far a pod is from giving all of it: the sum of squares of the parts that it does not give.
    fn distance(&self, pod: &Candidate<'_>) -> f64 {
        let missing = |(name, amount): &(Box<str>, i64)| {
            let part = (amount - pod.gives(name)).max(0) as f64 / *amount as f64;
            part * part
        };
        self.0.iter().map(missing).sum()
    }

    /// As the kubelet writes it.
    fn text(&self) -> String {
        let each = self.0.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), "));
        format!("[{}]", each.collect::<String>())
    }
}

/// The uids of the pods that must go.
///
/// # Errors
/// If all of them together do not give what is lacking: what remains, in the kubelet's words.
pub(crate) fn choose(lacking: &Lacking, candidates: &[Candidate<'_>]) -> Result<Vec<Box<str>>, String> {
    let remains = lacking.without(&candidates.iter().collect::<Vec<_>>());
    if !remains.0.is_empty() {
        return Err(format!("no set of running pods found to reclaim resources: {}", remains.text()));
    }
    // Of each class, beginning with the one that goes last, those without which all of the lower ones would not do.
    let mut chosen: Vec<Candidate<'_>> = Vec::new();
    for class in [Class::Guaranteed, Class::Burstable, Class::BestEffort] {
        let lower = candidates.iter().filter(|one| one.class < class);
        let lacking = lacking.without(&lower.chain(&chosen).collect::<Vec<_>>());
        let of_class = candidates.iter().filter(|one| one.class == class).copied().collect();
        let nearest = nearest(lacking, of_class);
        chosen.extend(nearest);
    }
    chosen.sort_by_key(|one| one.class);
    Ok(chosen.iter().map(|one| one.uid.into()).collect())
}

/// Of these, one after the other those that give most of what is still lacking, until nothing is.
fn nearest<'a>(mut lacking: Lacking, mut candidates: Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
    let mut chosen = Vec::new();
    while !lacking.0.is_empty() {
        let order = |one: &Candidate<'_>, other: &Candidate<'_>| {
            let size = |one: &Candidate<'_>| (one.requests.memory, one.requests.cpu);
            let nearer = lacking.distance(one).total_cmp(&lacking.distance(other));
            nearer.then(size(one).cmp(&size(other))).then(one.uid.cmp(other.uid))
        };
        let Some(at) = (0..candidates.len()).min_by(|a, b| order(&candidates[*a], &candidates[*b])) else {
            break;
        };
        let next = candidates.swap_remove(at);
        lacking = lacking.without(&[&next]);
        chosen.push(next);
    }
    chosen
}

/// Ends the pods with these uids; those that are there to be waited for.
pub(crate) fn carry_out(context: &Context, uids: &[Box<str>]) -> Box<[Arc<PodHandle>]> {
    let handles: Box<[Arc<PodHandle>]> = uids.iter().filter_map(|uid| context.table.get(uid)).collect();
    for handle in &handles {
        // One that is being ended for another reason goes for that.
        if !handle.evict_once() {
            continue;
        }
        tracing::warn!(pod = %handle.key(), "a pod goes for a critical one");
        if let Some(pod) = context.pods.get(handle.key()) {
            context.tell(&pod, None, true, REASON, MESSAGE);
        }
        handle.evict(Eviction { reason: REASON, message: MESSAGE.into(), grace: None, disruption: true });
    }
    handles
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pods of class, CPU and memory, named by their numbers, what is lacking, and who goes.
    #[track_caller]
    fn check(pods: &[(Class, i64, i64)], lacking: &[(&str, i64)], expected: Result<&[usize], &str>) {
        let requests = |(_, cpu, memory): &(Class, i64, i64)| Resources {
            cpu: *cpu,
            memory: *memory,
            ..Resources::default()
        };
        let requests: Vec<_> = pods.iter().map(requests).collect();
        let names: Vec<_> = (0..pods.len()).map(|number| number.to_string()).collect();
        let candidates = pods.iter().zip(&requests).zip(&names);
        let candidates: Vec<_> = candidates
            .map(|(((class, ..), requests), uid)| Candidate { uid, class: *class, requests })
            .collect();
        let lacking = Lacking(lacking.iter().map(|(name, amount)| ((*name).into(), *amount)).collect());
        let chosen = choose(&lacking, &candidates);
        let expected = expected.map(|expected| {
            expected.iter().map(|number| number.to_string().into()).collect::<Vec<Box<str>>>()
        });
        assert_eq!(chosen, expected.map_err(|text| text.to_owned()));
    }

    #[test]
    fn as_few_and_as_small_as_can_be_go() {
        use Class::{BestEffort, Burstable, Guaranteed};
        let pods = [
            (BestEffort, 0, 0),
            (Burstable, 100, 10),
            (Burstable, 300, 30),
            (Burstable, 300, 20),
            (Guaranteed, 500, 50),
            (Guaranteed, 900, 90),
        ];
        check(&pods, &[], Ok(&[]));
        check(&pods, &[("pods", 1)], Ok(&[0]));
        check(&pods, &[("pods", 3)], Ok(&[0, 1, 3]));
        check(&pods, &[("cpu", 100)], Ok(&[1]));
        check(&pods, &[("cpu", 200)], Ok(&[3]));
        check(&pods, &[("cpu", 400)], Ok(&[3, 1]));
        check(&pods, &[("cpu", 700)], Ok(&[3, 2, 1]));
        // Beside all that are burstable a small guaranteed one does.
        check(&pods, &[("cpu", 1_000)], Ok(&[3, 2, 4]));
        check(&pods, &[("cpu", 300), ("memory", 30)], Ok(&[2]));
        check(&pods, &[("cpu", 300), ("pods", 2)], Ok(&[0, 3]));
        check(
            &pods,
            &[("cpu", 2_200), ("memory", 200), ("example.com/lamp", 1)],
            Err(
                "no set of running pods found to reclaim resources: [(res: cpu, q: 100), (res: example.com/lamp, q: 1), ]",
            ),
        );
    }
}
