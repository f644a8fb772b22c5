//! Which occurrences are one event. The rules and numbers are client-go's.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;

use super::{EventType, Occurrence};

/// Entries kept of each kind. client-go's number.
const CAPACITY: usize = 4096;

/// Occurrences that differ only in their message become one event after this many...
const SIMILAR: usize = 10;
/// ... within this time.
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// Bytes of the object's name in the name of an event: all but a dot and sixteen digits of the 253 that a name
/// may have.
const OBJECT_NAME: usize = 253 - 17;

/// Events about one object.
const OF_OBJECT: Rate = Rate { burst: 25.0, refill: SignedDuration::from_mins(5) };

/// Normal events of one namespace. The kubelet's rate (`eventRecordQPS` 50 for a whole node); five times its
/// burst, so that a hundred pods that start at once are told of whole. Beyond it an event costs the store more
/// than anybody reads in it: four per pod are most of what thousands of pods would write. Warnings always pass.
const OF_NAMESPACE: Rate = Rate { burst: 500.0, refill: SignedDuration::from_millis(20) };

/// What makes occurrences repeats of each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EventKey {
    group: GroupKey,
    /// `None` for the event that stands for many similar ones.
    message: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GroupKey {
    object: ObjectKey,
    field_path: Option<String>,
    type_: EventType,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ObjectKey {
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

/// One event, as it is now.
pub(super) struct Record {
    pub(super) name: String,
    pub(super) object: ObjectReference,
    pub(super) message: String,
    pub(super) count: i32,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// The API has it.
    pub(super) written: bool,
}

struct Group {
    messages: HashSet<String>,
    last: Timestamp,
}

/// So many at once, then one each time that `refill` has passed.
struct Rate {
    burst: f64,
    refill: SignedDuration,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

pub(super) struct Correlator {
    records: Recent<EventKey, Record>,
    groups: Recent<GroupKey, Group>,
    objects: Recent<ObjectKey, Bucket>,
    namespaces: Recent<String, Bucket>,
    /// The number in the newest name, so that no two events share one.
    newest: i128,
}

impl EventKey {
    pub(super) fn namespace(&self) -> &str {
        match self.group.object.namespace.as_deref() {
            None | Some("") => "default",
            Some(namespace) => namespace,
        }
    }

    pub(super) fn type_(&self) -> EventType {
        self.group.type_
    }

    pub(super) fn reason(&self) -> &str {
        &self.group.reason
    }
}

impl Correlator {
    pub(super) fn new() -> Self {
        Correlator {
            records: Recent::new(),
            groups: Recent::new(),
            objects: Recent::new(),
            namespaces: Recent::new(),
            newest: 0,
        }
    }

    /// Counts an occurrence; gives the event to be written, or `None` if there are too many.
    pub(super) fn take(&mut self, occurrence: &Occurrence) -> Option<EventKey> {
        let Occurrence { object, type_, reason, message, at } = occurrence;
        let namespace = object.namespace.clone().unwrap_or_default();
        if *type_ == EventType::Normal && !OF_NAMESPACE.allows(&mut self.namespaces, namespace, *at) {
            return None;
        }
        let object_key = ObjectKey {
            api_version: object.api_version.clone(),
            kind: object.kind.clone(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            uid: object.uid.clone(),
        };
        let group = GroupKey {
            object: object_key.clone(),
            field_path: object.field_path.clone(),
            type_: *type_,
            reason: reason.clone(),
        };
        let combined = self.is_one_of_many(&group, message, *at);
        let text =
            if combined { format!("(combined from similar events): {message}") } else { message.clone() };
        let key = EventKey { group, message: (!combined).then(|| message.clone()) };
        if let Some(record) = self.records.get(&key) {
            record.count = record.count.saturating_add(1);
            record.last = *at;
            record.message = text;
        } else {
            let name = self.name(object, *at);
            let record = Record {
                name,
                object: object.clone(),
                message: text,
                count: 1,
                first: *at,
                last: *at,
                written: false,
            };
            self.records.put(key.clone(), record);
        }
        OF_OBJECT.allows(&mut self.objects, object_key, *at).then_some(key)
    }

    pub(super) fn record(&mut self, key: &EventKey) -> Option<&Record> {
        self.records.get(key).map(|record| &*record)
    }

    /// The API has the event: from now on it is updated.
    pub(super) fn written(&mut self, key: &EventKey) {
        if let Some(record) = self.records.get(key) {
            record.written = true;
        }
    }

    /// The API will not have the event: the next occurrence is a new one.
    pub(super) fn forget(&mut self, key: &EventKey) {
        self.records.remove(key);
    }

    fn is_one_of_many(&mut self, key: &GroupKey, message: &str, at: Timestamp) -> bool {
        let Some(group) = self.groups.get(key) else {
            let group = Group { messages: HashSet::from([message.to_owned()]), last: at };
            self.groups.put(key.clone(), group);
            return false;
        };
        if at.duration_since(group.last) > SIMILAR_WITHIN {
            group.messages.clear();
        }
        group.last = at;
        if group.messages.contains(message) {
            return group.messages.len() >= SIMILAR;
        }
        if group.messages.len() < SIMILAR {
            group.messages.insert(message.to_owned());
        }
        group.messages.len() >= SIMILAR
    }

    fn name(&mut self, object: &ObjectReference, at: Timestamp) -> String {
        self.newest = at.as_nanosecond().max(self.newest + 1);
        let name = object.name.as_deref().unwrap_or_default();
        // Cut so that what follows fits into a name, and so that what is left is one.
        let name = name[..name.floor_char_boundary(OBJECT_NAME)].trim_end_matches(['-', '.']);
        format!("{name}.{:x}", self.newest)
    }
}

impl Rate {
    /// Takes a token of `key`'s bucket, if it has one.
    fn allows<K: Eq + Hash + Clone>(&self, buckets: &mut Recent<K, Bucket>, key: K, at: Timestamp) -> bool {
        let Some(bucket) = buckets.get(&key) else {
            buckets.put(key, Bucket { tokens: self.burst - 1.0, at });
            return true;
        };
        let passed = at.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / self.refill.as_secs_f64()).min(self.burst);
        bucket.at = at;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }
}

/// A map that forgets what was not used lately: two generations, the older of which is dropped when the
/// younger is full. Holds between one and two times [`CAPACITY`] entries.
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    fn new() -> Self {
        Recent { young: HashMap::new(), old: HashMap::new() }
    }

    fn get(&mut self, key: &K) -> Option<&mut V> {
        if let Some((key, value)) = self.old.remove_entry(key) {
            self.put(key, value);
        }
        self.young.get_mut(key)
    }

    fn put(&mut self, key: K, value: V) {
        if self.young.len() >= CAPACITY && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(reason: &str, message: &str, second: i64) -> Occurrence {
        let object = ObjectReference { name: Some("web".to_owned()), ..ObjectReference::default() };
        let at = Timestamp::from_second(1_700_000_000 + second).expect("in range");
        Occurrence {
            object,
            type_: EventType::Normal,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at,
        }
    }

    #[test]
    fn the_same_thing_again_raises_the_count() {
        let mut correlator = Correlator::new();
        let first = correlator.take(&occurrence("Pulled", "image", 0)).expect("allowed");
        let second = correlator.take(&occurrence("Pulled", "image", 5)).expect("allowed");
        assert_eq!(first, second);
        let record = correlator.record(&first).expect("known");
        assert_eq!((record.count, record.last.duration_since(record.first).as_secs()), (2, 5));
    }

    #[test]
    fn similar_events_become_one_after_ten() {
        let mut correlator = Correlator::new();
        let keys: Vec<_> =
            (0..20).filter_map(|n| correlator.take(&occurrence("Created", &format!("pod {n}"), 0))).collect();
        let distinct: HashSet<_> = keys.iter().collect();
        assert_eq!((keys.len(), distinct.len()), (20, SIMILAR), "nine of their own, then the combined one");
        let last = keys.last().expect("not empty").clone();
        let record = correlator.record(&last).expect("known");
        assert_eq!(record.message, "(combined from similar events): pod 19");
    }

    #[test]
    fn a_flood_about_one_object_is_damped() {
        let mut correlator = Correlator::new();
        let passed = (0..100).filter(|_| correlator.take(&occurrence("Again", "same", 0)).is_some()).count();
        assert_eq!(passed, 25);
        assert!(correlator.take(&occurrence("Again", "same", 299)).is_none());
        assert!(correlator.take(&occurrence("Again", "same", 600)).is_some());
    }

    #[test]
    fn a_namespace_of_thousands_is_told_of_in_part_but_of_all_that_is_wrong() {
        let about = |namespace: &str, pod: usize, type_| {
            let mut occurrence = occurrence("Started", "m", 0);
            occurrence.object.namespace = Some(namespace.to_owned());
            occurrence.object.name = Some(format!("web-{pod}"));
            occurrence.type_ = type_;
            occurrence
        };
        let mut correlator = Correlator::new();
        let mut passed = |namespace: &str, type_| {
            (0..3000).filter(|n| correlator.take(&about(namespace, *n, type_)).is_some()).count()
        };
        assert_eq!(passed("busy", EventType::Normal), 500);
        assert_eq!(passed("busy", EventType::Warning), 3000);
        assert_eq!(passed("quiet", EventType::Normal), 500, "neighbours have their own");
        let mut later = about("busy", 3000, EventType::Normal);
        later.at += SignedDuration::from_millis(20);
        assert!(correlator.take(&later).is_some());
        assert!(correlator.take(&later).is_none(), "one each 20 ms");
    }

    #[test]
    fn names_are_unique() {
        let mut correlator = Correlator::new();
        let names: HashSet<_> = (0..5)
            .filter_map(|n| correlator.take(&occurrence(&format!("R{n}"), "m", 0)))
            .collect::<Vec<_>>()
            .iter()
            .map(|key| correlator.record(key).expect("known").name.clone())
            .collect();
        assert_eq!(names.len(), 5);
        assert!(names.iter().all(|name| name.starts_with("web.")));
    }

    #[test]
    fn names_of_events_are_names_whatever_they_are_about() {
        let mut correlator = Correlator::new();
        let mut long = occurrence("R", "m", 0);
        long.object.name = Some(format!("{}-{}", "a".repeat(OBJECT_NAME - 1), "b".repeat(16)));
        let key = correlator.take(&long).expect("allowed");
        let name = correlator.record(&key).expect("known").name.clone();
        assert!(name.len() <= 253 && !name.contains("-."), "{name}");
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::new();
        for n in 0..100_000 {
            recent.put(n, ());
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * CAPACITY);
        assert!(recent.get(&99_999).is_some());
        assert!(recent.get(&0).is_none());
    }
}
