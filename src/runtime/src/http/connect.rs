//! Connections for the requests of guests: through the pod's network, with TLS where the scheme wants it.

use std::net::SocketAddr;
use std::sync::Arc;

use coracle_network::{PodStack, Stream};
use http::Uri;
use http::uri::Scheme;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::Verifier;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::Error;

use super::charge::Account;
use super::client::Question;
use super::config::{HEAD_BYTES, TLS_BYTES};
use super::errors;
use super::io::Io;
use super::tasks::Tasks;
use crate::limiter::Purse;
use crate::run::Traffic;

/// Addresses of one name that are tried, one after the other.
const ADDRESSES: usize = 4;

/// Whom a request goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn of(uri: &Uri) -> Result<Target, Error> {
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(Error::HttpRequestUriInvalid)?;
        let port = match (uri.authority().and_then(http::uri::Authority::port), tls) {
            (Some(port), _) => port.as_u16(),
            (None, true) => 443,
            (None, false) => 80,
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Target { tls, host: host.to_owned(), port })
    }
}

/// Whom to trust.
#[derive(Clone)]
pub(super) enum Trust {
    /// Whom the host trusts.
    Host,
    /// Whom a test trusts.
    #[cfg(test)]
    These(Arc<ClientConfig>),
}

/// Connects, counted and paid by these, and drives the connection as one of `tasks` until its sender is dropped.
pub(super) async fn connect(
    stack: &PodStack,
    (traffic, purse): (&Arc<Traffic>, &Purse),
    trust: &Trust,
    target: &Target,
    tasks: &Arc<Tasks>,
) -> Result<SendRequest<Question>, Error> {
    let account = Account::new(purse);
    let stream = Io::new(dial(stack, target).await?, Arc::clone(traffic), Arc::clone(&account), None);
    if !target.tls {
        return speak(stream, tasks).await;
    }
    account.grow(TLS_BYTES).map_err(|error| errors::of_memory(&error))?;
    let name = ServerName::try_from(target.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
    let connector = TlsConnector::from(trust.config().await?);
    let secured = connector.connect(name, stream).await.map_err(|error| errors::of_tls(&error))?;
    speak(TokioIo::new(secured), tasks).await
}

async fn dial(stack: &PodStack, target: &Target) -> Result<Stream, Error> {
    let addresses = stack.resolve(&target.host).await.map_err(|error| errors::of_lookup(&error))?;
    let mut first = None;
    for address in addresses.into_iter().take(ADDRESSES) {
        match stack.connect(SocketAddr::new(address, target.port)).await {
            Ok(stream) => return Ok(stream),
            // What went wrong with the address that was preferred says the most.
            Err(error) => first = first.or(Some(errors::of_connect(&error))),
        }
    }
    Err(first.unwrap_or(Error::DestinationNotFound))
}

async fn speak<T>(io: T, tasks: &Arc<Tasks>) -> Result<SendRequest<Question>, Error>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let mut protocol = http1::Builder::new();
    protocol.max_buf_size(HEAD_BYTES);
    let (sender, exchange) = protocol.handshake(io).await.map_err(|error| errors::of_exchange(&error))?;
    tasks.spawn(async move {
        if let Err(error) = exchange.await {
            tracing::debug!(%error, "a guest's HTTP connection ended early");
        }
    });
    Ok(sender)
}

impl Trust {
    async fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        static HOST: OnceCell<Arc<ClientConfig>> = OnceCell::const_new();
        match self {
            Trust::Host => {
                let load = || async {
                    let loaded = tokio::task::spawn_blocking(host_trust).await;
                    loaded.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
                };
                HOST.get_or_try_init(load).await.cloned().map_err(|error: String| {
                    tracing::warn!(%error, "the host's certificate authorities cannot be read");
                    Error::ConfigurationError
                })
            }
            #[cfg(test)]
            Trust::These(config) => Ok(Arc::clone(config)),
        }
    }
}

/// Reads the host's certificate authorities: a few hundred files, once.
fn host_trust() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Verifier::new(Arc::clone(&provider))?);
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_says_whom_to_ask() {
        #[track_caller]
        fn check(uri: &str, expected: Option<(bool, &str, u16)>) {
            let target = Target::of(&uri.parse().unwrap()).ok();
            let found = target.as_ref().map(|target| (target.tls, target.host.as_str(), target.port));
            assert_eq!(found, expected, "{uri}");
        }
        check("http://web/", Some((false, "web", 80)));
        check("https://web.default.svc/x?y", Some((true, "web.default.svc", 443)));
        check("http://10.0.0.1:8080/", Some((false, "10.0.0.1", 8080)));
        check("https://[::1]:8443/", Some((true, "::1", 8443)));
        check("https://[2001:db8::1]/", Some((true, "2001:db8::1", 443)));
        check("/only/a/path", None);
    }
}
