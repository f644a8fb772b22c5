//! The typed copy of a kind: objects, indexes, subscribers.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{
    Delta, Deltas, Object,
    deltas::Mailbox,
    feed::{EventKind, Sink},
};
use crate::Key;

pub(super) struct Cache<K> {
    state: RwLock<State<K>>,
    /// Objects of a list under way.
    staged: Mutex<BTreeMap<Arc<Key>, Arc<K>>>,
    /// The newest revision included; `None` before the first list is complete.
    seen: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    seen: Option<u64>,
    ended: bool,
}

struct State<K> {
    objects: BTreeMap<Arc<Key>, Arc<K>>,
    indexes: BTreeMap<&'static str, Index<K>>,
    subscribers: Vec<Arc<Mailbox<K>>>,
    ended: bool,
}

struct Index<K> {
    values: fn(&K) -> Vec<String>,
    buckets: HashMap<String, BTreeMap<Arc<Key>, Arc<K>>>,
}

impl<K: Object> Cache<K> {
    pub(super) fn new() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            indexes: BTreeMap::new(),
            subscribers: Vec::new(),
            ended: false,
        };
        Cache {
            state: RwLock::new(state),
            staged: Mutex::default(),
            seen: watch::Sender::new(Progress::default()),
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    pub(super) fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        let state = self.state.read();
        state
            .objects
            .range::<Key, _>((Bound::Included(&first), Bound::Unbounded))
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub(super) fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        let mut state = self.state.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values, buckets: HashMap::new() };
        for (key, object) in &state.objects {
            index.insert(key, object);
        }
        state.indexes.insert(name, index);
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let bucket = state.indexes.get(name).and_then(|index| index.buckets.get(value));
        bucket.map(|bucket| bucket.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn subscribe(&self) -> Deltas<K> {
        let mailbox = Mailbox::new();
        let reader = mailbox.reader();
        let mut state = self.state.write();
        for (key, object) in &state.objects {
            mailbox.push(key, &Delta::Added(object.clone()));
        }
        if state.ended {
            mailbox.end();
        } else {
            state.subscribers.push(mailbox);
        }
        reader
    }

    pub(super) fn seen(&self) -> Option<u64> {
        self.seen.borrow().seen
    }

    pub(super) async fn reached(&self, revision: u64) {
        let mut progress = self.seen.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = progress.wait_for(|now| now.ended || now.seen.is_some_and(|seen| seen >= revision)).await;
    }

    fn advance(&self, revision: Option<u64>) {
        self.seen.send_if_modified(|now| {
            let next = revision.max(now.seen);
            let changed = next != now.seen;
            now.seen = next;
            changed
        });
    }

    fn decode(raw: &str) -> Result<(Arc<Key>, Arc<K>), serde_json::Error> {
        let mut object: K = serde_json::from_str(raw)?;
        object.meta_mut().managed_fields = None;
        Ok((Arc::new(Key::of(object.meta())), Arc::new(object)))
    }
}

impl<K: Object> Sink for Cache<K> {
    fn stage(&self, raw: &str) -> Result<(), serde_json::Error> {
        let (key, object) = Self::decode(raw)?;
        self.staged.lock().insert(key, object);
        Ok(())
    }

    fn unstage(&self) {
        self.staged.lock().clear();
    }

    fn commit(&self, revision: u64) {
        let staged = std::mem::take(&mut *self.staged.lock());
        let mut state = self.state.write();
        let gone: Vec<_> = state.objects.keys().filter(|key| !staged.contains_key(*key)).cloned().collect();
        for key in gone {
            state.remove(&key, None);
        }
        for (key, object) in staged {
            state.put(key, object);
        }
        drop(state);
        // A store that was set back gives lower revisions: the copy follows it.
        self.seen.send_modify(|now| now.seen = Some(revision));
    }

    fn apply(&self, kind: EventKind, raw: &str) -> Result<u64, serde_json::Error> {
        let (key, object) = Self::decode(raw)?;
        let revision = revision_of(object.as_ref());
        let mut state = self.state.write();
        match kind {
            EventKind::Put => state.put(key, object),
            EventKind::Deleted => state.remove(&key, Some(object)),
        }
        drop(state);
        self.advance(Some(revision));
        Ok(revision)
    }

    fn progress(&self, revision: u64) {
        self.advance(Some(revision));
    }

    fn end(&self) {
        let mut state = self.state.write();
        state.ended = true;
        for subscriber in state.subscribers.drain(..) {
            subscriber.end();
        }
        drop(state);
        self.seen.send_modify(|now| now.ended = true);
    }
}

impl<K: Object> State<K> {
    fn put(&mut self, key: Arc<Key>, object: Arc<K>) {
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old
            && old.meta().uid != object.meta().uid
        {
            // Its deletion went unseen; two objects never pass for one.
            self.remove(&key, None);
            return self.put(key, object);
        }
        match old {
            Some(old) if old.meta().resource_version == object.meta().resource_version => {}
            Some(old) => {
                self.reindex(&key, Some(&old), Some(&object));
                self.objects.insert(key.clone(), object.clone());
                self.tell(&key, &Delta::Updated { old, new: object });
            }
            None => {
                self.reindex(&key, None, Some(&object));
                self.objects.insert(key.clone(), object.clone());
                self.tell(&key, &Delta::Added(object));
            }
        }
    }

    fn remove(&mut self, key: &Arc<Key>, last: Option<Arc<K>>) {
        if let Some(known) = self.objects.remove(key) {
            self.reindex(key, Some(&known), None);
            self.tell(key, &Delta::Deleted(last.unwrap_or(known)));
        }
    }

    fn tell(&mut self, key: &Arc<Key>, delta: &Delta<K>) {
        self.subscribers.retain(|subscriber| subscriber.push(key, delta));
    }

    fn reindex(&mut self, key: &Arc<Key>, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        for index in self.indexes.values_mut() {
            if let Some(old) = old {
                index.remove(key, old);
            }
            if let Some(new) = new {
                index.insert(key, new);
            }
        }
    }
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Arc<Key>, object: &Arc<K>) {
        for value in (self.values)(object) {
            self.buckets.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &Arc<Key>, object: &Arc<K>) {
        for value in (self.values)(object) {
            if let Some(bucket) = self.buckets.get_mut(&value) {
                bucket.remove::<Key>(key.borrow());
                if bucket.is_empty() {
                    self.buckets.remove(&value);
                }
            }
        }
    }
}

fn revision_of<K: Object>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}
