//! Who a request comes from.
//!
//! A request carries a [`User`] as an extension when it is authenticated. Over TLS the user is the
//! subject of a client certificate that the cluster's CA signed (common name → name, organizations →
//! groups, as Kubernetes reads them), or the service account whose bearer token the request carries; in
//! process the composition root names the user. A request without one is answered 401, except for health
//! and version.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use coracle_api::status::Status;
use http::{HeaderMap, header};
use parking_lot::Mutex;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    authorize::{self, Action},
    core::Core,
    respond::status_response,
    tokens::{self, ACCOUNTS, USER_PREFIX},
};

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
    /// What tells two users of the same name apart; empty for all but service accounts.
    pub uid: String,
    /// What else the authenticator knows, e.g. the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of these groups and of [`AUTHENTICATED`].
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        User { name: name.into(), groups, uid: String::new(), extra: BTreeMap::new() }
    }

    /// A service account.
    pub(crate) fn account(
        namespace: &str,
        name: &str,
        uid: &str,
        extra: BTreeMap<String, Vec<String>>,
    ) -> User {
        let groups = [ACCOUNTS, &format!("{ACCOUNTS}:{namespace}")];
        let user = User::new(format!("{USER_PREFIX}{namespace}:{name}"), &groups);
        User { uid: uid.to_owned(), extra, ..user }
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

/// Begins the name of each header with which a client asks to act as somebody else.
const IMPERSONATION: &str = "impersonate-";

/// Finds out who asks, if the connection does not say so already, and answers 401 to requests without a
/// [`User`], unless their path is public. Service accounts get no further than the API: what else is behind
/// this door (the registry) is not theirs.
///
/// Who asks to act as somebody else must not be served as themselves: they would be told, or would do, what
/// the other may not. As this server cannot impersonate, it refuses such requests whoever sends them.
pub(crate) async fn require_user(
    State(core): State<Arc<Core>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.headers().keys().any(|name| name.as_str().starts_with(IMPERSONATION)) {
        let status = Status::forbidden_path("impersonation is not supported by this server");
        return status_response(&status).into_response();
    }
    if request.extensions().get::<User>().is_none()
        && let Some(token) = bearer(request.headers())
    {
        match tokens::authenticate(&core, token, &tokens::own_audiences()) {
            Ok((user, _)) => {
                if let Some(stranger) = request.extensions().get::<Arc<Stranger>>() {
                    stranger.introduced();
                }
                request.extensions_mut().insert(user);
            }
            Err(error) => {
                tracing::debug!(%error, "a bearer token was refused");
                return status_response(&Status::unauthorized()).into_response();
            }
        }
    }
    let path = request.uri().path();
    let below =
        |known: &str| path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match request.extensions().get::<User>() {
        Some(user) if authorize::account_namespace(user).is_some() && below("/v2") => {
            let action = Action::Path { verb: &request.method().as_str().to_lowercase(), path };
            let status = Status::forbidden_path(&authorize::refusal(user, action));
            status_response(&status).into_response()
        }
        Some(_) => next.run(request).await,
        None if PUBLIC.iter().any(|known| below(known)) => next.run(request).await,
        None => status_response(&Status::unauthorized()).into_response(),
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// A connection of which nobody has said whose it is: it holds one of the few places for such.
pub(crate) struct Stranger {
    place: Mutex<Option<OwnedSemaphorePermit>>,
    known: CancellationToken,
}

impl Stranger {
    pub(crate) fn new(place: OwnedSemaphorePermit) -> Arc<Stranger> {
        Arc::new(Stranger { place: Mutex::new(Some(place)), known: CancellationToken::new() })
    }

    /// Somebody has shown a token that counts.
    fn introduced(&self) {
        self.place.lock().take();
        self.known.cancel();
    }

    /// Waits until somebody has.
    pub(crate) async fn known(&self) {
        self.known.cancelled().await;
    }
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
