//! Whose image is unpacked when: at most two at a time, and none waits for a large one that is not large itself.
//!
//! ```text
//!   wanted ──► brief lane ──unpacked──► ready
//!                  │ it has more than BRIEF: what was made of it goes
//!                  ▼
//!              long lane ──unpacked──► ready
//! ```
//!
//! How much work an image is, only unpacking it tells: a layer of a few kilobytes may hold a hundred thousand files. So
//! each is begun in the lane of those that take about a second, and one that turns out larger begins anew in the other,
//! which costs it that second. In each lane there is one at a time, and namespaces take turns. So what unpacking holds
//! in memory is that of two images, and what it takes of the processor are two threads that give way to the control
//! plane.

use std::io;
use std::sync::Arc;
use std::thread::{self, Builder};

use tokio::task::spawn_blocking;

use crate::error::Unusable;
use crate::slots::{Room, Slots, Turn};
use crate::{FormatError, ImageError};

/// What an image may have to be unpacked in the brief lane: about a second's work of a slow disk. Images of modules have
/// a handful of files, those of small applications with their packages a thousand.
pub(crate) const BRIEF: Extent = Extent { bytes: 64 << 20, entries: 2_000 };

/// Images in a lane at the same time. With more, pods that run already would feel it.
const LANE: Room = Room { all: 1, of_host: 1, of_namespace: 1 };

/// How nice who unpacks is: as nice as guests are, since a pod that waits for its image is no less than those that run.
const NICE: i32 = 5;

/// How large something may be, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) bytes: u64,
    /// Files, links and folders.
    pub(crate) entries: usize,
}

/// Why an image was not unpacked.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// It has more than was allowed this time.
    Larger,
    Unusable(Unusable),
}

impl<E: Into<Unusable>> From<E> for Unfinished {
    fn from(error: E) -> Unfinished {
        Unfinished::Unusable(error.into())
    }
}

/// The lanes.
pub(crate) struct Lanes {
    pub(crate) brief: Slots,
    pub(crate) long: Slots,
}

impl Lanes {
    pub(crate) fn new() -> Lanes {
        Lanes { brief: Slots::new(LANE), long: Slots::new(LANE) }
    }

    /// Does `work` when it is its turn, with what it may unpack: `None` for all that any image may have. `layer` names
    /// what is damaged if the work panics.
    pub(crate) async fn unpack<T: Send + 'static>(
        &self,
        turn: &Arc<Turn>,
        layer: &str,
        work: impl Fn(Option<Extent>) -> Result<T, Unfinished> + Send + Sync + 'static,
    ) -> Result<T, Unusable> {
        let work = Arc::new(work);
        for (lane, most) in [(&self.brief, Some(BRIEF)), (&self.long, None)] {
            let slot = lane.acquire(turn).await;
            let work = Arc::clone(&work);
            let done = spawn_blocking(move || {
                // Until the work ends, even if nobody waits for it any more.
                let _slot = slot;
                aside(|| work(most))
            });
            match done.await.unwrap_or_else(|_| Ok(Err(damaged(layer)))) {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(Unfinished::Larger)) => {}
                Ok(Err(Unfinished::Unusable(error))) => return Err(error),
                Err(error) => return Err(ImageError::io("unpack", layer.as_ref())(error).into()),
            }
        }
        unreachable!("only what is bounded is too small")
    }
}

/// What a decompressor does not expect may make it panic; that ends its work and no more.
fn damaged(layer: &str) -> Unfinished {
    FormatError::Layer { layer: layer.to_owned(), reason: "its content is damaged".to_owned() }.into()
}

/// Does work on a thread of its own, whose priority is lower: no thread gets its own back.
///
/// # Panics
/// If the work does.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = Builder::new().name("unpack".to_owned()).spawn_scoped(scope, || {
            // On Linux a priority belongs to a thread, and "process 0" is the one that calls.
            let lower = rustix::process::getpriority_process(None).and_then(|own| match own < NICE {
                true => rustix::process::setpriority_process(None, NICE),
                false => Ok(()),
            });
            if let Err(error) = lower {
                tracing::debug!(%error, "a thread keeps its priority");
            }
            work()
        })?;
        Ok(thread.join().expect("what panicked is not caught here"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_larger_than_brief_begins_anew_in_the_other_lane() {
        let lanes = Lanes::new();
        let turn = Turn::new("host", "team");
        let long = lanes.long.acquire(&turn).await;
        let unpack = |larger: bool| {
            lanes.unpack(&turn, "sha256:0", move |most| match most {
                Some(BRIEF) if larger => Err(Unfinished::Larger),
                most => Ok(most),
            })
        };
        // Others come while a large one waits for another large one.
        let mut large = Box::pin(unpack(true));
        for _ in 0..3 {
            tokio::select! {
                biased;
                done = &mut large => panic!("nobody made room: {done:?}"),
                done = unpack(false) => assert_eq!(done.unwrap(), Some(BRIEF)),
            }
        }
        drop(long);
        assert_eq!(large.await.unwrap(), None);
    }

    #[tokio::test]
    async fn work_that_panics_ends_alone() {
        let (lanes, turn) = (Lanes::new(), Turn::new("host", "team"));
        let done = lanes.unpack(&turn, "sha256:0", |_| -> Result<(), _> { panic!("a decompressor's") });
        let error = done.await.unwrap_err();
        assert!(matches!(error, Unusable::Format(FormatError::Layer { .. })), "{error:?}");
        lanes.unpack(&turn, "sha256:0", |_| Ok(())).await.unwrap();
    }

    #[test]
    fn work_aside_gives_way_and_its_caller_does_not() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let own = priority();
        assert!(aside(priority).unwrap() >= own.max(NICE));
        assert_eq!(priority(), own);
    }
}
