//! What a subscriber has not read yet, at most one step per object.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, task::AtomicWaker};
use kube::Resource;
use parking_lot::Mutex;

use crate::Key;

/// A change of one object, as a subscriber sees it.
pub enum Delta<K> {
    /// The object is there.
    Added(Arc<K>),
    /// The same object (the same uid) changed.
    Updated {
        /// The state that the subscriber saw before.
        old: Arc<K>,
        /// The state now.
        new: Arc<K>,
    },
    /// The object is gone; this was its last state.
    Deleted(Arc<K>),
}

/// The changes of a kind, as a stream. Ends when the informer ends.
pub struct Deltas<K> {
    mailbox: Arc<Mailbox<K>>,
}

/// The side of the cache.
pub(super) struct Mailbox<K> {
    state: Mutex<State<K>>,
    waker: AtomicWaker,
}

struct State<K> {
    /// Changed objects in the order in which their oldest unread change happened.
    order: BTreeMap<u64, Arc<Key>>,
    steps: HashMap<Arc<Key>, Step<K>>,
    sequence: u64,
    /// No more changes will come.
    ended: bool,
    /// Nobody reads any more.
    abandoned: bool,
}

/// From what the subscriber saw last to what there is now.
struct Step<K> {
    sequence: u64,
    before: Option<Arc<K>>,
    /// The last state of the object that the subscriber saw, if it is gone. `now` is another one then.
    gone: Option<Arc<K>>,
    now: Option<Arc<K>>,
}

impl<K> Delta<K> {
    /// The newest state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Delta::Added(object) | Delta::Updated { new: object, .. } | Delta::Deleted(object) => object,
        }
    }
}

impl<K> Clone for Delta<K> {
    fn clone(&self) -> Self {
        match self {
            Delta::Added(object) => Delta::Added(object.clone()),
            Delta::Updated { old, new } => Delta::Updated { old: old.clone(), new: new.clone() },
            Delta::Deleted(object) => Delta::Deleted(object.clone()),
        }
    }
}

impl<K: Resource> fmt::Debug for Delta<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Delta::Added(_) => "Added",
            Delta::Updated { .. } => "Updated",
            Delta::Deleted(_) => "Deleted",
        };
        write!(f, "{name}({})", Key::of(self.object().meta()))
    }
}

impl<K> Deltas<K> {
    /// The next change; `None` when the informer has ended.
    pub async fn next(&mut self) -> Option<Delta<K>> {
        // A reader with a long backlog lets others run now and then.
        tokio::task::coop::consume_budget().await;
        futures::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Option<Delta<K>> {
        self.mailbox.state.lock().pop()
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Delta<K>>> {
        self.mailbox.waker.register(cx.waker());
        let mut state = self.mailbox.state.lock();
        match state.pop() {
            Some(delta) => Poll::Ready(Some(delta)),
            None if state.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<K> Stream for Deltas<K> {
    type Item = Delta<K>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delta<K>>> {
        self.poll(cx)
    }
}

impl<K> Drop for Deltas<K> {
    fn drop(&mut self) {
        let mut state = self.mailbox.state.lock();
        state.abandoned = true;
        state.order.clear();
        state.steps.clear();
    }
}

impl<K> fmt::Debug for Deltas<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deltas").field("unread", &self.mailbox.state.lock().steps.len()).finish()
    }
}

impl<K> Mailbox<K> {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            order: BTreeMap::new(),
            steps: HashMap::new(),
            sequence: 0,
            ended: false,
            abandoned: false,
        };
        Arc::new(Mailbox { state: Mutex::new(state), waker: AtomicWaker::new() })
    }

    pub(super) fn reader(self: &Arc<Self>) -> Deltas<K> {
        Deltas { mailbox: self.clone() }
    }

    /// Adds a change; false if nobody reads any more.
    pub(super) fn push(&self, key: &Arc<Key>, delta: &Delta<K>) -> bool {
        let mut state = self.state.lock();
        if state.abandoned {
            return false;
        }
        state.push(key, delta);
        drop(state);
        self.waker.wake();
        true
    }

    /// No more changes will come.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.waker.wake();
    }
}

impl<K> State<K> {
    fn push(&mut self, key: &Arc<Key>, delta: &Delta<K>) {
        if let Some(step) = self.steps.get_mut(key) {
            match delta {
                Delta::Added(new) | Delta::Updated { new, .. } => step.now = Some(new.clone()),
                Delta::Deleted(last) => {
                    step.now = None;
                    if step.before.is_some() {
                        // What the subscriber saw went first; later ones came and went unseen.
                        step.gone.get_or_insert_with(|| last.clone());
                    } else {
                        let sequence = step.sequence;
                        self.steps.remove(key);
                        self.order.remove(&sequence);
                    }
                }
            }
            return;
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let step = match delta {
            Delta::Added(new) => Step { sequence, before: None, gone: None, now: Some(new.clone()) },
            Delta::Updated { old, new } => {
                Step { sequence, before: Some(old.clone()), gone: None, now: Some(new.clone()) }
            }
            Delta::Deleted(last) => {
                Step { sequence, before: Some(last.clone()), gone: Some(last.clone()), now: None }
            }
        };
        self.order.insert(sequence, key.clone());
        self.steps.insert(key.clone(), step);
    }

    fn pop(&mut self) -> Option<Delta<K>> {
        let (_, key) = self.order.first_key_value()?;
        let key = key.clone();
        let step = self.steps.get_mut(&key)?;
        match (step.before.take(), step.gone.take()) {
            // Another object of the same name follows: its `Added` is the next delta.
            (_, Some(gone)) if step.now.is_some() => Some(Delta::Deleted(gone)),
            (before, gone) => {
                let now = step.now.take();
                self.order.pop_first();
                self.steps.remove(&key);
                match (before, gone, now) {
                    (_, Some(gone), _) => Some(Delta::Deleted(gone)),
                    (Some(old), None, Some(new)) => Some(Delta::Updated { old, new }),
                    (None, None, Some(new)) => Some(Delta::Added(new)),
                    // A step without a new state has a gone one.
                    (_, None, None) => None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    /// Applies `script` (`+n` adds, `~n` updates to, `-n` deletes) and says what a reader then sees.
    fn read(script: &str) -> String {
        let mailbox = Mailbox::new();
        let mut reader = mailbox.reader();
        let key = Arc::new(Key::new("ns", "a"));
        let object = |version: &str| {
            let mut map = ConfigMap::default();
            map.metadata.resource_version = Some(version.to_owned());
            Arc::new(map)
        };
        let mut current = object("0");
        for word in script.split_whitespace() {
            let (verb, version) = word.split_at(1);
            let new = object(version);
            let delta = match verb {
                "+" => Delta::Added(new.clone()),
                "~" => Delta::Updated { old: current.clone(), new: new.clone() },
                _ => Delta::Deleted(new.clone()),
            };
            current = new;
            mailbox.push(&key, &delta);
        }
        let version = |map: &ConfigMap| map.metadata.resource_version.clone().unwrap_or_default();
        let mut seen = Vec::new();
        while let Some(delta) = reader.try_next() {
            seen.push(match &delta {
                Delta::Added(new) => format!("+{}", version(new)),
                Delta::Updated { old, new } => format!("{}~{}", version(old), version(new)),
                Delta::Deleted(last) => format!("-{}", version(last)),
            });
        }
        seen.join(" ")
    }

    #[track_caller]
    fn check(script: &str, expected: &str) {
        assert_eq!(read(script), expected, "{script}");
    }

    #[test]
    fn unread_changes_of_an_object_are_merged() {
        check("+1", "+1");
        check("+1 ~2 ~3", "+3");
        check("~1 ~2", "0~2");
        check("+1 -2", "");
        check("~1 -2", "-2");
        check("-1", "-1");
        check("-1 +2", "-1 +2");
        check("~1 -2 +3 ~4", "-2 +4");
        check("-1 +2 -3", "-1");
        check("-1 +2 -3 +4", "-1 +4");
    }
}
