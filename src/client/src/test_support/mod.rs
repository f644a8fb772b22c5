//! A small in-memory API for tests: create, get, list, watch, update, patch and delete, with resource
//! versions and conflicts, finalizers and graceful deletion, and faults on demand.
//!
//! It is a tower service like the real one, so what is tested runs the same code. It validates nothing.

mod http;
mod patch;
mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{Client, Resource};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
pub use world::Refusal;
use world::World;

use crate::{Key, in_process};

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The call is answered after this time.
    Delay(Duration),
    /// The call is refused with this code and reason, and does nothing.
    Refuse(u16, &'static str),
    /// The call works, but its answer is lost.
    LoseReply,
    /// A watch ends after this many events.
    CutAfter(usize),
}

/// What is known of a call before it is handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The HTTP method.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// True for a watch.
    pub watch: bool,
}

type Faults = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// The fake API. A clone is another handle.
#[derive(Clone)]
pub struct FakeApi {
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    faults: Mutex<Option<Faults>>,
    calls: Mutex<Vec<Call>>,
    /// What is answered to reads of these paths, before anything else is looked at.
    answers: Mutex<BTreeMap<String, Value>>,
    /// Raised at every change; the second number counts cuts of all watches.
    changed: tokio::sync::watch::Sender<(u64, u64)>,
}

impl FakeApi {
    /// An empty world.
    pub fn new() -> Self {
        let shared = Shared {
            world: Mutex::new(World::new()),
            faults: Mutex::new(None),
            calls: Mutex::default(),
            answers: Mutex::default(),
            changed: tokio::sync::watch::Sender::new((0, 0)),
        };
        FakeApi { shared: Arc::new(shared) }
    }

    /// A client of this API.
    pub fn client(&self) -> Client {
        in_process(self.clone())
    }

    /// Asks `faults` at every call what goes wrong with it.
    pub fn set_faults(&self, faults: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        *self.shared.faults.lock() = Some(Box::new(faults));
    }

    /// Nothing goes wrong any more.
    pub fn clear_faults(&self) {
        *self.shared.faults.lock() = None;
    }

    /// Answers reads of `path` with `value`, for APIs that are not objects (metrics).
    pub fn answer(&self, path: &str, value: Value) {
        self.shared.answers.lock().insert(path.to_owned(), value);
    }

    /// The answers of the next `count` writes are lost.
    pub fn lose_replies(&self, mut count: usize) {
        self.set_faults(move |call| {
            let lost = call.method != "GET" && count > 0;
            count -= usize::from(lost);
            lost.then_some(Fault::LoseReply)
        });
    }

    /// The calls so far that are not watches or lists, as `METHOD path`.
    pub fn writes(&self) -> Vec<String> {
        let calls = self.shared.calls.lock();
        calls
            .iter()
            .filter(|call| call.method != "GET")
            .map(|call| format!("{} {}", call.method, call.uri))
            .collect()
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().clone()
    }

    /// Forgets the calls so far.
    pub fn forget_calls(&self) {
        self.shared.calls.lock().clear();
    }

    /// Ends all watches.
    pub fn cut_watches(&self) {
        self.shared.changed.send_modify(|now| now.1 += 1);
    }

    /// Forgets history: watches from older versions are answered 410, those under way end with it.
    pub fn compact(&self) {
        self.shared.world.lock().compact();
        self.cut_watches();
    }

    /// Creates an object; panics if it is refused.
    #[track_caller]
    pub fn create<K: Serialize + DeserializeOwned>(&self, object: &K) -> K {
        let value = serde_json::to_value(object).expect("serialisable");
        self.change(|world| world.create_any(value))
    }

    /// The object with this key.
    pub fn get<K: Resource<DynamicType = ()> + DeserializeOwned>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<K> {
        let world = self.shared.world.lock();
        let value = world.get(&K::plural(&()), &Key::new(namespace, name))?;
        Some(serde_json::from_value(value.clone()).expect("decodable"))
    }

    /// All objects of a kind.
    pub fn list<K: Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Vec<K> {
        let world = self.shared.world.lock();
        let values = world.list(&K::plural(&()));
        values.into_iter().map(|value| serde_json::from_value(value.clone()).expect("decodable")).collect()
    }

    /// Changes an object as its owner would, status and all; panics if there is none.
    #[track_caller]
    pub fn edit<K>(&self, namespace: &str, name: &str, edit: impl FnOnce(&mut K)) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let key = Key::new(namespace, name);
        let mut object: K = self.get(namespace, name).expect("the object exists");
        edit(&mut object);
        let value = serde_json::to_value(&object).expect("serialisable");
        self.change(|world| world.put_whole(&K::plural(&()), &key, value))
    }

    /// Deletes an object at once, whatever its finalizers.
    #[track_caller]
    pub fn remove<K: Resource<DynamicType = ()> + DeserializeOwned>(&self, namespace: &str, name: &str) -> K {
        self.change(|world| world.remove(&K::plural(&()), &Key::new(namespace, name)))
    }

    /// The revision of the newest change.
    pub fn revision(&self) -> u64 {
        self.shared.world.lock().revision()
    }

    #[track_caller]
    fn change<K: DeserializeOwned>(&self, change: impl FnOnce(&mut World) -> Result<Value, Refusal>) -> K {
        let value = change(&mut self.shared.world.lock()).expect("not refused");
        self.announce();
        serde_json::from_value(value).expect("decodable")
    }

    fn announce(&self) {
        let revision = self.revision();
        self.shared.changed.send_modify(|now| now.0 = revision);
    }
}

impl Default for FakeApi {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits until `done` gives something, looking again every few milliseconds of (paused) time; panics
/// with `what` after a minute of it.
#[track_caller]
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(value) = done() {
                return value;
            }
            assert!(tokio::time::Instant::now() < deadline, "never: {what} ({caller})");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
