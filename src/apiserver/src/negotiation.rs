//! What the client wants back: the form of an object and its media type, from `Accept`.

use coracle_api::status::Status;
use http::{HeaderMap, header};

/// What can be said in a 406.
const ACCEPTED: &[&str] = &["application/json", "application/yaml"];
/// Clauses of one `Accept` header that are looked at.
const MAX_CLAUSES: usize = 32;

/// In which form objects are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// A `Table` of `meta.k8s.io` in this version: what `kubectl get` prints.
    Table {
        /// `v1` or `v1beta1`.
        version: &'static str,
    },
    /// `PartialObjectMetadata`, or a list of it.
    Partial {
        /// `v1` or `v1beta1`.
        version: &'static str,
    },
}

/// The media type of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Yaml,
}

impl Media {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
        }
    }
}

/// Form and media type together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) form: Form,
    pub(crate) media: Media,
}

/// One clause of `Accept`: `type;key=value;…`, without its quality.
pub(crate) struct Clause<'a> {
    pub(crate) media: &'a str,
    pub(crate) as_: &'a str,
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
}

/// The clauses of all `Accept` headers, the preferred first.
pub(crate) fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut weighed: Vec<(f32, Clause<'_>)> = Vec::new();
    for text in values.flat_map(|v| v.split(',')).take(MAX_CLAUSES) {
        let mut parts = text.split(';').map(str::trim);
        let mut clause = Clause { media: parts.next().unwrap_or_default(), as_: "", group: "", version: "" };
        let mut quality = 1.0;
        for (key, value) in parts.filter_map(|p| p.split_once('=')) {
            match key.trim() {
                "as" => clause.as_ = value.trim(),
                "g" => clause.group = value.trim(),
                "v" => clause.version = value.trim(),
                "q" => quality = value.trim().parse().unwrap_or(1.0),
                _ => {}
            }
        }
        weighed.push((quality, clause));
    }
    weighed.sort_by(|a, b| b.0.total_cmp(&a.0));
    weighed.into_iter().map(|(_, clause)| clause).collect()
}

/// Picks the first clause that can be served. `list` says whether the answer is a collection, for which
/// `PartialObjectMetadataList` is asked.
pub(crate) fn negotiate(headers: &HeaderMap, list: bool) -> Result<Output, Status> {
    let plain = Output { form: Form::Object, media: Media::Json };
    let clauses = clauses(headers);
    if clauses.is_empty() {
        return Ok(plain);
    }
    clauses.iter().find_map(|clause| serve(clause, list)).ok_or_else(|| Status::not_acceptable(ACCEPTED))
}

fn serve(clause: &Clause<'_>, list: bool) -> Option<Output> {
    let media = match clause.media {
        "application/json" | "application/*" | "*/*" | "" => Media::Json,
        "application/yaml" => Media::Yaml,
        _ => return None,
    };
    let version = match (clause.group, clause.version) {
        ("meta.k8s.io", "v1") => Some("v1"),
        ("meta.k8s.io", "v1beta1") => Some("v1beta1"),
        _ => None,
    };
    let form = match clause.as_ {
        "" => Form::Object,
        "Table" => Form::Table { version: version? },
        "PartialObjectMetadataList" if list => Form::Partial { version: version? },
        "PartialObjectMetadata" if !list => Form::Partial { version: version? },
        _ => return None,
    };
    Some(Output { form, media })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, list: bool, form: Option<Form>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        assert_eq!(negotiate(&headers, list).ok().map(|o| o.form), form, "{accept}");
    }

    #[test]
    fn forms() {
        let table = Form::Table { version: "v1" };
        let partial = Form::Partial { version: "v1" };
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", true, Some(table));
        check("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", true, Some(Form::Object));
        check("application/json;as=Table;v=v9;g=meta.k8s.io", true, None);
        check("application/vnd.kubernetes.protobuf,application/json", false, Some(Form::Object));
        check("application/vnd.kubernetes.protobuf", false, None);
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", true, Some(partial));
        check("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", false, Some(partial));
        check("application/json;q=0.1, application/json;as=Table;v=v1;g=meta.k8s.io", false, Some(table));
        check("text/html,*/*;q=0.8", false, Some(Form::Object));
        check("application/json;stream=watch", false, Some(Form::Object));
    }
}
