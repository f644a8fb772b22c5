//! The pods that a job makes.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
};

use super::{
    plan::Slot,
    view::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED},
};
use crate::{podcontrol, pods};

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The longest prefix of a generated name: five random characters follow in a name of 63.
const LONGEST_PREFIX: usize = 58;

/// The pod for a slot.
pub(super) fn pod(job: &Job, slot: &Slot) -> Pod {
    let template = job.spec.as_ref().map(|spec| &spec.template);
    let mut pod = podcontrol::from_template(job, template);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|known| known == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = slot.index else { return pod };
    let name = pods::name(&job.metadata);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some(failures) = slot.failures {
        annotations.insert(INDEX_FAILURES.to_owned(), failures.counted.to_string());
        if failures.ignored > 0 {
            annotations.insert(INDEX_IGNORED.to_owned(), failures.ignored.to_string());
        }
    }
    pod.metadata.generate_name = Some(prefix(name, index));
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        add_variable(container);
    }
    pod
}

fn prefix(name: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let mut cut = name.len().min(LONGEST_PREFIX.saturating_sub(end.len()));
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{end}", &name[..cut])
}

/// Tells a container its index, unless it has a variable of that name.
fn add_variable(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}
