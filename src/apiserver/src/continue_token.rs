//! Where a list in pages goes on: the revision of the first page and the last key that was returned.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_api::status::Status;
use coracle_store::Revision;
use serde::{Deserialize, Serialize};

/// Longest token that is decoded; ours are a few hundred bytes.
const MAX_TOKEN: usize = 4096;
/// The format of what is inside, as Kubernetes names it.
const FORMAT: &str = "meta.k8s.io/v1";
/// The `rv` of a token that goes on at whatever is newest.
const ANY_REVISION: i64 = -1;

/// A decoded `continue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContinueToken {
    /// The revision of the first page; `None` goes on at the newest state, after the first one expired.
    pub(crate) revision: Option<Revision>,
    /// The last key of the page before, without the prefix of the list.
    pub(crate) after: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
}

impl ContinueToken {
    /// The token as it goes over the wire.
    pub(crate) fn encode(&self) -> String {
        let rv = self.revision.map_or(ANY_REVISION, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
        let wire = Wire { v: FORMAT.to_owned(), rv, start: format!("{}\0", self.after) };
        let json = serde_json::to_vec(&wire).expect("three plain fields serialise");
        URL_SAFE_NO_PAD.encode(json)
    }

    /// Reads a token from the wire.
    pub(crate) fn decode(token: &str) -> Result<ContinueToken, Status> {
        let invalid = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        if token.len() > MAX_TOKEN {
            return Err(invalid("too long"));
        }
        let json =
            URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|e| invalid(&e.to_string()))?;
        let wire: Wire = serde_json::from_slice(&json).map_err(|e| invalid(&e.to_string()))?;
        if wire.v != FORMAT {
            return Err(invalid(&format!("server does not recognize this encoded version {:?}", wire.v)));
        }
        let revision = match wire.rv {
            ANY_REVISION => None,
            0 => return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
            rv => Some(Revision::try_from(rv).map_err(|_| invalid("a negative resourceVersion"))?),
        };
        let after = wire.start.strip_suffix('\0').unwrap_or(&wire.start).to_owned();
        let hostile = after.is_empty() || after.starts_with('/') || after.split('/').any(|part| part == "..");
        if hostile || after.contains(char::is_control) {
            return Err(invalid(&format!("{:?}", wire.start)));
        }
        Ok(ContinueToken { revision, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for revision in [Some(7), None] {
            let token = ContinueToken { revision, after: "default/x".into() };
            assert_eq!(ContinueToken::decode(&token.encode()), Ok(token));
        }
    }

    #[test]
    fn hostile_tokens_are_refused() {
        let encode = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for token in [
            "%%%".to_owned(),
            "x".repeat(MAX_TOKEN + 1),
            encode("{}"),
            encode(r#"{"v":"v9","rv":7,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":-7,"start":"a"}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":7,"start":""}"#),
            encode(r#"{"v":"meta.k8s.io/v1","rv":7,"start":"../secrets/x"}"#),
        ] {
            let status = ContinueToken::decode(&token).expect_err(&token);
            assert_eq!((status.code(), status.reason()), (400, "BadRequest"));
        }
    }
}
