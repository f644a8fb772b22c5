//! Fetching the signatures of an image, as far as the node's policy wants them: they are kept beside the
//! image, and looked at there.

use serde_json::Value;

use super::{Fetched, Pull};
use crate::PullError;
use crate::digest::Digest;
use crate::format;
use crate::manifest::{Descriptor, Manifest};
use crate::signature::{MAX_SIGNATURE, MAX_SIGNATURES, is_signature, signature_tag};

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
        if let Some(fetched) = self.found(self.manifest(&tag).await)? {
            let before = self.shared.index.tag(&self.name, &tag).filter(|before| *before != fetched.digest);
            self.keep_signature(fetched, Some(tag)).await?;
            if let Some(before) = before {
                let name = self.name.clone();
                let remove = self.shared.blocking(move |shared| shared.remove(&name, &before, &[].into()));
                remove.await.map_err(|error| self.store(error))?;
            }
        }
        for descriptor in self.referrers(image).await? {
            let Some(digest) = Digest::parse(&descriptor.digest) else { continue };
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
        let by_api = self.document(&format!("referrers/{image}"), "its referrers").await;
        let bytes = match by_api {
            Ok((bytes, _)) => bytes,
            Err(PullError::NotFound { .. } | PullError::Registry { .. }) => {
                let tag = format!("manifests/sha256-{}", image.hex());
                match self.found(self.document(&tag, "its referrers").await)? {
                    Some((bytes, _)) => bytes,
                    None => return Ok(Vec::new()),
                }
            }
            Err(error) => return Err(error),
        };
        // A registry may answer anything at a path it does not know.
        let mut index: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let index: Manifest = serde_json::from_value(index.take()).unwrap_or_default();
        let signs = |descriptor: &Descriptor| {
            is_signature(descriptor.artifact_type.as_deref().unwrap_or_default())
                || is_signature(&descriptor.media_type)
        };
        Ok(index.manifests.into_iter().filter(signs).take(MAX_SIGNATURES).collect())
    }

    async fn keep_signature(&self, fetched: Fetched, tag: Option<String>) -> Result<(), PullError> {
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
