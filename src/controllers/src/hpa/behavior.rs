//! What becomes of a recommendation: how it is smoothed over a window, and how fast it may be followed.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec};

/// Scaling down waits so long for a higher recommendation. Kubernetes' time.
const DOWN_WINDOW: i32 = 300;

/// As many may always be asked for at once where no behavior is given, and twice as many as there are.
/// Kubernetes' number.
const PLAIN_LEAST: i32 = 4;

/// The longest window that the API allows; nothing is remembered for longer.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// What is remembered of an autoscaler. Lost with the process, as in Kubernetes.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// What was recommended, and when.
    recommendations: Vec<(Timestamp, i32)>,
    /// By how much the target was scaled, and when.
    changes: Vec<(Timestamp, i32)>,
}

impl Memory {
    /// The first look counts as a recommendation to leave things as they are.
    pub(super) fn begin(&mut self, replicas: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, replicas));
        }
    }

    pub(super) fn scaled(&mut self, by: i32, now: Timestamp) {
        self.changes.push((now, by));
        self.changes.retain(|(at, _)| now.duration_since(*at) <= LONGEST);
    }

    fn recommend(&mut self, replicas: i32, now: Timestamp) {
        self.recommendations.push((now, replicas));
        self.recommendations.retain(|(at, _)| now.duration_since(*at) <= LONGEST);
    }

    /// The sum of changes in the last seconds: positive or negative ones.
    fn changed(&self, seconds: i32, up: bool, now: Timestamp) -> i32 {
        let period = SignedDuration::from_secs(i64::from(seconds));
        let within = self.changes.iter().filter(|(at, _)| now.duration_since(*at) < period);
        let all = within.filter(|(_, by)| (*by > 0) == up);
        all.fold(0_i32, |sum, (_, by)| sum.saturating_add(by.saturating_abs()))
    }
}

/// A number with the reason and message of the condition that goes with it.
pub(super) type Reasoned = (i32, &'static str, &'static str);

/// The rules of a spec, with what Kubernetes fills in.
pub(super) struct Rules {
    up: HPAScalingRules,
    down: HPAScalingRules,
    /// The spec says nothing of behavior. The API fills in none, and Kubernetes then limits otherwise.
    plain: bool,
    pub(super) least: i32,
    pub(super) most: i32,
}

impl Rules {
    pub(super) fn new(spec: &HorizontalPodAutoscalerSpec) -> Rules {
        let behavior = spec.behavior.clone().unwrap_or_default();
        let policy =
            |type_: &str, value| HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds: 15 };
        let fill = |rules: Option<HPAScalingRules>, window, policies| {
            let mut rules = rules.unwrap_or_default();
            rules.stabilization_window_seconds.get_or_insert(window);
            rules.policies = rules.policies.filter(|own| !own.is_empty()).or(Some(policies));
            rules
        };
        Rules {
            up: fill(behavior.scale_up, 0, vec![policy("Pods", 4), policy("Percent", 100)]),
            down: fill(behavior.scale_down, DOWN_WINDOW, vec![policy("Percent", 100)]),
            plain: spec.behavior.is_none(),
            least: spec.min_replicas.unwrap_or(1),
            most: spec.max_replicas,
        }
    }

    pub(super) fn tolerances(&self) -> (Option<&str>, Option<&str>) {
        (
            self.up.tolerance.as_ref().map(|quantity| quantity.0.as_str()),
            self.down.tolerance.as_ref().map(|quantity| quantity.0.as_str()),
        )
    }

    /// The recommendation, held back by other recent ones. Remembers it.
    pub(super) fn stabilise(
        &self,
        memory: &mut Memory,
        current: i32,
        desired: i32,
        now: Timestamp,
    ) -> Reasoned {
        let within = |seconds: Option<i32>| {
            let window = SignedDuration::from_secs(i64::from(seconds.unwrap_or(0)));
            let recent =
                memory.recommendations.iter().filter(move |(at, _)| now.duration_since(*at) < window);
            recent.map(|(_, replicas)| *replicas).chain([desired])
        };
        let lowest = within(self.up.stabilization_window_seconds).min().unwrap_or(desired);
        let highest = within(self.down.stabilization_window_seconds).max().unwrap_or(desired);
        memory.recommend(desired, now);
        let stable = current.max(lowest).min(highest);
        if stable == desired {
            (stable, "ReadyForNewScale", "recommended size matches current size")
        } else if desired >= current {
            let message = "recent recommendations were lower than current one, applying the lowest recent recommendation";
            (stable, "ScaleUpStabilized", message)
        } else {
            let message = "recent recommendations were higher than current one, applying the highest recent recommendation";
            (stable, "ScaleDownStabilized", message)
        }
    }

    /// As much of the way to `desired` as the policies and bounds allow.
    pub(super) fn limit(&self, memory: &Memory, current: i32, desired: i32, now: Timestamp) -> Reasoned {
        if desired > current {
            let fastest = self.highest(memory, current, now).max(current);
            let (most, reason, message) = if self.most > fastest {
                let message = "the desired replica count is increasing faster than the maximum scale rate";
                (fastest, "ScaleUpLimit", message)
            } else {
                let message = "the desired replica count is more than the maximum replica count";
                (self.most, "TooManyReplicas", message)
            };
            if desired > most {
                return (most, reason, message);
            }
        } else if desired < current {
            let fastest = self.lowest(memory, current, now).min(current);
            let (least, reason, message) = if self.least < fastest {
                let message = "the desired replica count is decreasing faster than the maximum scale rate";
                (fastest, "ScaleDownLimit", message)
            } else {
                let message = "the desired replica count is less than the minimum replica count";
                (self.least, "TooFewReplicas", message)
            };
            if desired < least {
                return (least, reason, message);
            }
        }
        (desired, "DesiredWithinRange", "the desired count is within the acceptable range")
    }

    fn highest(&self, memory: &Memory, current: i32, now: Timestamp) -> i32 {
        if self.plain {
            return current.saturating_mul(2).max(PLAIN_LEAST);
        }
        let proposals =
            Self::proposals(&self.up, memory, current, now, |start, policy| match policy.type_.as_str() {
                "Percent" => (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
                _ => start.saturating_add(policy.value),
            });
        match self.up.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => proposals.min().unwrap_or(current),
            _ => proposals.max().unwrap_or(current),
        }
    }

    fn lowest(&self, memory: &Memory, current: i32, now: Timestamp) -> i32 {
        let proposals =
            Self::proposals(&self.down, memory, current, now, |start, policy| match policy.type_.as_str() {
                "Percent" => (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
                _ => start.saturating_sub(policy.value),
            });
        match self.down.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => proposals.max().unwrap_or(current),
            _ => proposals.min().unwrap_or(current),
        }
    }

    /// What each policy allows, counted from where the target was at the begin of the policy's period.
    fn proposals(
        rules: &HPAScalingRules,
        memory: &Memory,
        current: i32,
        now: Timestamp,
        allows: fn(i32, &HPAScalingPolicy) -> i32,
    ) -> impl Iterator<Item = i32> {
        rules.policies.iter().flatten().map(move |policy| {
            let added = memory.changed(policy.period_seconds, true, now);
            let removed = memory.changed(policy.period_seconds, false, now);
            allows(current.saturating_sub(added).saturating_add(removed), policy)
        })
    }
}
