//! LimitRange: how much single pods, containers and claims of a namespace may have, and what containers
//! get that say nothing.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{common::*, pod_spec};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    names,
    quantity::{Format, Quantity},
};

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];
/// From here on thousandths do not fit a 64-bit number.
const MAX_MILLI: i64 = i64::MAX / 1000;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["limits"]),
        ..define("", "v1", "LimitRange", "limitranges", Scope::Namespaced, LimitRange)
    }
}

struct LimitRange;

static COLUMNS: [Column; 2] =
    [Column::object_name(), Column::new("Created At", "date", 0, "When the object was created.")];

impl Hooks for LimitRange {
    fn default(&self, object: &mut Value) {
        let Some(spec) = existing_mut(object, "spec") else { return };
        for item in items_mut(spec, "limits") {
            if text(&item["type"]) == "Container" {
                default_item(item);
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let path = Path::new("spec.limits");
        let mut types = HashSet::new();
        for (index, item) in items(&object["spec"]["limits"]).iter().enumerate() {
            let path = path.index(index);
            let type_ = text(&item["type"]);
            check_type(&mut errors, &path.child("type"), type_);
            if !types.insert(type_) {
                errors.push(field::duplicate(&path.child("type"), type_));
            }
            check_item(&mut errors, &path, item);
        }
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        vec![name(object), text(&object["metadata"]["creationTimestamp"]).into()]
    }
}

/// The highest limit is the default one, which is the default request too, as is the lowest.
fn default_item(item: &mut Value) {
    let amounts = |item: &Value, name: &str| item[name].as_object().cloned().unwrap_or_default();
    let mut limits = amounts(item, "default");
    merge_absent(&mut limits, &amounts(item, "max"));
    let mut requests = amounts(item, "defaultRequest");
    merge_absent(&mut requests, &limits);
    merge_absent(&mut requests, &amounts(item, "min"));
    for (name, amounts) in [("default", limits), ("defaultRequest", requests)] {
        if !amounts.is_empty() {
            set(item, name, amounts);
        }
    }
}

fn merge_absent(amounts: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, amount) in more {
        amounts.entry(name).or_insert_with(|| amount.clone());
    }
}

fn check_type(errors: &mut Vec<FieldCause>, path: &Path<'_>, type_: &str) {
    let before = errors.len();
    check_text(errors, path, type_, names::qualified_name);
    if errors.len() == before && !type_.contains('/') && !TYPES.contains(&type_) {
        errors.push(field::invalid(path, type_, "must be a standard limit type or fully qualified"));
    }
}

fn check_item(errors: &mut Vec<FieldCause>, path: &Path<'_>, item: &Value) {
    let type_ = text(&item["type"]);
    let mut resources = BTreeSet::new();
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let path_of_list = path.child(list);
        if list == "maxLimitRequestRatio" {
            check_claim_bounds(errors, path, item);
        }
        if type_ == "Pod" && list.starts_with("default") {
            if !is_empty(&item[list]) {
                errors.push(field::forbidden(&path_of_list, "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, _) in entries(&item[list]) {
            let path = path_of_list.key(name);
            if matches!(type_, "Pod" | "Container") {
                pod_spec::check_container_resource(errors, &path, name);
            } else {
                pod_spec::check_resource_name(errors, &path, name);
            }
            resources.insert(name.as_str());
        }
    }
    for resource in resources {
        check_resource(errors, path, item, resource);
    }
}

fn check_claim_bounds(errors: &mut Vec<FieldCause>, path: &Path<'_>, item: &Value) {
    let bounded = ["min", "max"].iter().any(|name| is_set(&item[*name]["storage"]));
    if text(&item["type"]) == "PersistentVolumeClaim" && !bounded {
        let words = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(field::required(&path.child("limits"), words));
    }
}

/// The bounds of one resource must leave room for each other.
fn check_resource(errors: &mut Vec<FieldCause>, path: &Path<'_>, item: &Value, resource: &str) {
    let pod = text(&item["type"]) == "Pod";
    let amount = |list: &str| {
        let ignored = pod && list.starts_with("default");
        pod_spec::amount(&item[list][resource]).filter(|_| !ignored)
    };
    let (min, max) = (amount("min"), amount("max"));
    let (limit, request) = (amount("default"), amount("defaultRequest"));
    // Lower bound, upper bound, their names, the list that is at fault, and whose amount is shown.
    let pairs = [
        (min, max, "min value", "max value", "min", true),
        (min, request, "min value", "default request value", "defaultRequest", false),
        (request, max, "default request value", "max value", "defaultRequest", true),
        (request, limit, "default request value", "default limit value", "defaultRequest", true),
        (min, limit, "min value", "default value", "default", true),
        (limit, max, "default value", "max value", "default", false),
    ];
    for (low, high, low_name, high_name, list, show_low) in pairs {
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            let words = format!("{low_name} {low} is greater than {high_name} {high}");
            let shown = if show_low { low } else { high }.to_string();
            errors.push(field::invalid(&path.child(list).key(resource), &shown, &words));
        }
    }
    if let Some(ratio) = amount("maxLimitRequestRatio") {
        let list = path.child("maxLimitRequestRatio");
        check_ratio(errors, &list.key(resource), ratio, min.zip(max));
    }
    if let (Some(limit), Some(request)) = (limit, request)
        && limit != request
        && !pod_spec::may_overcommit(resource)
    {
        let words =
            format!("default value {limit} must equal to defaultRequest value {request} in {resource}");
        let list = path.child("defaultRequest");
        errors.push(field::invalid(&list.key(resource), &request.to_string(), &words));
    }
}

fn check_ratio(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    ratio: Quantity,
    bounds: Option<(Quantity, Quantity)>,
) {
    let shown = ratio.to_string();
    if ratio < Quantity::units(1, Format::DecimalSi) {
        errors.push(field::invalid(path, &shown, &format!("ratio {shown} is less than 1")));
    }
    let Some((min, max)) = bounds else { return };
    let small = [ratio, min, max].iter().all(|amount| amount.value() < MAX_MILLI);
    let number = |amount: Quantity| if small { amount.milli() } else { amount.value() };
    // As in Kubernetes: a lowest amount of nothing makes the most of it.
    #[expect(clippy::cast_precision_loss, reason = "the ratio is a rough bound")]
    let most = number(max) as f64 / number(min) as f64;
    #[expect(clippy::cast_precision_loss, reason = "the ratio is a rough bound")]
    let wanted = if small { ratio.milli() as f64 / 1000.0 } else { ratio.value() as f64 };
    if wanted > most {
        let words = format!("ratio {shown} is greater than max/min = {most:.6}");
        errors.push(field::invalid(path, &shown, &words));
    }
}
