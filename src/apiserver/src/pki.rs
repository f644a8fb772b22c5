//! The cluster's certificates, made on first start.
//!
//! `ca.crt`/`ca.key` live as long as the data folder; `admin.crt`/`admin.key` are the client
//! certificate of the kubeconfig and are renewed when they near their end. `sa.key` signs the tokens of
//! service accounts. The server's certificate is
//! made anew at every start, for the addresses it listens on, and never touches the disk.
//!
//! Keys are ECDSA P-256. Key files have mode 0600 in a folder of mode 0700.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{auth::LenientVerifier, tokens::Tokens};

/// The CA outlives any data folder in practice; renewing it needs every client to learn the new one.
const CA_YEARS: i64 = 10;
/// Client certificates live as long as kubeadm's: a year.
const CLIENT_DAYS: i64 = 365;
/// A client certificate is renewed at the first start in its last month.
const RENEW_DAYS: i64 = 30;

/// What can go wrong with the certificates.
#[derive(Debug, Error)]
pub enum PkiError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}", path = path.display())]
    File {
        /// What was tried: `read`, `write` or `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A stored certificate or key is not one.
    #[error("{path} is damaged; remove the folder to have new certificates made", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// rustls refused the certificates.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The verifier of client certificates refused the CA.
    #[error("cannot set up client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// The admin's client certificate (`kubernetes-admin`, group `system:masters`), PEM.
#[derive(Clone)]
pub struct AdminCredentials {
    /// Certificate of the cluster's CA.
    pub ca_pem: String,
    /// The admin's certificate.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: String,
}

/// The certificates of one cluster.
pub(crate) struct Pki {
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    now: Timestamp,
}

impl Pki {
    /// Loads the CA from `dir`, or makes one there.
    pub(crate) fn open(dir: &Path, now: Timestamp) -> Result<Pki, PkiError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| PkiError::File {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !cert_path.exists() {
            let key = KeyPair::generate().map_err(PkiError::Make)?;
            let mut params = params("coracle-ca", &[], now, CA_YEARS * 365)?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            let cert = params.self_signed(&key).map_err(PkiError::Make)?;
            // The certificate is written last: a crash in between leaves a key that nobody knows yet.
            write(&key_path, &key.serialize_pem(), 0o600)?;
            write(&cert_path, &cert.pem(), 0o644)?;
        }
        let ca_pem = read(&cert_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?)
            .map_err(|source| PkiError::Damaged { path: key_path.clone(), source })?;
        let ca = Issuer::from_ca_cert_pem(&ca_pem, key)
            .map_err(|source| PkiError::Damaged { path: cert_path.clone(), source })?;
        Ok(Pki { ca, ca_pem, now })
    }

    /// The CA's certificate.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Loads the admin's client certificate from `dir`, or makes one there; renews it near its end.
    pub(crate) fn admin(&self, dir: &Path) -> Result<AdminCredentials, PkiError> {
        let (cert_path, key_path) = (dir.join("admin.crt"), dir.join("admin.key"));
        let usable = fs::read(&cert_path).is_ok_and(|pem| self.lasts(&pem)) && key_path.exists();
        if !usable {
            let key = KeyPair::generate().map_err(PkiError::Make)?;
            let mut params = params("kubernetes-admin", &["system:masters"], self.now, CLIENT_DAYS)?;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let cert = params.signed_by(&key, &self.ca).map_err(PkiError::Make)?;
            write(&key_path, &key.serialize_pem(), 0o600)?;
            write(&cert_path, &cert.pem(), 0o644)?;
        }
        Ok(AdminCredentials {
            ca_pem: self.ca_pem.clone(),
            cert_pem: read(&cert_path)?,
            key_pem: read(&key_path)?,
        })
    }

    /// Loads the key of the service accounts' tokens from `dir`, or makes one there.
    pub(crate) fn tokens(&self, dir: &Path) -> Result<Tokens, PkiError> {
        let path = dir.join("sa.key");
        if !path.exists() {
            write(&path, &KeyPair::generate().map_err(PkiError::Make)?.serialize_pem(), 0o600)?;
        }
        let damaged = |source| PkiError::Damaged { path: path.clone(), source };
        let key = KeyPair::from_pem(&read(&path)?).map_err(damaged)?;
        Tokens::new(&key).ok_or_else(|| damaged(rcgen::Error::UnsupportedSignatureAlgorithm))
    }

    /// TLS for the API server: a fresh certificate for `names` and `addresses`, client certificates
    /// asked for but not required, HTTP/2 and HTTP/1.1 by ALPN.
    pub(crate) fn server(
        &self,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<(ServerConfig, Arc<LenientVerifier>), PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Make)?;
        let mut params = params("kube-apiserver", &[], self.now, CLIENT_DAYS)?;
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into().map_err(PkiError::Make)?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&key, &self.ca).map_err(PkiError::Make)?;

        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca_pem.as_bytes())
            .map_err(|_| PkiError::Make(rcgen::Error::CouldNotParseCertificate))?;
        roots.add(ca).map_err(PkiError::Tls)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(PkiError::Verifier)?;
        let verifier = Arc::new(LenientVerifier(strict));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(PkiError::Tls)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .map_err(PkiError::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok((config, verifier))
    }

    /// True if the certificate in `pem` parses and does not end within [`RENEW_DAYS`].
    fn lasts(&self, pem: &[u8]) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(pem) else { return false };
        let Ok((_, parsed)) = X509Certificate::from_der(&der) else { return false };
        parsed.validity().not_after.timestamp() > self.now.as_second() + RENEW_DAYS * 86_400
    }
}

/// A kubeconfig with the credentials inside, as `kubectl` reads it.
pub(crate) fn kubeconfig(server: &str, admin: &AdminCredentials) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let b64 = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: coracle\n\
         clusters:\n- name: coracle\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\n\
         contexts:\n- name: coracle\n  context:\n    cluster: coracle\n    user: kubernetes-admin\n\
         users:\n- name: kubernetes-admin\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\n",
        ca = b64(&admin.ca_pem),
        cert = b64(&admin.cert_pem),
        key = b64(&admin.key_pem),
    )
}

/// Parameters that all certificates share: subject, and validity from yesterday (clocks differ) for
/// `days`.
fn params(
    name: &str,
    organizations: &[&str],
    now: Timestamp,
    days: i64,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(PkiError::Make)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    for organization in organizations {
        subject.push(DnType::OrganizationName, *organization);
    }
    params.distinguished_name = subject;
    let today = now.to_zoned(TimeZone::UTC).date();
    let part = |n: i8| u8::try_from(n).expect("months and days of a date are positive");
    let convert =
        |date: Date| rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()));
    params.not_before = convert(today.saturating_sub(1.day()));
    params.not_after = convert(today.saturating_add(days.days()));
    Ok(params)
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { action: "write", path: path.to_owned(), source };
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::auth::User;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn certificates_outlive_a_restart_and_are_renewed_near_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(dir.path(), at("2026-01-01T00:00:00Z")).unwrap();
        let admin = first.admin(dir.path()).unwrap();

        let again = Pki::open(dir.path(), at("2026-11-01T00:00:00Z")).unwrap();
        assert_eq!(again.ca_pem(), first.ca_pem());
        assert_eq!(again.admin(dir.path()).unwrap().cert_pem, admin.cert_pem);

        let late = Pki::open(dir.path(), at("2026-12-20T00:00:00Z")).unwrap();
        assert_eq!(late.ca_pem(), first.ca_pem());
        assert_ne!(late.admin(dir.path()).unwrap().cert_pem, admin.cert_pem);

        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn only_certificates_of_the_own_ca_name_a_user() {
        let (dir, foreign_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = Timestamp::now();
        let own = Pki::open(dir.path(), now).unwrap();
        let foreign = Pki::open(foreign_dir.path(), now).unwrap();
        let (_, verifier) = own.server(&["localhost"], &[]).unwrap();
        let chain = |admin: &AdminCredentials| {
            vec![CertificateDer::from_pem_slice(admin.cert_pem.as_bytes()).unwrap()]
        };

        let user = verifier.user(&chain(&own.admin(dir.path()).unwrap()));
        assert_eq!(user, Some(User::new("kubernetes-admin", &["system:masters"])));
        assert_eq!(verifier.user(&chain(&foreign.admin(foreign_dir.path()).unwrap())), None);
        assert_eq!(verifier.user(&[]), None);
    }

    #[test]
    fn a_damaged_ca_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.crt"), "no certificate").unwrap();
        fs::write(dir.path().join("ca.key"), "no key").unwrap();
        let Err(error) = Pki::open(dir.path(), Timestamp::now()) else { panic!("a damaged key was taken") };
        assert!(error.to_string().contains("ca.key is damaged"), "{error}");
    }
}
