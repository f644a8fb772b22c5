//! Who a request comes from.
//!
//! A request carries a [`User`] as an extension when it is authenticated. Over TLS the user is the
//! subject of a client certificate that the cluster's CA signed (common name → name, organizations →
//! groups, as Kubernetes reads them); in process the composition root names the user. A request
//! without one is answered 401, except for health and version.

use std::sync::Arc;

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use coracle_api::status::Status;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::respond::status_response;

/// The group that every authenticated user belongs to.
pub const AUTHENTICATED: &str = "system:authenticated";

/// Paths that answer without a user, as in Kubernetes: load balancers and probes ask for health, clients
/// for the version.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User name, e.g. `system:node:edge-1`.
    pub name: String,
    /// Groups, always with [`AUTHENTICATED`].
    pub groups: Vec<String>,
}

impl User {
    /// A user of these groups and of [`AUTHENTICATED`].
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        User { name: name.into(), groups }
    }

    /// Reads the subject of a certificate: `CN` is the name, each `O` a group. `None` if the
    /// certificate cannot be parsed or names nobody.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        (!name.is_empty()).then(|| User::new(name, &groups))
    }
}

/// Answers 401 to requests without a [`User`], unless their path is public.
pub(crate) async fn require_user(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let public =
        PUBLIC.iter().any(|p| path == *p || path.strip_prefix(p).is_some_and(|rest| rest.starts_with('/')));
    if public || request.extensions().get::<User>().is_some() {
        return next.run(request).await;
    }
    status_response(&Status::unauthorized()).into_response()
}

/// Lets every client finish the handshake and tells afterwards whether its certificate counts.
///
/// A certificate of a foreign CA must be answered with 401 and a Status, which a failed handshake
/// cannot carry. Possession of the key is still proven inside the handshake.
#[derive(Debug)]
pub(crate) struct LenientVerifier(pub(crate) Arc<dyn ClientCertVerifier>);

impl LenientVerifier {
    /// The user of a peer's certificate chain, if the cluster's CA signed it and it is valid now.
    pub(crate) fn user(&self, chain: &[CertificateDer<'static>]) -> Option<User> {
        let (leaf, intermediates) = chain.split_first()?;
        match self.0.verify_client_cert(leaf, intermediates, UnixTime::now()) {
            Ok(_) => User::from_certificate(leaf),
            Err(error) => {
                tracing::debug!(%error, "client certificate refused");
                None
            }
        }
    }
}

impl ClientCertVerifier for LenientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
