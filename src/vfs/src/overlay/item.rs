//! What an overlay knows of its files and directories beyond what the layers know.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::tree::{FileKind, Node, Stat};

/// A file, directory or link of the overlay. While anybody holds one of a lower layer there is only one of it, so
/// that all see it move to the upper layer.
pub(super) struct Item {
    pub(super) kind: FileKind,
    /// What the lower layers have, with their numbers: of a file or link one, of a directory all that are merged,
    /// the topmost first.
    pub(super) lowers: Vec<(usize, Node)>,
    /// The number that it had before it was copied up, if it has none of a lower layer to go by.
    pub(super) origin: Option<u64>,
    /// Held by who copies it up, while `names` is not: others who want the copy wait for it.
    pub(super) copying: Mutex<()>,
    state: Mutex<State>,
}

/// Changed only under the overlay's lock; looked at for moments without it.
#[derive(Default)]
pub(super) struct State {
    pub(super) upper: Option<Node>,
    /// The directory that holds it, and its name there. None of the root, and of what was removed.
    pub(super) place: Option<(Arc<Item>, Box<str>)>,
    /// Names of lower layers that are hidden: removed, or replaced by something new; each with how many there were
    /// before it, by which listings know what was hidden when they began.
    pub(super) covered: BTreeMap<Box<str>, usize>,
    /// A directory that was removed: all names of lower layers are hidden.
    pub(super) gone: bool,
    /// The upper layer has its name, for a copy that is not whole yet. Nobody sees it: whoever finds the name
    /// finds this item, which is remembered as long as somebody copies it.
    pub(super) draft: bool,
    /// New times, for what was removed and has no place to be copied to.
    pub(super) times: Option<Stat>,
    pub(super) children: BTreeMap<Box<str>, Child>,
    /// How many entries `children` may get before dead ones are looked for.
    sweep_at: usize,
}

/// What is remembered of a name in a directory.
#[derive(Clone)]
pub(super) enum Child {
    /// A directory with something to remember. It holds its parent in turn: one of them lets go when the name is
    /// removed, or at the end of the overlay.
    Kept(Arc<Item>),
    /// Somebody may hold it.
    Seen(Weak<Item>),
    /// A file that was copied up, and the number that it keeps.
    Copied(u64, Weak<Item>),
}

/// Entries of a directory that are remembered before dead ones are looked for.
const SWEEP_MIN: usize = 64;

impl Item {
    pub(super) fn new(
        kind: FileKind,
        lowers: Vec<(usize, Node)>,
        origin: Option<u64>,
        upper: Option<Node>,
        place: Option<(Arc<Item>, Box<str>)>,
    ) -> Arc<Item> {
        let state = State { upper, place, ..State::default() };
        Arc::new(Item { kind, lowers, origin, copying: Mutex::new(()), state: Mutex::new(state) })
    }

    pub(super) fn upper(&self) -> Option<Node> {
        self.state.lock().upper.clone()
    }

    pub(super) fn set_upper(&self, node: Node) {
        self.state.lock().upper = Some(node);
    }

    pub(super) fn is_draft(&self) -> bool {
        self.state.lock().draft
    }

    /// Says whether there is a copy that is not whole; gives what was said before.
    pub(super) fn set_draft(&self, draft: bool) -> bool {
        std::mem::replace(&mut self.state.lock().draft, draft)
    }

    /// Gives new times to what has no name any more.
    pub(super) fn set_times(&self, stat: Stat) {
        self.state.lock().times = Some(stat);
    }

    /// What a lower layer says of it, with the times that it was given.
    pub(super) fn with_times(&self, stat: Stat) -> Stat {
        match self.state.lock().times {
            None => stat,
            Some(Stat { accessed, modified, changed, .. }) => Stat { accessed, modified, changed, ..stat },
        }
    }

    pub(super) fn place(&self) -> Option<(Arc<Item>, Box<str>)> {
        self.state.lock().place.clone()
    }

    pub(super) fn set_place(&self, place: Option<(Arc<Item>, Box<str>)>) {
        let old = std::mem::replace(&mut self.state.lock().place, place);
        drop(old); // after the lock: it may be the last holder of its parents
    }

    /// How many names of the lower layers are hidden.
    pub(super) fn covered(&self) -> usize {
        self.state.lock().covered.len()
    }

    /// Whether a name was hidden when so many were.
    pub(super) fn was_covered(&self, name: &str, covered: usize) -> bool {
        self.state.lock().covered.get(name).is_some_and(|before| *before < covered)
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        let state = self.state.lock();
        state.gone || state.covered.contains_key(name)
    }

    /// Hides a name of the lower layers; true if it was not hidden already.
    pub(super) fn cover(&self, name: &str) -> bool {
        let mut state = self.state.lock();
        let before = state.covered.len();
        match state.covered.entry(name.into()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(before);
                true
            }
        }
    }

    /// What is remembered of a name, and who holds it.
    pub(super) fn child(&self, name: &str) -> (Option<u64>, Option<Arc<Item>>) {
        match self.state.lock().children.get(name) {
            None => (None, None),
            Some(Child::Kept(item)) => (None, Some(Arc::clone(item))),
            Some(Child::Seen(item)) => (None, item.upgrade()),
            Some(Child::Copied(number, item)) => (Some(*number), item.upgrade()),
        }
    }

    pub(super) fn remember(&self, name: &str, child: Child) {
        let mut state = self.state.lock();
        if state.children.len() >= state.sweep_at.max(SWEEP_MIN) {
            state.children.retain(|_, child| match child {
                Child::Seen(item) => item.strong_count() > 0,
                Child::Kept(_) | Child::Copied(..) => true,
            });
            state.sweep_at = 2 * state.children.len();
        }
        state.children.insert(name.into(), child);
    }

    pub(super) fn forget(&self, name: &str) -> Option<Child> {
        self.state.lock().children.remove(name)
    }

    /// Whether a directory has something to remember that no layer says.
    pub(super) fn is_special(&self) -> bool {
        let state = self.state.lock();
        let kept = |child: &Child| !matches!(child, Child::Seen(_));
        !self.lowers.is_empty() || !state.covered.is_empty() || state.children.values().any(kept)
    }

    /// The end of a directory, or of all: takes apart what holds each other, and says how the covered names were
    /// called. They stay hidden for who has it open.
    pub(super) fn take_apart(self: &Arc<Item>, mut covered: impl FnMut(&str)) {
        let mut left = vec![Arc::clone(self)];
        while let Some(item) = left.pop() {
            let (children, place) = {
                let mut state = item.state.lock();
                std::mem::take(&mut state.covered).keys().for_each(|name| covered(name));
                state.gone = true;
                (std::mem::take(&mut state.children), state.place.take())
            };
            drop(place);
            left.extend(children.into_values().filter_map(|child| match child {
                Child::Kept(item) => Some(item),
                Child::Seen(_) | Child::Copied(..) => None,
            }));
        }
    }
}

impl Drop for Item {
    /// Chains of parents are long and guests run on small stacks: taken apart in a loop.
    fn drop(&mut self) {
        let mut next = self.state.get_mut().place.take();
        while let Some(mut item) = next.and_then(|(parent, _)| Arc::into_inner(parent)) {
            next = item.state.get_mut().place.take();
        }
    }
}
