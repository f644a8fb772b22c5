//! What claims and volumes share: access modes, volume modes, and how tables show them.

use serde_json::Value;

use super::{common::*, pod_spec};
use crate::{
    Cell, FieldCause,
    field::{self, Path},
    quantity::Quantity,
};

/// Access modes and their short names, in the order in which tables show them.
const ACCESS_MODES: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];
const SORTED_ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// Where the class of a claim or volume stood before there was a field for it.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Requires access modes that go together. `why` is added if there are none.
pub(super) fn check_access_modes(errors: &mut Vec<FieldCause>, path: &Path<'_>, modes: &Value, why: &str) {
    if is_empty(modes) {
        errors.push(field::required(path, why));
    }
    let (mut alone, mut other) = (false, false);
    for mode in strings(modes) {
        if !SORTED_ACCESS_MODES.contains(&mode) {
            errors.push(field::not_supported(path, mode, SORTED_ACCESS_MODES));
        } else if mode == "ReadWriteOncePod" {
            alone = true;
        } else {
            other = true;
        }
    }
    if alone && other {
        errors.push(field::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// Requires a known volume mode, if one is given.
pub(super) fn check_volume_mode(errors: &mut Vec<FieldCause>, path: &Path<'_>, mode: &Value) {
    check_optional_one_of(errors, path, mode, VOLUME_MODES);
}

/// Requires an amount above nothing.
pub(super) fn check_positive(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value) {
    check_above_zero(errors, path, value, "must be greater than zero");
}

/// Requires an amount above nothing, if there is one, in the caller's words.
pub(super) fn check_above_zero(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value, words: &str) {
    if let Some(amount) = pod_spec::amount(value)
        && amount <= Quantity::ZERO
    {
        errors.push(field::invalid(path, &amount.to_string(), words));
    }
}

/// Access modes as tables show them: each once, in a fixed order, e.g. `RWO,ROX`.
pub(super) fn access_modes_cell(modes: &Value) -> Cell {
    let has = |mode: &str| strings(modes).any(|other| other == mode);
    let list: Vec<&str> =
        ACCESS_MODES.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect();
    list.join(",").into()
}

/// An amount of storage; absent ones are nothing.
pub(super) fn storage_cell(amounts: &Value) -> Cell {
    pod_spec::amount(&amounts["storage"]).unwrap_or(Quantity::ZERO).to_string().into()
}

/// The name of the class, from the annotation or the field.
pub(super) fn class(object: &Value) -> &str {
    object["metadata"]["annotations"][CLASS_ANNOTATION]
        .as_str()
        .unwrap_or_else(|| text(&object["spec"]["storageClassName"]))
}

/// An optional text; `<unset>` if absent.
pub(super) fn or_unset(value: &Value) -> Cell {
    value.as_str().unwrap_or("<unset>").into()
}

/// The phase, or that the object is on its way out.
pub(super) fn phase_cell(object: &Value) -> Cell {
    if is_set(&object["metadata"]["deletionTimestamp"]) {
        "Terminating".into()
    } else {
        text(&object["status"]["phase"]).into()
    }
}
