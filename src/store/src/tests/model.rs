//! Any sequence of operations does what a list of maps does, one map per revision.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::EventKind;

#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    /// The key, and how far from the truth the expected revision is.
    Update(u8, u64),
    Delete(u8, u64),
    /// So many revisions back, after this key, so many.
    List(u64, Option<u8>, usize),
    /// So many revisions back.
    Watch(u64),
    Compact(u64),
    /// Close, and open what is there (nothing for memory).
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..12_u8;
    let off = prop_oneof![8 => Just(0_u64), 1 => 1..3_u64];
    let step = prop_oneof![
        5 => key.clone().prop_map(Step::Create),
        5 => (key.clone(), off.clone()).prop_map(|(key, off)| Step::Update(key, off)),
        3 => (key.clone(), off).prop_map(|(key, off)| Step::Delete(key, off)),
        3 => (0..20_u64, proptest::option::of(key), 0..6_usize).prop_map(|(b, a, l)| Step::List(b, a, l)),
        2 => (0..20_u64).prop_map(Step::Watch),
        1 => (0..20_u64).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    vec(step, 1..60)
}

/// Two segments with two namespaces each.
fn key(n: u8) -> String {
    format!("{}/{}/{n}", if n.is_multiple_of(2) { "pods" } else { "nodes" }, if n < 6 { "a" } else { "b" })
}

#[derive(Default)]
struct Model {
    /// The state at each revision, from `first` on.
    states: Vec<BTreeMap<String, Revision>>,
    first: Revision,
    /// Nothing older can be read.
    floor: Revision,
    changes: Vec<(Revision, EventKind, String)>,
}

impl Model {
    fn revision(&self) -> Revision {
        self.first + self.states.len() as Revision - 1
    }

    fn at(&self, revision: Revision) -> &BTreeMap<String, Revision> {
        &self.states[(revision - self.first) as usize]
    }

    fn now(&self) -> &BTreeMap<String, Revision> {
        self.at(self.revision())
    }

    fn change(&mut self, kind: EventKind, key: String) {
        let mut state = self.now().clone();
        let revision = self.revision() + 1;
        match kind {
            EventKind::Deleted => drop(state.remove(&key)),
            _ => drop(state.insert(key.clone(), revision)),
        }
        self.states.push(state);
        self.changes.push((revision, kind, key));
    }

    /// The outcome of a write, as the revision or the name of the error.
    fn write(&mut self, step: &Step) -> Result<Revision, &'static str> {
        match *step {
            Step::Create(n) if self.now().contains_key(&key(n)) => return Err("exists"),
            Step::Create(n) => self.change(EventKind::Added, key(n)),
            Step::Update(n, off) | Step::Delete(n, off) => match self.now().get(&key(n)) {
                None => return Err("not found"),
                Some(_) if off > 0 => return Err("conflict"),
                Some(_) if matches!(step, Step::Update(..)) => self.change(EventKind::Modified, key(n)),
                Some(_) => self.change(EventKind::Deleted, key(n)),
            },
            _ => unreachable!("not a write"),
        }
        Ok(self.revision())
    }
}

fn outcome(result: Result<Arc<Entry>, WriteError>) -> Result<Revision, &'static str> {
    result.map(|entry| entry.revision()).map_err(|error| match error {
        WriteError::Exists { .. } => "exists",
        WriteError::NotFound => "not found",
        WriteError::Conflict { .. } => "conflict",
        other => panic!("{other}"),
    })
}

async fn check(steps: Vec<Step>, dir: Option<&std::path::Path>) {
    let open = || dir.map_or_else(Embedded::memory, |dir| Embedded::sled(dir).unwrap());
    let mut store = open();
    let mut model = Model { states: vec![BTreeMap::new()], first: 1, floor: 1, changes: Vec::new() };
    for step in steps {
        let expect = |n: u8, off: u64| model.now().get(&key(n)).map_or(1, |at| at + off);
        match step {
            Step::Create(n) => {
                assert_eq!(outcome(create(&store, &key(n), "").await), model.write(&step));
            }
            Step::Update(n, off) => {
                let done = update(&store, &key(n), "", expect(n, off)).await;
                assert_eq!(outcome(done), model.write(&step));
            }
            Step::Delete(n, off) => {
                let done = delete(&store, &key(n), expect(n, off)).await;
                assert_eq!(outcome(done), model.write(&step));
            }
            Step::List(back, after, limit) => {
                let at = model.revision().saturating_sub(back);
                let after = after.map(key);
                let options = ListOptions { at: Some(at), after: after.clone(), limit: Some(limit) };
                for prefix in ["pods/", "pods/a/", "nodes", "other/"] {
                    let listing = store.list(prefix, options.clone());
                    if at < model.floor {
                        assert_eq!(listing.unwrap_err().oldest, model.floor);
                        continue;
                    }
                    let listing = listing.unwrap();
                    let range = model.at(at).iter().filter(|(key, _)| {
                        key.starts_with(prefix) && after.as_ref().is_none_or(|after| *key > after)
                    });
                    let range: Vec<_> = range.map(|(key, at)| (key.clone(), *at)).collect();
                    let length = if limit == 0 { range.len() } else { limit.min(range.len()) };
                    let found: Vec<_> =
                        listing.entries.iter().map(|e| (e.key().to_owned(), e.revision())).collect();
                    assert_eq!(found, range[..length]);
                    assert_eq!((listing.revision, listing.remaining), (at, range.len() - length));
                }
            }
            Step::Watch(back) => {
                let from = model.revision().saturating_sub(back);
                for prefix in ["pods/", "nodes/b/", "other/"] {
                    let watcher = store.watch(prefix, from);
                    if from < model.floor {
                        assert_eq!(watcher.unwrap_err().oldest, model.floor);
                        continue;
                    }
                    let mut watcher = watcher.unwrap();
                    let found: Vec<_> = drain(&mut watcher)
                        .iter()
                        .map(|event| (event.revision(), event.kind, event.entry.key().to_owned()))
                        .collect();
                    let expected = model.changes.iter();
                    let expected = expected.filter(|(at, _, key)| *at > from && key.starts_with(prefix));
                    assert_eq!(found, expected.cloned().collect::<Vec<_>>());
                    assert_eq!(watcher.progress(), model.revision());
                }
            }
            Step::Compact(back) => {
                let at = model.revision().saturating_sub(back);
                store.compact(at);
                model.floor = model.floor.max(at);
            }
            Step::Reopen if dir.is_some() => {
                store.close().await;
                store = open();
                model.floor = model.revision();
            }
            Step::Reopen => {}
        }
        assert_eq!(store.revision(), model.revision());
    }
    for prefix in ["pods/", "nodes/"] {
        let expected = model.now().iter().filter(|(key, _)| key.starts_with(prefix));
        assert_eq!(contents(&store, prefix), expected.map(|(k, at)| (k.clone(), *at)).collect::<Vec<_>>());
    }
    store.close().await;
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]
    #[test]
    fn memory_does_what_the_model_does(steps in steps()) {
        block_on(check(steps, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]
    #[test]
    fn sled_does_what_the_model_does(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        block_on(check(steps, Some(dir.path())));
    }
}
