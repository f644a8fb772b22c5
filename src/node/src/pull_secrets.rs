//! Accounts at registries, from the secrets that a pod names in `imagePullSecrets`.

use coracle_image::{Credentials, Reference, registry_name};
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

/// The accounts that fit an image, the most specific first.
///
/// A secret holds `.dockerconfigjson` (entries under `auths`) or `.dockercfg` (the entries themselves). An entry is
/// named `[https://]host[:port][/path]`; labels of the host may be `*`. An entry that cannot be read is as none.
pub(crate) fn accounts<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    image: &Reference,
) -> Vec<Credentials> {
    let mut found: Vec<(usize, Credentials)> = Vec::new();
    for secret in secrets {
        for (name, entry) in entries(secret) {
            if let (Some(rank), Some(account)) = (rank(&name, image), account(&entry)) {
                found.push((rank, account));
            }
        }
    }
    found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    found.into_iter().map(|(_, account)| account).collect()
}

fn entries(secret: &Secret) -> Vec<(String, Value)> {
    let data = |key: &str| secret.data.as_ref()?.get(key);
    let parsed =
        |bytes: &k8s_openapi::ByteString| serde_json::from_slice::<Value>(&bytes.0).unwrap_or_default();
    let new = data(".dockerconfigjson").map(|bytes| parsed(bytes)["auths"].take());
    let old = data(".dockercfg").map(parsed);
    let maps = [new, old].into_iter().flatten().filter_map(|value| match value {
        Value::Object(map) => Some(map),
        _ => None,
    });
    maps.flatten().collect()
}

/// How well an entry's name fits; `None` if it does not.
fn rank(name: &str, image: &Reference) -> Option<usize> {
    let name = name.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    // What old clients append to a registry's address.
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    // A registry may have several names; images go by one of them.
    let known = registry_name(host);
    let host = known.as_deref().unwrap_or(host);
    let fits = |pattern: &str, label: &str| pattern == "*" || pattern == label;
    let (pattern, registry): (Vec<&str>, Vec<&str>) =
        (host.split('.').collect(), image.registry().split('.').collect());
    let host_fits = pattern.len() == registry.len()
        && pattern.iter().zip(&registry).all(|(pattern, label)| fits(pattern, label));
    let below = |path: &str| {
        image.repository().strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    (host_fits && (path.is_empty() || below(path))).then(|| path.len() + 1)
}

fn account(entry: &Value) -> Option<Credentials> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Credentials { username: username.to_owned(), password: password.to_owned() });
    }
    let decoded: k8s_openapi::ByteString = serde_json::from_value(entry["auth"].clone()).ok()?;
    let decoded = String::from_utf8(decoded.0).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Credentials { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn secret(key: &str, value: &Value) -> Secret {
        let data = [(key.to_owned(), ByteString(value.to_string().into_bytes()))].into();
        Secret { data: Some(data), ..Secret::default() }
    }

    #[track_caller]
    fn check(image: &str, expected: &[&str]) {
        let login = |name: &str| json!({ "username": name, "password": "p" });
        let new = json!({ "auths": {
            "https://hub.test/v1/": login("v1"),
            "hub.test/team": login("team"),
            "hub.test/team/web": login("web"),
            "*.Many.test:5000": login("many"),
            "Other.test:443": login("other"),
            "plain.test": { "auth": ByteString(b"someone:pa:ss".to_vec()) },
            "https://index.docker.io/v1/": login("first"),
            "broken.test": { "auth": "###" },
        } });
        let secrets =
            [secret(".dockerconfigjson", &new), secret(".dockercfg", &json!({ "old.test": login("old") }))];
        let image = Reference::parse(image).unwrap();
        let names: Vec<_> = accounts(&secrets, &image).into_iter().map(|account| account.username).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_most_specific_account_comes_first() {
        check("hub.test/web:1", &["v1"]);
        check("hub.test/team/web:1", &["web", "team", "v1"]);
        check("hub.test/teammate/web:1", &["v1"]);
        check("a.many.test:5000/x:1", &["many"]);
        check("a.b.many.test:5000/x:1", &[]);
        check("a.many.test/x:1", &[]);
        check("old.test/x:1", &["old"]);
        check("OTHER.test/x:1", &["other"]);
        check("other.test:0443/x:1", &["other"]);
        check("broken.test/x:1", &[]);
        check("x:1", &["first"]);
        check("plain.test/x:1", &["someone"]);
    }
}
