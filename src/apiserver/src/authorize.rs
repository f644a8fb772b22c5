//! Who may do what, until there are roles.
//!
//! | who | may |
//! | --- | --- |
//! | `system:masters`, nodes, the control plane, everybody with a certificate of the cluster | everything |
//! | service accounts | read discovery; ask about themselves; read the objects of their own namespace, but secrets |
//! | anybody else | nothing |
//!
//! A service account's token lies in the file system of a pod whose code may be a stranger's. So it can look
//! around where it lives and cannot change anything: no writes, no exec, no proxy, no tokens of others. What
//! an account should be allowed beyond that will be said by roles.

use crate::{
    auth::{AUTHENTICATED, User},
    tokens::USER_PREFIX,
};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action<'a> {
    /// A verb on a resource.
    Resource {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        /// Empty for all namespaces and for cluster-wide resources.
        namespace: &'a str,
    },
    /// A method in lower case on any other path.
    Path { verb: &'a str, path: &'a str },
}

/// Verbs that change nothing.
const READS: &[&str] = &["get", "list", "watch"];
/// Resources of a namespace that its service accounts do not see.
const HIDDEN: &[&str] = &["secrets"];
/// Subresources that are read and nothing else. Others connect to somewhere.
const READABLE: &[&str] = &["", "log", "scale", "status"];
/// Questions about oneself.
pub(crate) const ABOUT_SELF: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];
/// Paths that every authenticated user may read: discovery, version, health, and how tokens are checked.
pub(crate) const DISCOVERY: &[&str] = &[
    "/.well-known/openid-configuration",
    "/api",
    "/apis",
    "/healthz",
    "/livez",
    "/openapi",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
];

/// The namespace of a user that is a service account. The name alone decides: groups only add to what a user
/// may do, so who leaves them out must not get more by it. The namespace is empty if the name has none.
pub(crate) fn account_namespace(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix(USER_PREFIX)?;
    Some(name.split(':').next().unwrap_or_default())
}

/// True if the user may do this.
pub(crate) fn allows(user: &User, action: Action<'_>) -> bool {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        return false;
    }
    let Some(own) = account_namespace(user) else { return true };
    match action {
        Action::Path { verb, path } => {
            let below = |known: &str| {
                path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            matches!(verb, "get" | "head") && (path == "/" || DISCOVERY.iter().any(|known| below(known)))
        }
        Action::Resource { verb, group, resource, subresource, namespace } => {
            let about_self = verb == "create" && ABOUT_SELF.contains(&(group, resource));
            let reads = READS.contains(&verb) && READABLE.contains(&subresource);
            let hidden = group.is_empty() && HIDDEN.contains(&resource);
            let at_home = !own.is_empty() && namespace == own;
            about_self || (reads && at_home && !hidden)
        }
    }
}

/// Why not, in Kubernetes' words.
pub(crate) fn refusal(user: &User, action: Action<'_>) -> String {
    let name = &user.name;
    match action {
        Action::Path { verb, path } => format!("User {name:?} cannot {verb} path {path:?}"),
        Action::Resource { verb, group, resource, subresource, namespace } => {
            let resource = match subresource {
                "" => resource.to_owned(),
                subresource => format!("{resource}/{subresource}"),
            };
            let place = match namespace {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!("User {name:?} cannot {verb} resource {resource:?} in API group {group:?} {place}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[track_caller]
    fn check(user: &User, verb: &str, path: &str, expected: bool) {
        let action = match path.split(' ').collect::<Vec<_>>().as_slice() {
            [path] => Action::Path { verb, path },
            [group, namespace, resource] => {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                Action::Resource { verb, group, resource, subresource, namespace }
            }
            _ => panic!("a path, or group, namespace and resource"),
        };
        assert_eq!(allows(user, action), expected, "{verb} {path}");
    }

    #[test]
    fn accounts_look_around_where_they_live() {
        let robot = User::account("ns", "robot", "u", BTreeMap::new());
        for (verb, path, expected) in [
            ("get", "/apis", true),
            ("get", "/openapi/v3", true),
            ("get", "/apiserver", false),
            ("get", "/metrics", false),
            ("get", "/v2/", false),
            ("post", "/api", false),
            ("list", " ns pods", true),
            ("get", " ns pods/log", true),
            ("watch", "apps ns deployments", true),
            ("get", " ns secrets", false),
            ("get", " ns pods/exec", false),
            ("get", " ns pods/proxy", false),
            ("create", " ns pods", false),
            ("create", " ns serviceaccounts/token", false),
            ("list", " other pods", false),
            ("list", "  pods", false),
            ("list", "  nodes", false),
            ("create", "authorization.k8s.io  selfsubjectaccessreviews", true),
            ("create", "authentication.k8s.io  tokenreviews", false),
        ] {
            check(&robot, verb, path, expected);
        }
        check(&User::new("system:node:n", &["system:nodes"]), "create", " ns serviceaccounts/token", true);
        let nobody = User { groups: Vec::new(), ..User::new("x", &[]) };
        check(&nobody, "get", "/api", false);
    }

    #[test]
    fn the_name_makes_an_account() {
        let robot = User::new("system:serviceaccount:ns:robot", &["system:masters"]);
        check(&robot, "list", " ns pods", true);
        check(&robot, "create", " ns pods", false);
        for name in ["system:serviceaccount:", "system:serviceaccount::robot"] {
            check(&User::new(name, &[]), "list", "  nodes", false);
        }
    }
}
