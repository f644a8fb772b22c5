//! Reading and removing blobs.

use std::io::SeekFrom;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{Method, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::error::{Code, RegistryError};
use super::{Request, index_name};
use crate::ImageError;
use crate::digest::Digest;
use crate::shared::Shared;

pub(super) async fn serve(
    shared: &Arc<Shared>,
    name: &str,
    digest: &Digest,
    request: Request,
) -> Result<Response<Body>, RegistryError> {
    let index_name = index_name(name);
    match request.method {
        Method::GET | Method::HEAD => {}
        Method::DELETE => {
            let digest = digest.clone();
            let remove =
                move |shared: &Shared| shared.index.remove_blob(&shared.content, &index_name, &digest);
            let removed = shared.blocking(remove).await?;
            return if removed { accepted() } else { Err(RegistryError::blob_unknown()) };
        }
        _ => return Err(RegistryError::method()),
    }
    if !shared.index.has_blob(&index_name, digest) {
        return Err(RegistryError::blob_unknown());
    }
    let path = shared.content.path(digest);
    let failed = || ImageError::io("read", &path);
    let mut file = tokio::fs::File::open(&path).await.map_err(failed())?;
    let size = file.metadata().await.map_err(failed())?.len();
    let asked = request.headers.get(RANGE).and_then(|range| range.to_str().ok());
    let response = Response::builder()
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes")
        .header("docker-content-digest", digest.to_string());
    let (first, length, response) = match asked.map_or(Asked::All, |range| range_of(range, size)) {
        Asked::All => (0, size, response),
        Asked::Part(first, last) => {
            let response = response.status(StatusCode::PARTIAL_CONTENT);
            (first, last - first + 1, response.header(CONTENT_RANGE, format!("bytes {first}-{last}/{size}")))
        }
        Asked::Beyond => {
            let message = format!("the blob has {size} bytes");
            return Err(RegistryError::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::SizeInvalid, message));
        }
    };
    let response = response.header(CONTENT_LENGTH, length);
    let body = if request.method == Method::HEAD {
        Body::empty()
    } else {
        file.seek(SeekFrom::Start(first)).await.map_err(failed())?;
        Body::from_stream(ReaderStream::new(file.take(length)))
    };
    Ok(response.body(body).expect("the headers are valid"))
}

pub(super) fn accepted() -> Result<Response<Body>, RegistryError> {
    Ok(Response::builder().status(StatusCode::ACCEPTED).body(Body::empty()).expect("the headers are valid"))
}

/// What part of a blob a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Everything; also for ranges that we do not understand, which HTTP lets us ignore.
    All,
    /// From and to, both included.
    Part(u64, u64),
    /// Nothing that there is, or that ends before it begins.
    Beyond,
}

pub(super) fn range_of(range: &str, size: u64) -> Asked {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::All;
    };
    match (first.trim().parse::<u64>(), last.trim()) {
        (Ok(first), _) if first >= size => Asked::Beyond,
        (Ok(first), "") => Asked::Part(first, size - 1),
        (Ok(first), last) => match last.parse::<u64>() {
            Ok(last) if last >= first => Asked::Part(first, last.min(size - 1)),
            Ok(_) => Asked::Beyond,
            Err(_) => Asked::All,
        },
        (Err(_), last) if first.trim().is_empty() => match last.parse::<u64>() {
            Ok(0) => Asked::Beyond,
            Ok(_) if size == 0 => Asked::Beyond,
            Ok(suffix) => Asked::Part(size.saturating_sub(suffix), size - 1),
            Err(_) => Asked::All,
        },
        _ => Asked::All,
    }
}
