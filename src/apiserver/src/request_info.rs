//! What a method and a path mean: the verb, and which resource, object or subresource.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::authorize::Action;

/// What is asked of a resource, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// The word that discovery, RBAC and metrics use.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// True if it may change something.
    pub(crate) fn is_mutating(self) -> bool {
        !matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// A request for a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    pub(crate) verb: Verb,
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    /// Plural, e.g. `pods`.
    pub(crate) resource: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    /// Empty for cluster-wide resources and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for the collection.
    pub(crate) name: String,
}

impl RequestInfo {
    /// What authorization looks at.
    pub(crate) fn action(&self) -> Action<'_> {
        Action::Resource {
            verb: self.verb.as_str(),
            group: &self.group,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
        }
    }

    /// True for what lasts as long as the client likes: watches, logs, streams, proxied requests.
    pub(crate) fn is_long(&self) -> bool {
        const LONG: &[&str] = &["attach", "exec", "log", "portforward", "proxy"];
        self.verb == Verb::Watch || LONG.contains(&self.subresource.as_str())
    }
}

/// What a path is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A resource below `/api/v1` or `/apis/{group}/{version}`.
    Resource(RequestInfo),
    /// A resource, but nothing that this method can do with it.
    MethodNotAllowed,
    /// Anything else: discovery, health, metrics, unknown paths.
    Other,
}

/// Longest path that is looked into. Names have at most 253 characters, and a path has at most two names
/// and three resource words in it.
const MAX_PATH: usize = 2048;

impl RequestInfo {
    /// Reads a method and a path. `watch` says whether the query asks for a watch.
    pub(crate) fn parse(method: &Method, path: &str, watch: bool) -> Target {
        // What follows `/proxy` is somebody else's path: it is passed on as it is.
        let (path, proxied) = match split_proxy(path) {
            Some((head, _)) => (head, true),
            None => (path, false),
        };
        if path.len() > MAX_PATH {
            return Target::Other;
        }
        let Some(segments) = segments(path) else { return Target::Other };
        let mut rest = segments.as_slice();
        let (group, version) = match rest {
            [api, version, tail @ ..] if api == "api" && !tail.is_empty() => {
                rest = tail;
                (String::new(), version.clone())
            }
            [apis, group, version, tail @ ..] if apis == "apis" && !tail.is_empty() => {
                rest = tail;
                (group.clone(), version.clone())
            }
            _ => return Target::Other,
        };
        // The old way to ask for a watch: a prefix in place of the parameter.
        let mut watch = watch;
        if let [first, tail @ ..] = rest
            && first == "watch"
            && !tail.is_empty()
            && *method == Method::GET
        {
            watch = true;
            rest = tail;
        }
        let mut namespace = String::new();
        if let [namespaces, name, tail @ ..] = rest
            && namespaces == "namespaces"
            && !tail.is_empty()
            && !(tail.len() == 1 && NAMESPACE_SUBRESOURCES.contains(&tail[0].as_str()))
        {
            namespace = name.clone();
            rest = tail;
        }
        let (resource, name, subresource) = match rest {
            [resource] => (resource.clone(), String::new(), String::new()),
            [resource, name] => (resource.clone(), name.clone(), String::new()),
            [resource, name, subresource @ ..] => (resource.clone(), name.clone(), subresource.join("/")),
            [] => return Target::Other,
        };
        let Some(verb) = verb(method, !name.is_empty(), watch, !subresource.is_empty()).or(
            // OPTIONS and the like change nothing.
            proxied.then_some(Verb::Get),
        ) else {
            return Target::MethodNotAllowed;
        };
        Target::Resource(RequestInfo { verb, group, version, resource, subresource, namespace, name })
    }
}

/// Splits the path of a proxy subresource after the word `proxy`, undecoded; `None` for other paths.
pub(crate) fn split_proxy(path: &str) -> Option<(&str, &str)> {
    let mut words = [""; 7];
    let mut end = 1;
    for index in 0..words.len() {
        let rest = path.get(end..)?;
        let word = rest.split('/').next()?;
        words[index] = word;
        end += word.len();
        let here = match words {
            ["api", _, "nodes", _, "proxy", "", ""] => index == 4,
            ["api", _, "namespaces", _, "pods" | "services", _, "proxy"] => index == 6,
            _ => false,
        };
        if here {
            return Some(path.split_at(end));
        }
        end += 1;
    }
    None
}

/// What can follow a namespace's name without being a resource in it.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

fn verb(method: &Method, named: bool, watch: bool, sub: bool) -> Option<Verb> {
    Some(match *method {
        Method::GET | Method::HEAD if watch && !sub => Verb::Watch,
        Method::GET | Method::HEAD if named => Verb::Get,
        Method::GET | Method::HEAD => Verb::List,
        Method::POST if !named || sub => Verb::Create,
        Method::PUT if named => Verb::Update,
        Method::PATCH if named => Verb::Patch,
        Method::DELETE if named => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return None,
    })
}

/// The decoded segments of a path; `None` if one of them cannot be part of a storage key: no name
/// contains a slash, and so no request can reach beyond the resource and namespace it names.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut segments = Vec::new();
    for raw in path.split('/') {
        let segment = percent_decode_str(raw).decode_utf8().ok()?;
        let hostile = segment.is_empty() || segment == "." || segment == "..";
        if hostile || segment.contains(|c: char| c == '/' || c.is_control()) {
            return None;
        }
        segments.push(segment.into_owned());
    }
    Some(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &Method, path: &str, watch: bool, expected: &str) {
        let said = match RequestInfo::parse(method, path, watch) {
            Target::Resource(i) => {
                let parts = [&i.group, &i.version, &i.namespace, &i.resource, &i.name, &i.subresource];
                format!("{} {}", i.verb.as_str(), parts.map(|p| if p.is_empty() { "-" } else { p }).join(" "))
            }
            Target::MethodNotAllowed => "405".into(),
            Target::Other => "other".into(),
        };
        assert_eq!(said, expected, "{method} {path}");
    }

    #[test]
    fn paths() {
        check(&Method::GET, "/api/v1/pods", false, "list - v1 - pods - -");
        check(&Method::GET, "/api/v1/namespaces/a/pods", true, "watch - v1 a pods - -");
        check(&Method::GET, "/api/v1/watch/namespaces/a/pods/x", false, "watch - v1 a pods x -");
        check(&Method::POST, "/api/v1/namespaces/a/pods/", false, "create - v1 a pods - -");
        check(&Method::POST, "/api/v1/namespaces/a/pods/x/binding", false, "create - v1 a pods x binding");
        check(&Method::GET, "/api/v1/namespaces", false, "list - v1 - namespaces - -");
        check(&Method::DELETE, "/api/v1/namespaces/a", false, "delete - v1 - namespaces a -");
        check(&Method::PUT, "/api/v1/namespaces/a/finalize", false, "update - v1 - namespaces a finalize");
        check(&Method::PATCH, "/api/v1/namespaces/a/status", false, "patch - v1 - namespaces a status");
        check(
            &Method::DELETE,
            "/apis/apps/v1/namespaces/a/deployments",
            false,
            "deletecollection apps v1 a deployments - -",
        );
        check(&Method::GET, "/apis/x.io/v1/things/t/status", true, "get x.io v1 - things t status");
        check(&Method::GET, "/api/v1/nodes/n/proxy/metrics/x", false, "get - v1 - nodes n proxy");
        check(&Method::OPTIONS, "/api/v1/nodes/n/proxy", false, "get - v1 - nodes n proxy");
        let pod = "/api/v1/namespaces/a/pods/http:x:80/proxy//..%2f/";
        check(&Method::POST, pod, false, "create - v1 a pods http:x:80 proxy");
        assert_eq!(split_proxy(pod), Some((&pod[..41], "//..%2f/")));
        assert_eq!(split_proxy("/api/v1/namespaces/a/configmaps/x/proxy"), None);
        check(&Method::PATCH, "/api/v1/pods", false, "405");
        check(&Method::POST, "/api/v1/namespaces/a/pods/x", false, "405");
        check(&Method::GET, "/api/v1", false, "other");
        check(&Method::GET, "/apis/apps/v1", false, "other");
        check(&Method::GET, "/healthz", false, "other");
        check(&Method::GET, "/api/v1/namespaces/a%2Fpods/pods/x", false, "other");
        check(&Method::GET, "/api/v1/namespaces/../pods", false, "other");
        check(&Method::GET, "/api/v1//pods", false, "other");
    }
}
