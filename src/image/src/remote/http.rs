//! One registry over HTTP: requests with authentication, answers with limits.
//!
//! What a registry sends is bounded before it is held: documents by what they may have, content by what
//! its manifest announced, error texts to what is worth reading.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode};
use thiserror::Error;

use super::Credentials;
use super::challenge::{Challenge, challenges, token_of};

/// How long a registry may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a registry may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// How often a request may be sent elsewhere. Registries send once, to where their content is.
const MAX_REDIRECTS: usize = 5;

/// Bytes that the answer with a token may have. Some registries put much into their tokens.
const MAX_TOKEN: u64 = 256 * 1024;

/// Bytes of an error's answer that are read.
const MAX_ERROR: u64 = 16 * 1024;

/// How long a request waits if the registry says that there are too many, at most.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Why a request did not do what it should.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// It is not there.
    Missing,
    /// It is not for us.
    Denied(Arc<dyn StdError + Send + Sync>),
    /// It may go better another time, not before so long.
    Passing(Arc<dyn StdError + Send + Sync>, Option<Duration>),
    /// It will not go better.
    Final(Arc<dyn StdError + Send + Sync>),
    /// The answer is longer than so many bytes.
    TooLarge(u64),
}

/// What a registry said, or did.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Said(pub(super) String);

impl Failure {
    pub(super) fn last(text: impl Into<String>) -> Failure {
        Failure::Final(Arc::new(Said(text.into())))
    }

    pub(super) fn passing(text: impl Into<String>) -> Failure {
        Failure::Passing(Arc::new(Said(text.into())), None)
    }

    /// What became of a request that got no answer, or only a part of one.
    pub(super) fn of(error: reqwest::Error) -> Failure {
        // A redirect's address may hold a signature that lets in whoever has it.
        let last = error.is_builder() || error.is_redirect() || error.is_connect();
        let error = Arc::new(error.without_url());
        // Who cannot be reached now is tried again with the pod's own back-off.
        if last { Failure::Final(error) } else { Failure::Passing(error, None) }
    }
}

/// A repository of a registry, and what lets us in.
pub(super) struct Remote<'a> {
    client: Client,
    base: String,
    repository: &'a str,
    credentials: Option<&'a Credentials>,
    plain: bool,
    /// The value of the header that was accepted last.
    authorization: Mutex<Option<String>>,
}

impl<'a> Remote<'a> {
    /// A client is made for each pull, because it keeps what it was let in with, and that of one
    /// namespace must not serve another.
    pub(super) fn new(
        host: &str,
        repository: &'a str,
        credentials: Option<&'a Credentials>,
        plain: bool,
    ) -> Result<Remote<'a>, Failure> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // The HTTP client would panic.
            return Err(Failure::last("no TLS implementation was installed at the start of the program"));
        }
        let redirects = Policy::custom(|attempt| {
            let downgrade = attempt.url().scheme() == "http"
                && attempt.previous().iter().any(|earlier| earlier.scheme() == "https");
            if downgrade {
                attempt.error(Said("it sends us from HTTPS to plain HTTP".to_owned()))
            } else if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error(Said("it sends us on too often".to_owned()))
            } else {
                attempt.follow()
            }
        });
        let mut client = Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(redirects)
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")));
        if plain {
            // What is this near is not reached through others.
            client = client.no_proxy();
        }
        let scheme = if plain { "http" } else { "https" };
        Ok(Remote {
            client: client.build().map_err(Failure::of)?,
            base: format!("{scheme}://{host}/v2"),
            repository,
            credentials,
            plain,
            authorization: Mutex::new(None),
        })
    }

    /// A document of at most `limit` bytes, and the headers of the answer.
    pub(super) async fn document(
        &self,
        path: &str,
        accept: &str,
        limit: u64,
    ) -> Result<(Bytes, HeaderMap), Failure> {
        let headers =
            [(ACCEPT, accept)].into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?)));
        let response = self.send(Method::GET, path, headers.collect()).await?;
        let headers = response.headers().clone();
        Ok((read(response, limit).await?, headers))
    }

    /// Content from the byte `first` on.
    pub(super) async fn content(&self, digest: &str, first: u64) -> Result<Response, Failure> {
        let mut headers = HeaderMap::new();
        if first > 0
            && let Ok(range) = format!("bytes={first}-").parse()
        {
            headers.insert(RANGE, range);
        }
        self.send(Method::GET, &format!("blobs/{digest}"), headers).await
    }

    /// Whether the repository has the content, for us.
    pub(super) async fn has_content(&self, digest: &str) -> Result<bool, Failure> {
        match self.send(Method::HEAD, &format!("blobs/{digest}"), HeaderMap::new()).await {
            Ok(_) => Ok(true),
            Err(Failure::Missing) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Sends a request, and again if the registry wants to know who we are.
    async fn send(&self, method: Method, path: &str, headers: HeaderMap) -> Result<Response, Failure> {
        let url = format!("{}/{}/{path}", self.base, self.repository);
        for attempt in 0.. {
            let mut request = self.client.request(method.clone(), &url).headers(headers.clone());
            let authorization = self.authorization.lock().clone();
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value);
            }
            let response = request.send().await.map_err(Failure::of)?;
            if response.status() != StatusCode::UNAUTHORIZED || attempt > 0 {
                return check(response).await;
            }
            let asked = challenges(response.headers().get_all(WWW_AUTHENTICATE));
            let Some(value) = self.authorize(asked).await? else { return check(response).await };
            *self.authorization.lock() = Some(value);
        }
        unreachable!("the second answer is the last")
    }

    /// The header that answers a registry's question; `None` if there is nothing to answer.
    async fn authorize(&self, asked: Vec<Challenge>) -> Result<Option<String>, Failure> {
        let basic = self.credentials.map(Credentials::basic);
        for challenge in asked {
            match challenge {
                Challenge::Bearer { realm, service, scope } => {
                    let realm = reqwest::Url::parse(&realm)
                        .map_err(|_| Failure::last("its token service has no URL"))?;
                    if realm.scheme() != "https" && !self.plain {
                        return Err(Failure::last("its token service is not reached by HTTPS"));
                    }
                    let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                    let mut query = vec![("scope", scope)];
                    query.extend(service.map(|service| ("service", service)));
                    let mut request = self.client.get(realm).query(&query);
                    if let Some(basic) = &basic {
                        request = request.header(AUTHORIZATION, basic);
                    }
                    let response = check(request.send().await.map_err(Failure::of)?).await?;
                    let token = token_of(&read(response, MAX_TOKEN).await?);
                    let token =
                        token.ok_or_else(|| Failure::last("its token service answers without a token"))?;
                    return Ok(Some(format!("Bearer {token}")));
                }
                Challenge::Basic if basic.is_some() => return Ok(basic),
                Challenge::Basic => {}
            }
        }
        Ok(None)
    }
}

/// Lets good answers pass, and says what the others mean.
async fn check(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = pause.map(|seconds| Duration::from_secs(seconds).min(MAX_PAUSE));
    // An error's text is a help, not more.
    let body = read(response, MAX_ERROR).await.unwrap_or_default();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let word = |name: &str| {
        let text = body["errors"][0][name].as_str().unwrap_or_default();
        text.chars().filter(|c| !c.is_control()).take(200).collect::<String>()
    };
    let (code, message) = (word("code"), word("message"));
    let text = match (code.is_empty(), message.is_empty()) {
        (true, true) => format!("it answers {status}"),
        (true, false) => format!("it answers {status}: {message}"),
        (false, _) => format!("it answers {status}: {code}: {message}"),
    };
    let said = Arc::new(Said(text));
    Err(match (status.as_u16(), code.as_str()) {
        (404, _) | (_, "MANIFEST_UNKNOWN" | "NAME_UNKNOWN") => Failure::Missing,
        (401 | 403, _) | (_, "UNAUTHORIZED" | "DENIED") => Failure::Denied(said),
        (408 | 425 | 429 | 500.., _) => Failure::Passing(said, pause),
        _ => Failure::Final(said),
    })
}

/// Reads an answer that is at most so long.
async fn read(mut response: Response, limit: u64) -> Result<Bytes, Failure> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(Failure::TooLarge(limit));
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(Failure::of)? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(Failure::TooLarge(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}
