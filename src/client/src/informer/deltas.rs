//! What a subscriber has not read yet.
//!
//! ```text
//!              more than BACKLOG unread
//!   one by one ────────────────────────▶ merged per object
//!        ▲                                     │ all read
//!        └─────────────────────────────────────┘
//! ```
//! A subscriber that keeps up sees every change. One that falls far behind sees fewer steps: what it has
//! not read is merged per object, so that what waits for it is bounded by what there is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, task::AtomicWaker};
use kube::Resource;
use parking_lot::Mutex;

use crate::Key;

/// Unread changes that are kept one by one: a thousand pods that start make about four thousand.
const BACKLOG: usize = 4096;

/// Objects that came and went unseen, while changes are merged: so many are told of, the oldest of more
/// are not.
const UNSEEN: usize = 4096;

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
    /// The object is gone; this was its last state. A subscriber that was far behind may be told so of an
    /// object that it never saw.
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
    /// Every change, in order; empty while changes are merged.
    queue: VecDeque<(Arc<Key>, Delta<K>)>,
    merged: Merged<K>,
    /// No more changes will come.
    ended: bool,
    /// Nobody reads any more.
    abandoned: bool,
}

/// At most one step per object.
struct Merged<K> {
    /// Changed objects in the order in which their oldest unread change happened.
    order: BTreeMap<u64, Arc<Key>>,
    steps: HashMap<Arc<Key>, Step<K>>,
    /// The steps of objects that came and went unseen.
    unseen: BTreeSet<u64>,
    sequence: u64,
}

/// From what the subscriber saw last to what there is now.
struct Step<K> {
    sequence: u64,
    before: Option<Arc<K>>,
    /// The last state of the object that the subscriber saw, or of one that came and went unseen. `now` is
    /// another one then.
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
        state.queue.clear();
        state.merged = Merged::new();
    }
}

impl<K> fmt::Debug for Deltas<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.mailbox.state.lock();
        f.debug_struct("Deltas").field("unread", &(state.queue.len() + state.merged.steps.len())).finish()
    }
}

impl<K> Mailbox<K> {
    pub(super) fn new() -> Arc<Self> {
        let state = State { queue: VecDeque::new(), merged: Merged::new(), ended: false, abandoned: false };
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
        if !self.merged.is_empty() {
            return self.merged.push(key, delta);
        }
        self.queue.push_back((key.clone(), delta.clone()));
        if self.queue.len() > BACKLOG {
            for (key, delta) in std::mem::take(&mut self.queue) {
                self.merged.push(&key, &delta);
            }
        }
    }

    fn pop(&mut self) -> Option<Delta<K>> {
        match self.queue.pop_front() {
            Some((_, delta)) => Some(delta),
            None => self.merged.pop(),
        }
    }
}

impl<K> Merged<K> {
    fn new() -> Self {
        Merged { order: BTreeMap::new(), steps: HashMap::new(), unseen: BTreeSet::new(), sequence: 0 }
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn push(&mut self, key: &Arc<Key>, delta: &Delta<K>) {
        if let Some(step) = self.steps.get_mut(key) {
            match delta {
                Delta::Added(new) | Delta::Updated { new, .. } => {
                    step.now = Some(new.clone());
                    self.unseen.remove(&step.sequence);
                }
                Delta::Deleted(last) => {
                    step.now = None;
                    // What the subscriber saw went first; later ones came and went unseen.
                    step.gone.get_or_insert_with(|| last.clone());
                    if step.before.is_none() {
                        self.unseen.insert(step.sequence);
                        self.forget_unseen();
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

    fn forget_unseen(&mut self) {
        if self.unseen.len() > UNSEEN
            && let Some(oldest) = self.unseen.pop_first()
            && let Some(key) = self.order.remove(&oldest)
        {
            self.steps.remove(&key);
        }
    }

    fn pop(&mut self) -> Option<Delta<K>> {
        let (_, key) = self.order.first_key_value()?;
        let key = key.clone();
        let step = self.steps.get_mut(&key)?;
        self.unseen.remove(&step.sequence);
        let before = step.before.take();
        match step.gone.take() {
            // Another object of the same name follows: its `Added` is the next delta.
            Some(gone) if step.now.is_some() => Some(Delta::Deleted(gone)),
            gone => {
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

    fn object(version: &str) -> Arc<ConfigMap> {
        let mut map = ConfigMap::default();
        map.metadata.resource_version = Some(version.to_owned());
        Arc::new(map)
    }

    fn version(map: &ConfigMap) -> String {
        map.metadata.resource_version.clone().unwrap_or_default()
    }

    /// The changes in `script`: `+n` adds, `~n` updates to, `-n` deletes.
    fn changes(script: &str) -> Vec<Delta<ConfigMap>> {
        let mut current = object("0");
        let mut changes = Vec::new();
        for word in script.split_whitespace() {
            let (verb, version) = word.split_at(1);
            let new = object(version);
            changes.push(match verb {
                "+" => Delta::Added(new.clone()),
                "~" => Delta::Updated { old: current, new: new.clone() },
                _ => Delta::Deleted(new.clone()),
            });
            current = new;
        }
        changes
    }

    fn told(delta: &Delta<ConfigMap>) -> String {
        match delta {
            Delta::Added(new) => format!("+{}", version(new)),
            Delta::Updated { old, new } => format!("{}~{}", version(old), version(new)),
            Delta::Deleted(last) => format!("-{}", version(last)),
        }
    }

    #[track_caller]
    fn check_merged(script: &str, expected: &str) {
        let mut merged = Merged::new();
        let key = Arc::new(Key::new("ns", "a"));
        changes(script).iter().for_each(|delta| merged.push(&key, delta));
        let seen: Vec<_> = std::iter::from_fn(|| merged.pop()).map(|delta| told(&delta)).collect();
        assert_eq!(seen.join(" "), expected, "{script}");
        assert!(merged.is_empty() && merged.steps.is_empty() && merged.unseen.is_empty());
    }

    #[test]
    fn merged_changes_lead_from_what_was_seen_to_what_there_is() {
        check_merged("+1", "+1");
        check_merged("+1 ~2 ~3", "+3");
        check_merged("~1 ~2", "0~2");
        // It went unseen, but whoever read the cache meanwhile has to know.
        check_merged("+1 -2", "-2");
        check_merged("+1 -2 +3", "-2 +3");
        check_merged("~1 -2", "-2");
        check_merged("-1", "-1");
        check_merged("-1 +2", "-1 +2");
        check_merged("~1 -2 +3 ~4", "-2 +4");
        check_merged("-1 +2 -3", "-1");
        check_merged("-1 +2 -3 +4", "-1 +4");
    }

    #[test]
    fn a_reader_that_keeps_up_sees_every_change() {
        let mailbox = Mailbox::new();
        let mut reader = mailbox.reader();
        let key = Arc::new(Key::new("ns", "a"));
        let script = "+1 ~2 ~3 -4 +5 -6";
        changes(script).iter().for_each(|delta| assert!(mailbox.push(&key, delta)));
        let seen: Vec<_> = std::iter::from_fn(|| reader.try_next()).map(|delta| told(&delta)).collect();
        assert_eq!(seen.join(" "), "+1 1~2 2~3 -4 +5 -6");
    }

    #[test]
    fn what_waits_for_a_reader_is_bounded() {
        let mailbox = Mailbox::new();
        let mut reader = mailbox.reader();
        let kept = Arc::new(Key::new("ns", "kept"));
        mailbox.push(&kept, &Delta::Added(object("1")));
        for number in 0..3 * (BACKLOG + UNSEEN) {
            let key = Arc::new(Key::new("ns", format!("passing-{number}")));
            mailbox.push(&key, &Delta::Added(object("1")));
            mailbox.push(&key, &Delta::Deleted(object("2")));
            let update = Delta::Updated { old: object("1"), new: object(&number.to_string()) };
            mailbox.push(&kept, &update);
        }
        let unread = {
            let state = mailbox.state.lock();
            state.queue.len() + state.merged.steps.len()
        };
        assert!(unread <= UNSEEN + 1, "{unread}");
        assert_eq!(
            reader.try_next().map(|delta| told(&delta)),
            Some(format!("+{}", 3 * (BACKLOG + UNSEEN) - 1))
        );
        while reader.try_next().is_some() {}
        // All read: one by one again.
        changes("+1 ~2").iter().for_each(|delta| assert!(mailbox.push(&kept, delta)));
        let seen: Vec<_> = std::iter::from_fn(|| reader.try_next()).map(|delta| told(&delta)).collect();
        assert_eq!(seen, ["+1", "1~2"]);
    }

    #[test]
    fn a_reader_that_is_gone_holds_nothing() {
        let mailbox = Mailbox::new();
        drop(mailbox.reader());
        assert!(!mailbox.push(&Arc::new(Key::new("ns", "a")), &Delta::Added(object("1"))));
    }
}
