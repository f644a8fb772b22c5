//! Images for containers: pull policy, events and errors in the kubelet's words. The image store sees to
//! it that pods which want the same image wait for one pull.

use std::sync::Arc;

use coracle_image::{Image, Images, PullError, Reference};
use k8s_openapi::api::core::v1::{Container, ContainerImage, Secret};
use tokio::time::Instant;

use crate::{backoff::go_duration, pull_secrets, state::Waiting};

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Policy {
    fn of(policy: Option<&str>, image: &str) -> Policy {
        match policy {
            Some("Always") => Policy::Always,
            Some("Never") => Policy::Never,
            Some("IfNotPresent") => Policy::IfNotPresent,
            // The API server fills this in; it is unset only in pods that it never saw.
            _ if has_moving_tag(image) => Policy::Always,
            _ => Policy::IfNotPresent,
        }
    }
}

/// True for `latest`, said or unsaid.
fn has_moving_tag(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    !last.contains('@') && last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Gets images for containers.
pub(crate) struct Puller {
    images: Arc<Images>,
}

/// Tells users about a pull: warning, reason, message.
pub(crate) type Tell<'a> = &'a (dyn Fn(bool, &'static str, String) + Send + Sync);

impl Puller {
    pub(crate) fn new(images: Arc<Images>) -> Puller {
        Puller { images }
    }

    /// The image of a container, pulled if its policy says so, for its pod's namespace and with the accounts that
    /// `secrets` hold.
    pub(crate) async fn image(
        &self,
        container: &Container,
        namespace: &str,
        secrets: &[Arc<Secret>],
        tell: Tell<'_>,
    ) -> Result<Image, Waiting> {
        let name = container.image.as_deref().unwrap_or_default();
        self.find_or_pull(name, container.image_pull_policy.as_deref(), namespace, secrets, tell).await
    }

    /// An image by name, pulled if the policy says so.
    pub(crate) async fn find_or_pull(
        &self,
        name: &str,
        policy: Option<&str>,
        namespace: &str,
        secrets: &[Arc<Secret>],
        tell: Tell<'_>,
    ) -> Result<Image, Waiting> {
        let reference = Reference::parse(name).map_err(|error| {
            let message = format!("Failed to apply default image tag \"{name}\": {}", chain(&error));
            tell(true, "InspectFailed", message.clone());
            Waiting { reason: "InvalidImageName", message: Some(message.into()) }
        })?;
        let policy = Policy::of(policy, name);
        let present = match policy {
            Policy::Always => None,
            // What is in the embedded registry is on this machine, if perhaps not unpacked yet.
            Policy::Never if reference.is_local() => self.images.pull(&reference, None, namespace).await.ok(),
            Policy::Never | Policy::IfNotPresent => self.images.find(&reference),
        };
        match (present, policy) {
            (Some(image), _) => {
                tell(false, "Pulled", format!("Container image \"{name}\" already present on machine"));
                Ok(image)
            }
            (None, Policy::Never) => {
                let message = format!("Container image \"{name}\" is not present with pull policy of Never");
                tell(true, "ErrImageNeverPull", message.clone());
                Err(Waiting { reason: "ErrImageNeverPull", message: Some(message.into()) })
            }
            (None, Policy::Always | Policy::IfNotPresent) => {
                self.pull(name, &reference, namespace, secrets, tell).await
            }
        }
    }

    async fn pull(
        &self,
        name: &str,
        reference: &Reference,
        namespace: &str,
        secrets: &[Arc<Secret>],
        tell: Tell<'_>,
    ) -> Result<Image, Waiting> {
        tell(false, "Pulling", format!("Pulling image \"{name}\""));
        let begun = Instant::now();
        match self.pull_as_somebody(reference, namespace, secrets).await {
            Ok(image) => {
                let took = go_duration(begun.elapsed());
                tell(
                    false,
                    "Pulled",
                    format!(
                        "Successfully pulled image \"{name}\" in {took} ({took} including waiting). Image size: {} bytes.",
                        image.size
                    ),
                );
                Ok(image)
            }
            Err(error @ PullError::Signature { .. }) => {
                // The runtimes' word for it, which the kubelet makes a reason of its own.
                let detail = chain(&error);
                tell(
                    true,
                    "Failed",
                    format!("Failed to pull image \"{name}\": SignatureValidationFailed: {detail}"),
                );
                let message =
                    format!("image pull failed for {name} because the signature validation failed: {detail}");
                Err(Waiting { reason: "SignatureValidationFailed", message: Some(message.into()) })
            }
            Err(error) => {
                let message = format!("failed to pull and unpack image \"{name}\": {}", chain(&error));
                tell(true, "Failed", format!("Failed to pull image \"{name}\": {message}"));
                Err(Waiting { reason: "ErrImagePull", message: Some(message.into()) })
            }
        }
    }
}

impl Puller {
    /// Pulls with one account after the other, the most specific first; as nobody if there is none.
    async fn pull_as_somebody(
        &self,
        reference: &Reference,
        namespace: &str,
        secrets: &[Arc<Secret>],
    ) -> Result<Image, PullError> {
        let mut outcome = None;
        for account in pull_secrets::accounts(secrets.iter().map(Arc::as_ref), reference) {
            match self.images.pull(reference, Some(account), namespace).await {
                Ok(image) => return Ok(image),
                Err(error) => outcome = Some(error),
            }
        }
        match outcome {
            Some(error) => Err(error),
            None => self.images.pull(reference, None, namespace).await,
        }
    }
}

/// An error with its sources in one line, for events and states.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// `imageID` in a container's status: the repository with the digest.
pub(crate) fn image_id(name: &str, digest: &str) -> String {
    let repository = name.split_once('@').map_or(name, |(repository, _)| repository);
    let after_slash = repository.rfind('/').map_or(0, |at| at + 1);
    let repository = match repository[after_slash..].find(':') {
        Some(colon) => &repository[..after_slash + colon],
        None => repository,
    };
    format!("{repository}@{digest}")
}

/// `status.images` of the node: the images that can run here, the largest first, at most `max`.
pub(crate) fn node_images(images: &Images, max: usize) -> Vec<ContainerImage> {
    let mut all: Vec<_> = images
        .list()
        .into_iter()
        .map(|listed| ContainerImage {
            size_bytes: i64::try_from(listed.image.size).ok(),
            names: Some(listed.names),
        })
        .collect();
    all.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    all.truncate(max);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ids_name_the_repository_and_the_digest() {
        for (name, id) in [
            ("web", "web@d"),
            ("registry.local/web:1", "registry.local/web@d"),
            ("host:5000/a/web", "host:5000/a/web@d"),
            ("host:5000/a/web:2@sha256:00", "host:5000/a/web@d"),
        ] {
            assert_eq!(image_id(name, "d"), id);
        }
    }

    #[test]
    fn moving_tags() {
        for (name, moving) in [
            ("web", true),
            ("web:latest", true),
            ("host:5000/web", true),
            ("web:1", false),
            ("web@sha256:0", false),
        ] {
            assert_eq!(has_moving_tag(name), moving, "{name}");
        }
    }
}
