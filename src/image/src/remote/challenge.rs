//! How registries ask who we are, and how their token services answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;

use super::Credentials;

/// What a registry wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of its token service.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// Name and password.
    Basic,
}

impl Credentials {
    /// The header that says name and password.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

/// What is understood of the headers of an answer.
pub(super) fn challenges<'a>(headers: impl IntoIterator<Item = &'a HeaderValue>) -> Vec<Challenge> {
    headers.into_iter().filter_map(|value| challenge(value.to_str().ok()?)).collect()
}

/// One header, with one challenge in it.
fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest;
    while let Some((name, after)) = rest.split_once('=') {
        let value;
        if let Some(quoted) = after.strip_prefix('"') {
            // Scopes have commas in them.
            (value, rest) = quoted.split_once('"')?;
        } else {
            (value, rest) = after.split_once(',').unwrap_or((after, ""));
        }
        rest = rest.trim_start_matches([',', ' ']);
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            "scope" => scope = Some(value.to_owned()).filter(|scope| !scope.is_empty()),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// The token in a token service's answer, under either of its names.
pub(super) fn token_of(answer: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let token = ["token", "access_token"].into_iter().find_map(|name| answer[name].as_str())?;
    // It goes into a header.
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_ask() {
        #[track_caller]
        fn check(header: &str, expected: Option<Challenge>) {
            let headers = [HeaderValue::from_str(header).unwrap()];
            assert_eq!(challenges(&headers), expected.into_iter().collect::<Vec<_>>(), "{header}");
        }
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer {
                realm: "https://a/t".into(),
                service: owned(service),
                scope: owned(scope),
            })
        };
        check("Basic realm=\"test\"", Some(Challenge::Basic));
        check("basic", Some(Challenge::Basic));
        check("Bearer realm=\"https://a/t\"", bearer(None, None));
        check(
            "bearer realm=\"https://a/t\",service=\"r.io\",scope=\"repository:a/b:pull,push\"",
            bearer(Some("r.io"), Some("repository:a/b:pull,push")),
        );
        check("Bearer service=r.io, realm=https://a/t, error=\"x\"", bearer(Some("r.io"), None));
        check("Bearer realm=\"https://a/t\",scope=\"\"", bearer(None, None));
        for other in ["", "Bearer", "Bearer realm=\"open", "Negotiate", "Bearer service=\"a\""] {
            check(other, None);
        }
    }

    #[test]
    fn what_token_services_answer() {
        assert_eq!(token_of(br#"{"token": "a.b-c"}"#).as_deref(), Some("a.b-c"));
        assert_eq!(token_of(br#"{"access_token": "x", "token": null}"#).as_deref(), Some("x"));
        for other in [&b""[..], b"{}", br#"{"token": ""}"#, br#"{"token": "a\r\nb: c"}"#, br#"{"token": 7}"#]
        {
            assert_eq!(token_of(other), None);
        }
    }
}
