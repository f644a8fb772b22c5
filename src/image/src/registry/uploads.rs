//! Uploads of blobs: in one request, or in a session of several.
//!
//! ```text
//!  POST ──► open ──PATCH──► open ──PUT digest──► blob
//!            │ DELETE, content too large, idle for too long, or silent while others find no room
//!            ▼
//!           gone
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_RANGE, LOCATION, RANGE};
use axum::http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::{Code, RegistryError};
use super::route::{parse_algorithm, parse_digest};
use super::{Request, index_name};
use crate::LOCAL_REGISTRY;
use crate::content::{AppendError, Draft};
use crate::digest::Digest;
use crate::shared::Shared;

/// Uploads that may be open at the same time, those in one request among them. With the limit on a blob's size this
/// bounds what unfinished uploads may take of the disk; a push of a module needs two.
pub(crate) const MAX_SESSIONS: usize = 64;

/// How long a session may be idle: as long as a person with a terminal needs.
pub(crate) const SESSION_IDLE: Duration = Duration::from_secs(10 * 60);

/// After so long without a word the session that is silent the longest gives way when there is no room for another.
/// Tools send their chunks one after the other; a minute of silence is a lost connection.
pub(crate) const SESSION_SILENT: Duration = Duration::from_secs(60);

/// The open sessions by their id.
#[derive(Default)]
pub(crate) struct Uploads {
    sessions: Mutex<HashMap<Uuid, Session>>,
}

struct Session {
    /// The repository it belongs to.
    name: String,
    touched: Instant,
    /// Locked by the one request that writes.
    draft: Arc<tokio::sync::Mutex<Draft>>,
}

impl Session {
    /// Whether nothing has come for so long. One that is being written to is not silent, however slow it is.
    fn is_silent(&self, time: Duration) -> bool {
        self.touched.elapsed() >= time && Arc::strong_count(&self.draft) == 1
    }
}

/// Ends a session when it goes.
struct End<'a>(&'a Uploads, Uuid);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

impl Uploads {
    /// Ends the sessions that are idle for too long.
    fn expire(&self) {
        self.sessions.lock().retain(|_, session| !session.is_silent(SESSION_IDLE));
    }

    /// Sees to it that there is room for another, or says that there is none.
    fn make_room(&self) -> Result<(), RegistryError> {
        let mut sessions = self.sessions.lock();
        if sessions.len() < MAX_SESSIONS {
            return Ok(());
        }
        let silent = sessions.iter().filter(|(_, session)| session.is_silent(SESSION_SILENT));
        let (id, _) = silent.min_by_key(|(_, session)| session.touched).ok_or_else(too_many)?;
        let id = *id;
        sessions.remove(&id);
        Ok(())
    }

    fn open(&self, name: &str, draft: Draft) -> Result<Uuid, RegistryError> {
        let mut sessions = self.sessions.lock();
        // Others may have come since room was made.
        if sessions.len() >= MAX_SESSIONS {
            return Err(too_many());
        }
        let id = Uuid::new_v4();
        let draft = Arc::new(tokio::sync::Mutex::new(draft));
        sessions.insert(id, Session { name: name.to_owned(), touched: Instant::now(), draft });
        Ok(id)
    }

    /// The draft of a session, for this request alone.
    fn take(&self, name: &str, id: Uuid) -> Result<OwnedMutexGuard<Draft>, RegistryError> {
        let mut sessions = self.sessions.lock();
        let session =
            sessions.get_mut(&id).filter(|session| session.name == name).ok_or_else(upload_unknown)?;
        session.touched = Instant::now();
        session.draft.clone().try_lock_owned().map_err(|_| {
            let message = "another request is writing to this upload";
            RegistryError::new(StatusCode::CONFLICT, Code::BlobUploadInvalid, message)
        })
    }

    fn touch(&self, id: Uuid) {
        if let Some(session) = self.sessions.lock().get_mut(&id) {
            session.touched = Instant::now();
        }
    }

    fn end(&self, id: Uuid) {
        self.sessions.lock().remove(&id);
    }
}

/// `POST` to a repository's uploads: a mount, a whole blob, or the beginning of a session.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    name: &str,
    request: Request,
) -> Result<Response<Body>, RegistryError> {
    if request.method != Method::POST {
        return Err(RegistryError::method());
    }
    shared.uploads.expire();
    if let Some(digest) = &request.query.mount {
        let digest = parse_digest(digest)?;
        if mount(shared, name, &digest, request.query.from.as_deref()).await? {
            return Ok(created(name, &digest));
        }
    }
    shared.uploads.make_room()?;
    let digest = request.query.digest.as_deref().map(parse_digest).transpose()?;
    let announced = request.query.digest_algorithm.as_deref().map(parse_algorithm).transpose()?;
    let algorithm = digest.as_ref().map(Digest::algorithm).or(announced).unwrap_or_default();
    let draft = shared.content.draft(shared.max_module_bytes, algorithm).await?;
    let id = shared.uploads.open(name, draft)?;
    if let Some(digest) = digest {
        let _end = End(&shared.uploads, id);
        let mut draft = shared.uploads.take(name, id)?;
        append(shared, &mut draft, request.body).await?;
        adopt(shared, name, &mut draft, &digest).await?;
        return Ok(created(name, &digest));
    }
    Ok(progress(StatusCode::ACCEPTED, name, id, 0))
}

/// Requests to one session.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    name: &str,
    id: &str,
    request: Request,
) -> Result<Response<Body>, RegistryError> {
    shared.uploads.expire();
    let id = Uuid::try_parse(id).map_err(|_| upload_unknown())?;
    let mut draft = shared.uploads.take(name, id)?;
    match request.method {
        Method::GET => Ok(progress(StatusCode::NO_CONTENT, name, id, draft.size())),
        Method::DELETE => {
            shared.uploads.end(id);
            Ok(Response::builder().status(StatusCode::NO_CONTENT).body(Body::empty()).expect("no headers"))
        }
        Method::PATCH => {
            patch(shared, name, id, &mut draft, request).await?;
            Ok(progress(StatusCode::ACCEPTED, name, id, draft.size()))
        }
        Method::PUT => {
            let digest = request.query.digest.as_deref().ok_or_else(|| {
                let message = "the digest parameter is missing";
                RegistryError::new(StatusCode::BAD_REQUEST, Code::DigestInvalid, message)
            })?;
            let digest = parse_digest(digest)?;
            patch(shared, name, id, &mut draft, request).await?;
            // Whatever comes of it: the upload is over.
            shared.uploads.end(id);
            adopt(shared, name, &mut draft, &digest).await?;
            Ok(created(name, &digest))
        }
        _ => Err(RegistryError::method()),
    }
}

/// Adds the body of a request to a session's draft.
async fn patch(
    shared: &Arc<Shared>,
    name: &str,
    id: Uuid,
    draft: &mut Draft,
    request: Request,
) -> Result<(), RegistryError> {
    let range = request.headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    if range.is_some_and(|range| range_start(range) != Some(draft.size())) {
        let message = format!("the upload of {name} continues at byte {}", draft.size());
        return Err(RegistryError::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid, message));
    }
    let appended = append(shared, draft, request.body).await;
    match &appended {
        Ok(()) => shared.uploads.touch(id),
        // What was counted stays, and the client may go on after it.
        Err(Interrupted::Request) => shared.uploads.touch(id),
        Err(Interrupted::Fatal(_)) => shared.uploads.end(id),
    }
    Ok(appended?)
}

enum Interrupted {
    /// The request ended too early.
    Request,
    Fatal(RegistryError),
}

impl From<Interrupted> for RegistryError {
    fn from(interrupted: Interrupted) -> RegistryError {
        match interrupted {
            Interrupted::Request => {
                let message = "the request ended too early";
                RegistryError::new(StatusCode::BAD_REQUEST, Code::BlobUploadInvalid, message)
            }
            Interrupted::Fatal(error) => error,
        }
    }
}

async fn append(shared: &Shared, draft: &mut Draft, mut body: Body) -> Result<(), Interrupted> {
    let fatal = |error: crate::ImageError| Interrupted::Fatal(error.into());
    draft.rewind().await.map_err(fatal)?;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Interrupted::Request) };
        let Ok(bytes) = frame.into_data() else { continue };
        draft.append(&bytes).await.map_err(|error| match error {
            AppendError::TooLarge => Interrupted::Fatal(RegistryError::too_large(shared.max_module_bytes)),
            AppendError::Store(error) => fatal(error),
        })?;
    }
    Ok(())
}

/// Makes a draft a blob of the repository, if it is what was announced.
async fn adopt(
    shared: &Arc<Shared>,
    name: &str,
    draft: &mut Draft,
    digest: &Digest,
) -> Result<(), RegistryError> {
    if !draft.is_of(digest).await? {
        return Err(RegistryError::digest_mismatch());
    }
    draft.finish().await?;
    let (name, digest, path) = (index_name(name), digest.clone(), draft.path().to_owned());
    Ok(shared.blocking(move |shared| shared.index.adopt(&shared.content, &name, &path, &digest)).await?)
}

/// Gives the repository a blob that another one here has; false if none has it.
async fn mount(
    shared: &Arc<Shared>,
    name: &str,
    digest: &Digest,
    from: Option<&str>,
) -> Result<bool, RegistryError> {
    let has = match from {
        Some(from) => shared.index.has_blob(&index_name(from), digest),
        None => shared.index.find_blob(&format!("{LOCAL_REGISTRY}/"), digest),
    };
    let (name, digest) = (index_name(name), digest.clone());
    Ok(has && shared.blocking(move |shared| shared.index.mount(&shared.content, &name, &digest)).await?)
}

fn range_start(range: &str) -> Option<u64> {
    let range = range.strip_prefix("bytes ").unwrap_or(range);
    range.split_once('-')?.0.trim().parse().ok()
}

fn progress(status: StatusCode, name: &str, id: Uuid, size: u64) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header(LOCATION, format!("/v2/{name}/blobs/uploads/{id}"))
        // The last byte that is there; also of nothing, as everybody does.
        .header(RANGE, format!("0-{}", size.saturating_sub(1)))
        .header("docker-upload-uuid", id.to_string());
    response.body(Body::empty()).expect("the headers are valid")
}

fn created(name: &str, digest: &Digest) -> Response<Body> {
    let response = Response::builder()
        .status(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{name}/blobs/{digest}"))
        .header("docker-content-digest", digest.to_string());
    response.body(Body::empty()).expect("the headers are valid")
}

fn upload_unknown() -> RegistryError {
    RegistryError::new(StatusCode::NOT_FOUND, Code::BlobUploadUnknown, "blob upload unknown to registry")
}

fn too_many() -> RegistryError {
    let message = "too many uploads are unfinished; try again later";
    RegistryError::new(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests, message)
}
