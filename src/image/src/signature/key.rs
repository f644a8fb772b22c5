//! Public keys, and what they signed.

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Kinds of keys, by the identifiers of algorithm and curve, with what they sign with.
const KINDS: [(&str, &str, &[&dyn VerificationAlgorithm]); 4] = [
    ("1.2.840.10045.2.1", "1.2.840.10045.3.1.7", &[&ECDSA_P256_SHA256_ASN1]),
    // Older tools sign with the shorter hash whatever the curve.
    ("1.2.840.10045.2.1", "1.3.132.0.34", &[&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1]),
    ("1.3.101.112", "", &[&ED25519]),
    // Cosign knows no other padding for a key in a file.
    ("1.2.840.113549.1.1.1", "", &[&RSA_PKCS1_2048_8192_SHA256]),
];

/// A public key.
pub(super) struct Key {
    bytes: Vec<u8>,
    algorithms: &'static [&'static dyn VerificationAlgorithm],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?})", self.algorithms)
    }
}

impl Key {
    /// Reads a key as `cosign generate-key-pair` and `openssl` write it.
    pub(super) fn parse(pem: &str) -> Result<Key, String> {
        let (_, pem) = parse_x509_pem(pem.trim_start().as_bytes()).map_err(|_| "it is not PEM".to_owned())?;
        if pem.label != "PUBLIC KEY" {
            return Err(format!("it is a {:?}, not a \"PUBLIC KEY\"", pem.label));
        }
        let info = SubjectPublicKeyInfo::from_der(&pem.contents);
        let (_, info) = info.map_err(|_| "it is not a public key in DER".to_owned())?;
        let algorithm = info.algorithm.algorithm.to_id_string();
        let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        let curve = curve.map(|curve| curve.to_id_string()).unwrap_or_default();
        let kind = KINDS.iter().find(|(of, on, _)| *of == algorithm && *on == curve);
        let Some((.., algorithms)) = kind else {
            return Err("only ECDSA keys on P-256 and P-384, Ed25519 and RSA keys are supported".to_owned());
        };
        Ok(Key { bytes: info.subject_public_key.data.to_vec(), algorithms })
    }

    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let by = |algorithm: &&'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(*algorithm, &self.bytes).verify(message, signature).is_ok()
        };
        self.algorithms.iter().any(by)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    /// What was signed, as cosign writes it. Keys and signatures are openssl's (`genpkey`, `ecparam`,
    /// `dgst -sign`, `pkeyutl -sign -rawin`); the private halves are gone.
    const PAYLOAD: &str = include_str!("fixtures/payload.json");

    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!("fixtures/", $name))
        };
    }

    #[test]
    fn keys_of_every_kind_know_their_signatures() {
        #[track_caller]
        fn check(key: &str, signature: &str, good: bool) {
            let key = Key::parse(key).unwrap();
            let mut signature = STANDARD.decode(signature.trim()).unwrap();
            let payload = PAYLOAD.trim_end().as_bytes();
            assert_eq!(key.signed(payload, &signature), good);
            assert!(!key.signed(&payload[1..], &signature), "of another message");
            let last = signature.len() - 1;
            signature[last] ^= 1;
            assert!(!key.signed(payload, &signature), "damaged");
            assert!(!key.signed(payload, &signature[..last]) && !key.signed(payload, &[]), "cut");
        }
        let [rsa, p256, p384, ed25519] =
            [fixture!("rsa.pub"), fixture!("p256.pub"), fixture!("p384.pub"), fixture!("ed25519.pub")];
        check(rsa, fixture!("rsa-sha256.sig"), true);
        check(p256, fixture!("p256-sha256.sig"), true);
        check(p384, fixture!("p384-sha256.sig"), true);
        check(p384, fixture!("p384-sha384.sig"), true);
        check(ed25519, fixture!("ed25519.sig"), true);
        check(rsa, fixture!("rsa-sha512.sig"), false);
        check(rsa, fixture!("rsa-pss-sha256.sig"), false);
        check(rsa, fixture!("p256-sha256.sig"), false);
        check(p256, fixture!("p384-sha256.sig"), false);
        check(ed25519, fixture!("p256-sha256.sig"), false);
    }

    #[test]
    fn other_keys_are_named_as_such() {
        let error = Key::parse(fixture!("p521.pub")).unwrap_err();
        assert_eq!(error, "only ECDSA keys on P-256 and P-384, Ed25519 and RSA keys are supported");
        assert_eq!(Key::parse("").unwrap_err(), "it is not PEM");
    }
}
