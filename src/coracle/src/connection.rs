//! A connection to a cluster's API from outside, by its kubeconfig: for `push`, the demo and the
//! benchmarks, which go the way any client goes.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::{Certificate, Identity, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

/// The API of one cluster.
#[derive(Clone)]
pub(crate) struct Connection {
    http: reqwest::Client,
    server: String,
}

/// What is read of a kubeconfig: the form that `coracle up` writes.
#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<Named>,
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    cluster: Cluster,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

impl Connection {
    /// Reads a kubeconfig file with credentials inside.
    pub(crate) fn open(kubeconfig: &Path) -> anyhow::Result<Connection> {
        let text = std::fs::read_to_string(kubeconfig)
            .with_context(|| format!("cannot read the kubeconfig {}", kubeconfig.display()))?;
        Connection::from_kubeconfig(&text)
            .with_context(|| format!("cannot use the kubeconfig {}", kubeconfig.display()))
    }

    fn from_kubeconfig(text: &str) -> anyhow::Result<Connection> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let config: Kubeconfig =
            serde_saphyr::from_str(text).context("not the form that `coracle up` writes")?;
        let cluster = &config.clusters.first().context("it has no cluster")?.cluster;
        let user = &config.users.first().context("it has no user")?.user;
        let decode =
            |what: &str, data: &str| STANDARD.decode(data).with_context(|| format!("{what} is not base64"));
        let ca = decode("certificate-authority-data", &cluster.certificate_authority_data)?;
        let mut identity = decode("client-certificate-data", &user.client_certificate_data)?;
        identity.push(b'\n');
        identity.extend(decode("client-key-data", &user.client_key_data)?);
        let http = reqwest::Client::builder()
            .tls_certs_only([Certificate::from_pem(&ca).context("the CA is not a certificate")?])
            .identity(Identity::from_pem(&identity).context("the client certificate cannot be used")?)
            .no_proxy()
            .build()
            .context("cannot set up the connection")?;
        Ok(Connection { http, server: cluster.server.trim_end_matches('/').to_owned() })
    }

    /// A request for a path of the server, or for a whole URL that the server gave.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url =
            if path.starts_with("https://") { path.to_owned() } else { format!("{}{path}", self.server) };
        self.http.request(method, url)
    }

    /// POSTs an object.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        Ok(expect(self.request(Method::POST, path).json(object).send().await?).await?.json().await?)
    }

    /// DELETEs an object, which takes the time that it has.
    pub(crate) async fn end(&self, path: &str) -> anyhow::Result<()> {
        expect(self.request(Method::DELETE, path).send().await?).await?;
        Ok(())
    }

    /// DELETEs an object, at once.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}gracePeriodSeconds=0");
        expect(self.request(Method::DELETE, &path).send().await?).await?;
        Ok(())
    }

    /// Creates an object, or merges it over the one that is there.
    pub(crate) async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let (collection, name) = collection_of(object)?;
        let patch = self
            .request(Method::PATCH, &format!("{collection}/{name}"))
            .header("content-type", "application/merge-patch+json")
            .body(object.to_string());
        let patched = patch.send().await?;
        if patched.status() == StatusCode::NOT_FOUND {
            self.create(&collection, object).await?;
        } else {
            expect(patched).await?;
        }
        Ok(())
    }

    /// Watches a collection: the events as JSON, the current objects first.
    pub(crate) async fn watch(
        &self,
        path: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Value>> + use<>> {
        let response = expect(self.request(Method::GET, &format!("{path}?watch=true")).send().await?).await?;
        Ok(lines(response.bytes_stream().map_err(anyhow::Error::from))
            .map(|line| serde_json::from_slice(&line?).context("a watch event is not JSON")))
    }
}

/// Where an object of a built-in kind lives, and its name. The namespace defaults to `default`.
fn collection_of(object: &Value) -> anyhow::Result<(String, &str)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (api_version, kind) =
        text("/apiVersion").zip(text("/kind")).context("an object needs apiVersion and kind")?;
    let name = text("/metadata/name").context("an object needs metadata.name")?;
    let known = coracle_api::kinds::builtin()
        .iter()
        .find(|k| k.kind == kind && k.api_version() == api_version)
        .ok_or_else(|| anyhow!("there is no kind {kind} in {api_version}"))?;
    let root = if known.group.is_empty() { "/api" } else { "/apis" };
    let namespace = match known.scope {
        coracle_api::Scope::Namespaced => {
            format!("/namespaces/{}", text("/metadata/namespace").unwrap_or("default"))
        }
        coracle_api::Scope::Cluster => String::new(),
    };
    Ok((format!("{root}/{api_version}{namespace}/{}", known.plural), name))
}

/// Turns an error answer into an error that says what the server said.
pub(crate) async fn expect(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let url = response.url().clone();
    let body = response.bytes().await.unwrap_or_default();
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let said = [answer.pointer("/message"), answer.pointer("/errors/0/message")];
    let said = said.into_iter().flatten().find_map(Value::as_str).unwrap_or("no explanation");
    bail!("the server answered {status} to {}: {said}", url.path())
}

/// Cuts a stream of bytes into lines.
fn lines(
    bytes: impl Stream<Item = anyhow::Result<Bytes>> + Unpin,
) -> impl Stream<Item = anyhow::Result<Vec<u8>>> {
    futures::stream::unfold((bytes, Vec::new(), 0), |(mut bytes, mut buffer, mut searched)| async move {
        loop {
            if let Some(end) = buffer[searched..].iter().position(|b| *b == b'\n') {
                let rest = buffer.split_off(searched + end + 1);
                let line = std::mem::replace(&mut buffer, rest);
                return Some((Ok(line), (bytes, buffer, 0)));
            }
            searched = buffer.len();
            match bytes.next().await? {
                Ok(chunk) => buffer.extend_from_slice(&chunk),
                Err(error) => return Some((Err(error), (bytes, Vec::new(), 0))),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_collection(object: &Value, expected: &str) {
        assert_eq!(collection_of(object).unwrap(), (expected.to_owned(), "x"));
    }

    #[test]
    fn objects_are_found_by_their_kind() {
        check_collection(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}),
            "/api/v1/namespaces/default/pods",
        );
        check_collection(
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x"}}),
            "/api/v1/nodes",
        );
        check_collection(
            &json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x", "namespace": "n"}}),
            "/apis/coordination.k8s.io/v1/namespaces/n/leases",
        );
        assert!(
            collection_of(&json!({"apiVersion": "v1", "kind": "Boat", "metadata": {"name": "x"}})).is_err()
        );
    }

    #[tokio::test]
    async fn lines_are_cut_wherever_the_chunks_end() {
        let chunks = ["a", "b\nc", "d\n\n", "rest"].map(|c| Ok(Bytes::from_static(c.as_bytes())));
        let lines: Vec<Vec<u8>> = lines(futures::stream::iter(chunks)).try_collect().await.unwrap();
        assert_eq!(lines, [b"ab\n".to_vec(), b"cd\n".to_vec(), b"\n".to_vec()]);
    }
}
