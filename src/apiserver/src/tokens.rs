//! Tokens of service accounts: JSON Web Tokens signed with the cluster's own key (ES256).
//!
//! A token is bound to its account, and mostly to a pod, a secret or a node as well. Nothing is remembered of
//! it: a token counts as long as it has not expired and everything that it names is still there under the
//! same uid. Whoever deletes the pod takes its tokens back.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    auth::User,
    core::{self, Core},
    object,
};

/// Who issues the tokens, and whom they are for unless somebody else is named.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Longest token that is looked at. Ours have a kilobyte or two.
const MAX_TOKEN: usize = 16 * 1024;
/// How far two clocks may be apart.
const LEEWAY: i64 = 60;
/// How long the token of an object lives on that has been marked as deleted, so that it can end in order.
const GRACE: i64 = 60;
/// Bytes of an uncompressed point of the curve: a mark, x and y.
const POINT: usize = 65;

/// The groups of service accounts.
pub(crate) const ACCOUNTS: &str = "system:serviceaccounts";
/// What the names of service accounts as users begin with.
pub(crate) const USER_PREFIX: &str = "system:serviceaccount:";

/// The key of the tokens.
pub(crate) struct Tokens {
    key: EcdsaKeyPair,
    /// The point: 4, x, y.
    public: Vec<u8>,
    id: String,
}

/// What a token is bound to besides its account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The node of a bound pod, with its uid.
    pub(crate) node: Option<(String, String)>,
}

/// A token to be made.
pub(crate) struct Grant<'a> {
    pub(crate) account: &'a Value,
    pub(crate) bound: Option<Bound>,
    pub(crate) audiences: &'a [String],
    pub(crate) now: Timestamp,
    pub(crate) seconds: i64,
}

/// Why a token does not count.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("invalid bearer token")]
    Malformed,
    #[error("token has invalid signature")]
    Signature,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    Early,
    #[error("token audiences {0:?} is invalid for the target audiences {1:?}")]
    Audience(Vec<String>, Vec<String>),
    #[error("service account token has been invalidated")]
    Invalidated,
}

impl Tokens {
    /// The key in this PKCS #8 document; `None` if it is no key of the curve.
    pub(crate) fn new(pair: &KeyPair) -> Option<Tokens> {
        let random = SystemRandom::new();
        let pkcs8 = pair.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &random).ok()?;
        let public = pair.der_bytes().to_vec();
        let info = pair.subject_public_key_info();
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(info));
        (public.len() == POINT).then_some(Tokens { key, public, id })
    }

    /// The public key as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> Value {
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&self.public[range]);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": part(1..33), "y": part(33..POINT),
        }]})
    }

    /// Makes a token.
    pub(crate) fn issue(&self, grant: &Grant<'_>) -> Option<String> {
        let (account, now) = (grant.account, grant.now.as_second());
        let (namespace, name) = (object::namespace(account), object::name(account));
        let mut private = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": object::uid(account)},
        });
        if let Some(bound) = &grant.bound {
            private[bound.kind] = json!({"name": bound.name, "uid": bound.uid});
            if let Some((name, uid)) = &bound.node {
                private["node"] = json!({"name": name, "uid": uid});
            }
        }
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("{USER_PREFIX}{namespace}:{name}"),
            "aud": grant.audiences,
            "iat": now,
            "nbf": now,
            "exp": now.saturating_add(grant.seconds),
            "jti": core::new_uid(),
            "kubernetes.io": private,
        });
        let header = json!({"alg": "ES256", "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed for one of `audiences` and that is valid now.
    fn claims(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Value, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed);
        let parse = |text: &str| -> Result<Value, TokenError> {
            serde_json::from_slice(&decode(text)?).map_err(|_| TokenError::Malformed)
        };
        if parse(header)?["alg"] != "ES256" {
            return Err(TokenError::Malformed);
        }
        let signature = decode(signature)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let claims = parse(claims)?;
        if claims["iss"] != ISSUER {
            return Err(TokenError::Malformed);
        }
        let (now, second) = (now.as_second(), |name: &str| claims[name].as_i64());
        if second("exp").is_none_or(|end| end.saturating_add(LEEWAY) <= now) {
            return Err(TokenError::Expired);
        }
        if second("nbf").is_some_and(|start| start.saturating_sub(LEEWAY) > now) {
            return Err(TokenError::Early);
        }
        let own = self::audiences(&claims);
        if !own.iter().any(|audience| audiences.contains(audience)) {
            return Err(TokenError::Audience(own, audiences.to_vec()));
        }
        Ok(claims)
    }
}

/// The audiences that a server of this cluster is one of.
pub(crate) fn own_audiences() -> Vec<String> {
    vec![ISSUER.to_owned()]
}

fn audiences(claims: &Value) -> Vec<String> {
    match &claims["aud"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Who a token is of, and which of `audiences` it is for.
pub(crate) fn authenticate(
    core: &Core,
    token: &str,
    audiences: &[String],
) -> Result<(User, Vec<String>), TokenError> {
    let claims = core.tokens.claims(token, audiences, core.now())?;
    let private = &claims["kubernetes.io"];
    let text = |pointer: &str| object::text(private, pointer);
    let (namespace, name, uid) =
        (text("/namespace"), text("/serviceaccount/name"), text("/serviceaccount/uid"));
    let lives = |kind: &str, namespace: &str, name: &str, uid: &str| lives(core, kind, namespace, name, uid);
    if !lives("serviceaccounts", namespace, name, uid) {
        return Err(TokenError::Invalidated);
    }
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    if let Some(id) = claims["jti"].as_str() {
        add("credential-id", &format!("JTI={id}"));
    }
    let (pod, secret, node) = (text("/pod/name"), text("/secret/name"), text("/node/name"));
    if !pod.is_empty() {
        if !lives("pods", namespace, pod, text("/pod/uid")) {
            return Err(TokenError::Invalidated);
        }
        add("pod-name", pod);
        add("pod-uid", text("/pod/uid"));
    }
    if !secret.is_empty() && !lives("secrets", namespace, secret, text("/secret/uid")) {
        return Err(TokenError::Invalidated);
    }
    if !node.is_empty() {
        // A pod's node is told, but only a token that is the node's own ends with it.
        if pod.is_empty() && !lives("nodes", "", node, text("/node/uid")) {
            return Err(TokenError::Invalidated);
        }
        add("node-name", node);
        add("node-uid", text("/node/uid"));
    }
    let user = User::account(namespace, name, uid, extra);
    let matching = self::audiences(&claims).into_iter().filter(|a| audiences.contains(a)).collect();
    Ok((user, matching))
}

/// True if the object is there under this uid, and has not been on its way out for long.
fn lives(core: &Core, plural: &str, namespace: &str, name: &str, uid: &str) -> bool {
    let catalogue = core.registry.catalogue();
    let Some(resource) = catalogue.find("", "v1", plural) else { return false };
    let Some(entry) = core.store.get(&resource.key(namespace, name)) else { return false };
    let found = object::parse_stored(entry.value());
    let due = object::meta_str(&found, "deletionTimestamp").parse::<Timestamp>().ok();
    let over = due.is_some_and(|due| due.as_second().saturating_add(GRACE) < core.now().as_second());
    object::uid(&found) == uid && !over
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(&KeyPair::generate().unwrap()).expect("rcgen's keys are of the curve")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn issue(tokens: &Tokens) -> String {
        let account = json!({"metadata": {"namespace": "ns", "name": "robot", "uid": "u"}});
        let grant = Grant {
            account: &account,
            bound: None,
            audiences: &["a".to_owned(), "b".to_owned()],
            now: at("2026-01-01T00:00:00Z"),
            seconds: 600,
        };
        tokens.issue(&grant).expect("signing works")
    }

    #[test]
    fn a_token_counts_for_its_time_and_its_audiences() {
        let tokens = tokens();
        let token = issue(&tokens);
        let check = |now: &str, audience: &str| tokens.claims(&token, &[audience.to_owned()], at(now));
        let claims = check("2026-01-01T00:05:00Z", "b").unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:ns:robot");
        assert_eq!(check("2026-01-01T00:11:00Z", "a"), Err(TokenError::Expired));
        assert_eq!(check("2025-12-31T23:58:00Z", "a"), Err(TokenError::Early));
        let error = check("2026-01-01T00:05:00Z", "c").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"token audiences ["a", "b"] is invalid for the target audiences ["c"]"#
        );
    }

    #[test]
    fn what_others_signed_does_not_count() {
        let (own, foreign) = (tokens(), tokens());
        let now = at("2026-01-01T00:00:00Z");
        let audience = ["a".to_owned()];
        let check = |token: &str| own.claims(token, &audience, now).map(drop);
        assert_eq!(check(&issue(&own)), Ok(()));
        assert_eq!(check(&issue(&foreign)), Err(TokenError::Signature));
        let token = issue(&own);
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_eq!(check(&format!("{none}.{}.", parts[1])), Err(TokenError::Malformed));
        let claims = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
        let other = String::from_utf8(claims).unwrap().replace("robot", "admin");
        let forged = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(other), parts[2]);
        assert_eq!(check(&forged), Err(TokenError::Signature));
        for hostile in ["", ".", "..", "a.b.c", &"x".repeat(MAX_TOKEN + 1)] {
            assert_eq!(check(hostile), Err(TokenError::Malformed), "{hostile:.20}");
        }
    }
}
