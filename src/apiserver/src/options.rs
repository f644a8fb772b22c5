//! What a query says: options of lists, watches, writes and deletes, checked as Kubernetes checks them.

use std::time::Duration;

use axum::extract::Query;
use coracle_api::{
    FieldCause, Kind,
    field::{self, Path},
    status::{Cause, Details, Status},
};
use http::Uri;
use serde_json::{Value, json};

/// Parameters of a query, in order. Of several of the same name the first counts, unless all are asked for.
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Decodes a query; what cannot be decoded is as good as absent, as with Go's parser.
    pub(crate) fn of(uri: &Uri) -> Parameters {
        Parameters(Query::try_from_uri(uri).map(|Query(pairs)| pairs).unwrap_or_default())
    }

    /// The value of a parameter; empty if it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A boolean as Kubernetes reads one: present and neither `false` nor `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    pub(crate) fn optional_flag(&self, name: &str) -> Option<bool> {
        self.has(name).then(|| !matches!(self.get(name), "false" | "0"))
    }

    /// A whole number; `None` if the parameter is absent or empty.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

/// Options that are not right, as a Status: they have a kind of their own (`ListOptions.meta.k8s.io`).
fn invalid_options(kind: &'static str, causes: Vec<FieldCause>) -> Result<(), Status> {
    if causes.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
    let why = match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let details = Details {
        group: "meta.k8s.io".into(),
        kind: kind.into(),
        causes: causes.into_iter().map(Cause::from).collect(),
        ..Details::default()
    };
    Err(Status::new(422, "Invalid", format!("{kind}.meta.k8s.io \"\" is invalid: {why}"))
        .with_details(details))
}

/// Seconds that a watch may be asked to last, ten years: as good as for ever, and no clock overflows.
const MAX_TIMEOUT: u64 = 10 * 365 * 86_400;

/// How a list's `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    NotOlderThan,
    Exact,
}

/// Options of a list, a watch, or a deletecollection's selection.
pub(crate) struct ListOptions {
    pub(crate) labels: String,
    pub(crate) fields: String,
    /// 0 means all.
    pub(crate) limit: usize,
    pub(crate) continue_: String,
    /// Empty means the newest.
    pub(crate) resource_version: String,
    pub(crate) version_match: Option<VersionMatch>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the options of a list or watch.
    pub(crate) fn parse(parameters: &Parameters, watch: bool) -> Result<ListOptions, Status> {
        let version_match = parameters.get("resourceVersionMatch");
        let resource_version = parameters.get("resourceVersion");
        let continue_ = parameters.get("continue");
        let send_initial_events = parameters.optional_flag("sendInitialEvents");
        let path = Path::new("resourceVersionMatch");
        let initial = Path::new("sendInitialEvents");
        let mut causes = Vec::new();
        if watch {
            if send_initial_events.is_some() && version_match != "NotOlderThan" {
                causes.push(field::forbidden(
                    &path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            if !version_match.is_empty() {
                if send_initial_events.is_none() {
                    let why =
                        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                    causes.push(field::forbidden(&path, why));
                }
                if version_match != "NotOlderThan" {
                    causes.push(field::not_supported(&path, version_match, &["NotOlderThan"]));
                }
                if !continue_.is_empty() {
                    causes.push(field::forbidden(
                        &path,
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
            }
        } else {
            if !version_match.is_empty() {
                if resource_version.is_empty() {
                    let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                    causes.push(field::forbidden(&path, why));
                }
                if !continue_.is_empty() {
                    causes.push(field::forbidden(
                        &path,
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
                if !matches!(version_match, "Exact" | "NotOlderThan") {
                    causes.push(field::not_supported(&path, version_match, &["Exact", "NotOlderThan", ""]));
                }
                if version_match == "Exact" && resource_version == "0" {
                    let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                    causes.push(field::forbidden(&path, why));
                }
            }
            if send_initial_events.is_some() {
                causes.push(field::forbidden(&initial, "sendInitialEvents is forbidden for list"));
            }
        }
        invalid_options("ListOptions", causes)?;
        let timeout = parameters.integer("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        let limit = parameters.integer("limit")?.unwrap_or(0);
        Ok(ListOptions {
            labels: parameters.get("labelSelector").to_owned(),
            fields: parameters.get("fieldSelector").to_owned(),
            limit: usize::try_from(limit).unwrap_or(0),
            continue_: continue_.to_owned(),
            resource_version: resource_version.to_owned(),
            version_match: match version_match {
                "Exact" => Some(VersionMatch::Exact),
                "NotOlderThan" => Some(VersionMatch::NotOlderThan),
                _ => None,
            },
            timeout: timeout
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Duration::from_secs(seconds.min(MAX_TIMEOUT))),
            bookmarks: parameters.flag("allowWatchBookmarks"),
            send_initial_events,
        })
    }
}

/// What happens to fields that the schema does not know or that stand twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
}

impl WriteOptions {
    /// Reads and checks them; `kind` is what Kubernetes calls them, e.g. `CreateOptions`.
    pub(crate) fn parse(parameters: &Parameters, kind: &'static str) -> Result<WriteOptions, Status> {
        let mut causes = Vec::new();
        manager_causes(parameters.get("fieldManager"), &mut causes);
        let dry_run = dry_run(parameters.all("dryRun"), &mut causes);
        let field_validation = match parameters.get("fieldValidation") {
            "Ignore" => FieldValidation::Ignore,
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            other => {
                let path = Path::new("fieldValidation");
                causes.push(field::not_supported(&path, other, &["", "Ignore", "Strict", "Warn"]));
                FieldValidation::Strict
            }
        };
        if kind == "PatchOptions" && parameters.has("force") {
            causes.push(field::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        invalid_options(kind, causes)?;
        Ok(WriteOptions { dry_run, field_validation })
    }
}

/// Longest `fieldManager`.
const MAX_FIELD_MANAGER: usize = 128;

fn manager_causes(manager: &str, causes: &mut Vec<FieldCause>) {
    let path = Path::new("fieldManager");
    if manager.len() > MAX_FIELD_MANAGER {
        causes.push(field::too_long(&path, MAX_FIELD_MANAGER));
    }
    if let Some((at, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        causes.push(field::invalid(&path, manager, &why));
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, causes: &mut Vec<FieldCause>) -> bool {
    let values: Vec<&str> = values.filter(|v| !v.is_empty()).collect();
    if values.iter().any(|v| *v != "All") {
        causes.push(field::not_supported(&Path::new("dryRun"), &json!(values), &["All"]));
    }
    !values.is_empty()
}

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Options of a delete, from the body or from the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    /// What the request asked for; `None` leaves it to the kind and the object.
    pub(crate) propagation: Option<Propagation>,
    /// `orphanDependents: false` was asked for, which makes a pending deletion answer 202.
    pub(crate) cascades: bool,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// From the query, when there is no body.
    pub(crate) fn from_parameters(parameters: &Parameters) -> Result<DeleteOptions, Status> {
        let text = |name: &str| Some(parameters.get(name)).filter(|v| !v.is_empty()).map(str::to_owned);
        Self::checked(
            parameters.integer("gracePeriodSeconds")?,
            text("preconditions.uid").or_else(|| text("uid")),
            text("preconditions.resourceVersion"),
            parameters.get("propagationPolicy"),
            parameters.optional_flag("orphanDependents"),
            &parameters.all("dryRun").collect::<Vec<_>>(),
        )
    }

    /// From a decoded `DeleteOptions`. Its dryRun and the query's are one.
    pub(crate) fn from_body(body: &Value, parameters: &Parameters) -> Result<DeleteOptions, Status> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let dry_run = body.get("dryRun").and_then(Value::as_array);
        let mut dry_run: Vec<&str> = dry_run.into_iter().flatten().filter_map(Value::as_str).collect();
        dry_run.extend(parameters.all("dryRun"));
        Self::checked(
            body.get("gracePeriodSeconds").and_then(Value::as_i64),
            text("/preconditions/uid"),
            text("/preconditions/resourceVersion"),
            body.get("propagationPolicy").and_then(Value::as_str).unwrap_or_default(),
            body.get("orphanDependents").and_then(Value::as_bool),
            &dry_run,
        )
    }

    fn checked(
        grace: Option<i64>,
        uid: Option<String>,
        resource_version: Option<String>,
        policy: &str,
        orphan: Option<bool>,
        dry_run_values: &[&str],
    ) -> Result<DeleteOptions, Status> {
        let path = Path::new("propagationPolicy");
        let mut causes = Vec::new();
        if orphan.is_some() && !policy.is_empty() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            causes.push(field::invalid(&path, policy, why));
        }
        let propagation = match policy {
            "" => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            "Orphan" => Some(Propagation::Orphan),
            other => {
                causes.push(field::not_supported(
                    &path,
                    other,
                    &["Foreground", "Background", "Orphan", "nil"],
                ));
                None
            }
        };
        let dry_run = dry_run(dry_run_values.iter().copied(), &mut causes);
        invalid_options("DeleteOptions", causes)?;
        // Kubernetes treats a negative grace period as one second.
        let grace = grace.map(|seconds| if seconds < 0 { 1 } else { seconds });
        Ok(DeleteOptions {
            grace,
            uid,
            resource_version,
            propagation,
            cascades: orphan == Some(false),
            dry_run,
        })
    }
}

/// Parses a `resourceVersion` of a list or watch; empty is `None`.
pub(crate) fn revision(kind: &Kind, text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        Status::invalid(kind, "", vec![field::invalid(&Path::new("resourceVersion"), text, &why)])
    })
}
