//! The room as others see it: names, formats, the registry as a tool talks to it, and pulls over a
//! real connection.

mod conformance;
mod formats;
mod garbage;
mod packagings;
mod references;
mod registry;
mod remote;
mod sha512;
mod signatures;
mod store;
mod transfer;

use std::io::Write;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use crate::{Config, Images, Package, Reference, manifest_for};

/// The smallest module, made different by a name.
fn module(name: &str) -> Vec<u8> {
    wat::parse_str(format!("(module ${name} (func (export \"_start\")))")).unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn reference(name: &str) -> Reference {
    Reference::parse(name).unwrap()
}

/// A store in a folder of its own, with small limits.
fn images() -> (tempfile::TempDir, Arc<Images>) {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    (dir, images)
}

fn open(dir: &std::path::Path) -> Arc<Images> {
    Images::open(Config { max_module_bytes: 1024 * 1024, ..Config::new(dir) }).unwrap()
}

/// A client that talks to a router without a connection.
struct Tool {
    router: Router,
}

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Tool {
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Body::empty()).await
    }

    /// Pushes a blob in one request; gives its digest.
    async fn push_blob(&self, name: &str, bytes: &[u8]) -> String {
        self.push_blob_as(name, bytes, crate::digest::Digest::of(bytes).to_string()).await
    }

    async fn push_blob_as(&self, name: &str, bytes: &[u8], digest: String) -> String {
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.send(Method::POST, &path, &[], bytes.to_vec()).await.expect(StatusCode::CREATED);
        digest
    }

    async fn push_manifest(&self, name: &str, reference: &str, manifest: &[u8]) -> Answer {
        self.push_manifest_as(name, reference, Package::MANIFEST_TYPE, manifest).await
    }

    async fn push_manifest_as(
        &self,
        name: &str,
        reference: &str,
        media_type: &str,
        manifest: &[u8],
    ) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.send(Method::PUT, &path, &[("content-type", media_type)], manifest.to_vec()).await
    }

    /// Pushes a module as our own tool does.
    async fn push(&self, name: &str, tag: &str, module: &[u8]) -> Package {
        let package = manifest_for(module).unwrap();
        self.push_blob(name, module).await;
        self.push_blob(name, &package.config).await;
        self.push_manifest(name, tag, &package.manifest).await.expect(StatusCode::CREATED);
        package
    }
}

impl Answer {
    #[track_caller]
    fn expect(self, status: StatusCode) -> Answer {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// Expects an error with this code in its body.
    #[track_caller]
    fn expect_error(self, status: StatusCode, code: &str) {
        let answer = self.expect(status);
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{body}");
        assert!(body["errors"][0]["message"].is_string());
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Serves a router on a port of its own until the guard goes.
async fn serve(router: Router) -> (String, DropGuard) {
    // The HTTP client insists, even for plain HTTP. Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
    (address, stop.drop_guard())
}
