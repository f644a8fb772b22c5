//! The pod failure policy and the success policy of a job.

use k8s_openapi::api::{
    batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern},
    core::v1::{ContainerStatus, Pod, PodCondition},
};

use super::indexes::Indexes;
use crate::pods;

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It counts towards the limits.
    Counts,
    /// It does not count.
    Ignored,
    /// Its index has failed.
    FailsIndex,
    /// The job has failed, with this message.
    FailsJob(String),
}

impl Failure {
    pub(super) fn counts(&self) -> bool {
        *self != Failure::Ignored
    }
}

/// What the failure of `pod` means by the job's policy: the first rule that matches decides.
pub(super) fn failure(spec: &JobSpec, pod: &Pod) -> Failure {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (at, rule) in rules.enumerate() {
        let (namespace, name) = (pods::namespace(&pod.metadata), pods::name(&pod.metadata));
        let action = rule.action.as_str();
        let told = if let Some(required) = &rule.on_exit_codes {
            let Some((container, code)) = exited(pod, required) else { continue };
            format!(
                "Container {container} for pod {namespace}/{name} failed with exit code {code} matching {action} rule at index {at}"
            )
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            let Some(condition) = conditioned(pod, patterns) else { continue };
            let type_ = &condition.type_;
            format!("Pod {namespace}/{name} has condition {type_} matching {action} rule at index {at}")
        };
        match action {
            "Ignore" => return Failure::Ignored,
            "Count" => return Failure::Counts,
            "FailIndex" => return Failure::FailsIndex,
            "FailJob" => return Failure::FailsJob(told),
            // Of a newer API: as if the rule were not there.
            _ => {}
        }
    }
    Failure::Counts
}

/// The container whose exit code matches, and the code.
fn exited<'a>(pod: &'a Pod, required: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.filter(|container| required.container_name.as_ref().is_none_or(|name| *name == container.name))
        .filter_map(|container| Some((container.name.as_str(), exit_code(container)?)))
        .find(|(_, code)| match required.operator.as_str() {
            "In" => required.values.contains(code),
            "NotIn" => !required.values.contains(code),
            _ => false,
        })
}

/// With what a container failed.
fn exit_code(container: &ContainerStatus) -> Option<i32> {
    let terminated = container.state.as_ref()?.terminated.as_ref()?;
    Some(terminated.exit_code).filter(|code| *code != 0)
}

fn conditioned<'a>(
    pod: &'a Pod,
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| {
        patterns.iter().any(|pattern| pattern.type_ == condition.type_ && pattern.status == condition.status)
    })
}

/// The message of the first rule of the success policy that the succeeded indexes satisfy.
pub(super) fn success(spec: &JobSpec, completions: i32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    let met = rules.enumerate().find(|(_, rule)| {
        let count = rule.succeeded_count.map(i64::from);
        match &rule.succeeded_indexes {
            Some(text) => {
                let required = Indexes::parse(text, completions);
                let common = required.common(succeeded);
                !required.is_empty()
                    && (common == required.total() || count.is_some_and(|count| common >= count))
            }
            None => count.is_some_and(|count| succeeded.total() >= count),
        }
    });
    met.map(|(at, _)| format!("Matched rules at index {at}"))
}
