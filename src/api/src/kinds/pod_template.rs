//! PodTemplate: a template of pods as an object of its own.

use jiff::Timestamp;
use serde_json::Value;

use super::{common::*, pod_spec, workload};
use crate::{Cell, Column, FieldCause, Hooks, Kind, Scope, field::Path};

pub(super) fn kind() -> Kind {
    define("", "v1", "PodTemplate", "podtemplates", Scope::Namespaced, PodTemplate)
}

struct PodTemplate;

static COLUMNS: [Column; 4] = [
    Column::object_name(),
    column("Containers", "Names of the containers in the template."),
    column("Images", "Images of the containers in the template."),
    column("Pod Labels", "Labels of the pods."),
];

impl Hooks for PodTemplate {
    fn default(&self, object: &mut Value) {
        workload::default_template(object);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        pod_spec::check_template(&mut errors, &Path::new("template"), &object["template"]);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        let template = &object["template"];
        let [containers, images] = containers_and_images(&template["spec"]);
        vec![name(object), containers, images, format_labels(&template["metadata"]["labels"]).into()]
    }
}
