//! Fetching content: checked while it is written, continued where it broke off.
//!
//! Downloads share a few slots of the node, which are held only while content comes, see [`crate::slots`]. What comes
//! too slowly is broken off, and begun again where it stopped.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use tokio::time::{Instant, timeout};

use super::http::Failure;
use super::{PAUSES, Pull, failed};
use crate::PullError;
use crate::content::{AppendError, Draft};
use crate::format::Target;
use crate::slots::Flow;

/// How long a registry may take to begin an answer with content, with authentication.
const BEGIN: Duration = Duration::from_secs(60);

/// Time in which the next [`LEAST`] bytes must come. Long enough for a lost connection to recover.
const WINDOW: Duration = Duration::from_secs(30);

/// Bytes that must come in each [`WINDOW`]: 16 KiB a second. At less, even an image of 10 MB would not be
/// here when a pull's ten minutes are over.
const LEAST: u64 = 30 * 16 * 1024;

/// What came of one request.
enum Came {
    /// All that was missing.
    Whole,
    /// The draft does not fit what the registry has, or it does not give parts.
    Restart,
}

impl Pull<'_> {
    /// Fetches content of the announced size, unless it is here already.
    pub(super) async fn blob(&self, what: &'static str, target: &Target) -> Result<(), PullError> {
        let Target { digest, size } = target;
        self.claim.add(digest).await;
        if self.shared.index.has_blob(&self.name, digest) {
            return Ok(());
        }
        if self.is_shared(what, target).await? {
            return Ok(());
        }
        let draft = self.shared.content.resume(digest, *size).await;
        let mut draft = draft.map_err(|error| self.store(error))?;
        // What is left of an earlier attempt may be damaged: then once more from the beginning.
        let mut doubtful = draft.size() > 0;
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.part(what, target, &mut draft).await {
                Ok(Came::Whole) if draft.digest() == *digest => break,
                Ok(Came::Whole) if !doubtful => {
                    draft.discard();
                    return Err(self.mismatch(&digest.to_string()));
                }
                Ok(Came::Whole | Came::Restart) => {
                    doubtful = false;
                    draft.restart().await.map_err(|error| self.store(error))?;
                }
                Err(Stop::Failure(failure)) => {
                    doubtful |= draft.size() > 0;
                    self.pause(failure, &mut pauses, what).await?;
                }
                Err(Stop::Pull(error)) => {
                    draft.discard();
                    return Err(error);
                }
            }
        }
        draft.finish().await.map_err(|error| self.store(error))?;
        let (name, digest, path) = (self.name.clone(), digest.clone(), draft.path().to_owned());
        let adopt =
            move |shared: &crate::shared::Shared| shared.index.adopt(&shared.content, &name, &path, &digest);
        self.shared.blocking(adopt).await.map_err(|error| self.store(error))
    }

    /// Takes content that another repository brought, if this one has it too, for us.
    async fn is_shared(&self, what: &'static str, target: &Target) -> Result<bool, PullError> {
        let here = self.shared.content.size(&target.digest).map_err(|error| self.store(error))?;
        if here != Some(target.size) {
            return Ok(false);
        }
        match begun(self.remote.has_content(&target.digest.to_string())).await {
            Ok(true) => {}
            // Some registries have no such question; the answer to the real one counts.
            Ok(false) | Err(Failure::Final(_) | Failure::Passing(..)) => return Ok(false),
            Err(failure) => return Err(failed(self.reference, what, failure)),
        }
        let (name, digest) = (self.name.clone(), target.digest.clone());
        let mount = self.shared.blocking(move |shared| shared.index.mount(&shared.content, &name, &digest));
        mount.await.map_err(|error| self.store(error))
    }

    /// One request for what is missing.
    async fn part(&self, what: &'static str, target: &Target, draft: &mut Draft) -> Result<Came, Stop> {
        let first = draft.size();
        if first == target.size && first > 0 {
            return Ok(Came::Whole);
        }
        let mut response = match begun(self.remote.content(&target.digest.to_string(), first)).await {
            // It has less than we do.
            Err(Failure::Final(_)) if first > 0 => return Ok(Came::Restart),
            answer => answer?,
        };
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            if range.is_none_or(|range| !range.starts_with(&format!("bytes {first}-"))) {
                let other = Failure::last("it answers with another part than it was asked for");
                return if first > 0 { Ok(Came::Restart) } else { Err(other.into()) };
            }
        } else if first > 0 {
            // All of it, although a part would do.
            draft.restart().await.map_err(|error| Stop::Pull(self.store(error)))?;
        }
        let (mut pace, mut flow) = (Pace::default(), Flow::new(&self.shared.downloads, self.turn));
        while let Some(bytes) = flow.next(pace.chunk(&mut response)).await? {
            self.came.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            draft.append(&bytes).await.map_err(|error| match error {
                AppendError::TooLarge => Stop::Pull(self.too_large(what, target.size)),
                AppendError::Store(error) => Stop::Pull(self.store(error)),
            })?;
        }
        match draft.size() == target.size {
            true => Ok(Came::Whole),
            false => Err(Failure::passing("its content ended too early").into()),
        }
    }
}

/// The answer to a request, if it begins in time.
async fn begun<T>(request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::passing(format!("it did not answer in {} seconds", BEGIN.as_secs()));
    timeout(BEGIN, request).await.map_err(late)?
}

/// Breaks off what comes too slowly. Only waiting for the registry counts.
struct Pace {
    left: Duration,
    due: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { left: WINDOW, due: LEAST }
    }
}

impl Pace {
    async fn chunk(&mut self, response: &mut Response) -> Result<Option<Bytes>, Failure> {
        let began = Instant::now();
        let slow =
            |_| Failure::passing(format!("it sends less than {} bytes a second", LEAST / WINDOW.as_secs()));
        let chunk = timeout(self.left, response.chunk()).await.map_err(slow)?.map_err(Failure::of)?;
        self.left = self.left.saturating_sub(began.elapsed());
        self.due = self.due.saturating_sub(chunk.as_ref().map_or(0, |bytes| bytes.len() as u64));
        if self.due == 0 {
            *self = Pace::default();
        }
        Ok(chunk)
    }
}

/// Why a request did not bring everything.
enum Stop {
    Failure(Failure),
    Pull(PullError),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failure(failure)
    }
}
