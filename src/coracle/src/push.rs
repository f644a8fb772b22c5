//! `coracle push`: a Wasm file into the embedded registry, over the distribution API as any tool does.

use anyhow::{Context, ensure};
use coracle_image::{LOCAL_REGISTRY, Package, Reference};
use reqwest::{Method, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::{
    cli::Push,
    connection::{Connection, expect},
    data_dir, ui,
};

/// Runs the command.
pub(crate) async fn run(args: Push) -> anyhow::Result<()> {
    let wasm = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let kubeconfig = args.kubeconfig.unwrap_or_else(|| data_dir::default_root("cluster").join("kubeconfig"));
    let connection = Connection::open(&kubeconfig)
        .context("no cluster to push to; --kubeconfig takes the path that `up` or `demo` printed")?;
    let digest = push(&connection, &args.reference, wasm).await?;
    ui::line(&format!("pushed {}  {digest}", args.reference));
    Ok(())
}

/// Pushes a module under a reference of the embedded registry; gives the manifest's digest.
pub(crate) async fn push(connection: &Connection, reference: &str, wasm: Vec<u8>) -> anyhow::Result<String> {
    let parsed: Reference =
        reference.parse().with_context(|| format!("{reference:?} is no image reference"))?;
    ensure!(
        parsed.is_local(),
        "{reference:?} is not in the cluster's own registry; push to {LOCAL_REGISTRY}/NAME:TAG"
    );
    let tag = parsed.tag().with_context(|| format!("{reference:?} has no tag to push to"))?;
    let repository = parsed.repository();
    let manifest = coracle_image::manifest_for(&wasm).context("the file cannot be pushed")?;
    blob(connection, repository, wasm).await?;
    blob(connection, repository, manifest.config.to_vec()).await?;
    let put = connection
        .request(Method::PUT, &format!("/v2/{repository}/manifests/{tag}"))
        .header(header::CONTENT_TYPE, Package::MANIFEST_TYPE)
        .body(manifest.manifest.to_vec());
    expect(put.send().await?).await?;
    Ok(digest_of(&manifest.manifest))
}

/// Uploads a blob in one piece, unless the registry has it.
async fn blob(connection: &Connection, repository: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
    let digest = digest_of(&bytes);
    let head = connection.request(Method::HEAD, &format!("/v2/{repository}/blobs/{digest}"));
    let head =
        head.send().await.context("cannot reach the cluster; is it up, and is this its kubeconfig?")?;
    if head.status() == StatusCode::OK {
        return Ok(());
    }
    let start = connection.request(Method::POST, &format!("/v2/{repository}/blobs/uploads/"));
    let started = expect(start.send().await?).await?;
    let location = started.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
    let location = location.context("the registry did not say where to upload to")?;
    let separator = if location.contains('?') { '&' } else { '?' };
    let put = connection
        .request(Method::PUT, &format!("{location}{separator}digest={digest}"))
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(bytes);
    expect(put.send().await?).await?;
    Ok(())
}

fn digest_of(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}
