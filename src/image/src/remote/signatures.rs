//! Fetching the signatures of an image, as far as the node's policy wants them: they are kept beside the
//! image, and looked at there.

use reqwest::header::{HeaderMap, LINK};
use serde_json::Value;

use super::{Fetched, Pull};
use crate::PullError;
use crate::digest::Digest;
use crate::format;
use crate::manifest::{Descriptor, Manifest};
use crate::reference::is_tag;
use crate::signature::{MAX_SIGNATURE, MAX_SIGNATURES, is_signature, signature_tag};

/// Pages of referrers that are read. Registries put a hundred or more into one, and few images have more
/// than one; who may push could make a list without end.
const MAX_PAGES: usize = 16;

impl Pull<'_> {
    /// Refuses an image that the policy does not let in. What was resolved must be signed: the index, or
    /// the image that runs of it.
    pub(super) async fn signatures(&self, outer: &Digest, inner: Option<&Digest>) -> Result<(), PullError> {
        if self.shared.policy.wants_signatures(self.reference) {
            for digest in std::iter::once(outer).chain(inner) {
                self.fetch_signatures(digest).await?;
            }
        }
        self.shared.admit(self.reference, outer, inner)
    }

    async fn fetch_signatures(&self, image: &Digest) -> Result<(), PullError> {
        let tag = signature_tag(image);
        // Cosign's tag of a SHA-512 is too long to be one.
        if is_tag(&tag)
            && let Some(fetched) = self.found(self.manifest(&tag).await)?
        {
            let before = self.shared.index.tag(&self.name, &tag).filter(|before| *before != fetched.digest);
            self.keep_signature(fetched, Some(tag)).await?;
            if let Some(before) = before {
                let name = self.name.clone();
                let remove = self.shared.blocking(move |shared| shared.remove_replaced(&name, &before));
                remove.await.map_err(|error| self.store(error))?;
            }
        }
        for descriptor in self.referrers(image).await? {
            let Some(digest) = Digest::parse(&descriptor.digest) else { continue };
            self.claim.add(&digest).await;
            if self.shared.index.manifest(&self.name, &digest).is_some() {
                continue;
            }
            if let Some(fetched) = self.found(self.manifest(&digest.to_string()).await)? {
                self.keep_signature(fetched, None).await?;
            }
        }
        Ok(())
    }

    /// What signs an image: by the API, or by the tag that stands for it in registries
    /// that do not have it.
    async fn referrers(&self, image: &Digest) -> Result<Vec<Descriptor>, PullError> {
        let path = format!("referrers/{image}");
        let (bytes, mut next) = match self.document(&path, "its referrers").await {
            Ok((bytes, headers)) => (bytes, next_page(&headers)),
            Err(PullError::NotFound { .. } | PullError::Registry { .. }) => {
                let tag = format!("manifests/{}", image.tag());
                match self.found(self.document(&tag, "its referrers").await)? {
                    Some((bytes, _)) => (bytes, None),
                    None => return Ok(Vec::new()),
                }
            }
            Err(error) => return Err(error),
        };
        let mut signatures = signatures_of(&bytes);
        for _ in 1..MAX_PAGES {
            let Some(query) = next.take().filter(|_| signatures.len() < MAX_SIGNATURES) else { break };
            let page = self.document(&format!("{path}?{query}"), "its referrers").await;
            let Some((bytes, headers)) = self.found(page)? else { break };
            signatures.extend(signatures_of(&bytes));
            next = next_page(&headers);
        }
        signatures.truncate(MAX_SIGNATURES);
        Ok(signatures)
    }

    async fn keep_signature(&self, fetched: Fetched, tag: Option<String>) -> Result<(), PullError> {
        if self.shared.index.manifest(&self.name, &fetched.digest).is_none() {
            self.signatures.lock().insert(fetched.digest.clone());
        }
        let signatures = fetched.manifest.layers.iter().filter(|layer| is_signature(&layer.media_type));
        for layer in signatures.take(MAX_SIGNATURES) {
            let target = format::target(layer)?;
            self.small("a signature", &target, MAX_SIGNATURE).await?;
        }
        self.keep(fetched, tag).await.map(|_| ())
    }

    /// What is not there is none; other failures say nothing about what is there.
    fn found<T>(&self, answer: Result<T, PullError>) -> Result<Option<T>, PullError> {
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(PullError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The signatures that an answer lists.
fn signatures_of(bytes: &[u8]) -> Vec<Descriptor> {
    // A registry may answer anything at a path it does not know.
    let mut index: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let index: Manifest = serde_json::from_value(index.take()).unwrap_or_default();
    let signs = |descriptor: &Descriptor| {
        is_signature(descriptor.artifact_type.as_deref().unwrap_or_default())
            || is_signature(&descriptor.media_type)
    };
    index.manifests.into_iter().filter(signs).take(MAX_SIGNATURES).collect()
}

/// The query of the next page. Only that is taken of a link, so that it leads nowhere else.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).into_iter().filter_map(|value| value.to_str().ok());
    links.flat_map(|links| links.split(',')).find_map(|link| {
        let (address, kind) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = kind.split(';').any(|word| matches!(word.trim(), "rel=\"next\"" | "rel=next"));
        let (_, query) = address.split_once('?')?;
        next.then(|| query.to_owned())
    })
}
