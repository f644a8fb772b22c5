//! A bounded stream of bytes between a guest and somebody of the node.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

/// Shorter pieces than this are gathered: the bookkeeping of many small ones would cost more than they hold.
const GATHER_BELOW: usize = 4 << 10;

/// A bounded stream of bytes. Both sides may have several handles.
#[derive(Debug)]
pub(crate) struct Pipe {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    length: usize,
    /// Nothing will follow.
    ended: bool,
    /// Nobody reads any more.
    abandoned: bool,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

impl Pipe {
    pub(crate) fn new(capacity: usize) -> Pipe {
        Pipe { capacity, state: Mutex::default() }
    }

    /// Takes as much off the front of `data` as there is room for.
    pub(crate) fn poll_write(&self, cx: &Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        if state.abandoned || state.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = self.capacity.saturating_sub(state.length);
        if room == 0 {
            register(&mut state.writers, cx);
            return Poll::Pending;
        }
        let part = data.split_to(room.min(data.len()));
        let readers = state.push(&part);
        drop(state);
        readers.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    /// Takes all of `data`, for writers that have asked for [`Pipe::room`]; what is far beyond it is dropped.
    pub(crate) fn push(&self, data: &[u8]) {
        let mut state = self.state.lock();
        // Several handles may have asked before one of them wrote.
        if state.abandoned || state.ended || state.length >= 2 * self.capacity {
            return;
        }
        let readers = state.push(data);
        drop(state);
        readers.into_iter().for_each(Waker::wake);
    }

    /// How much fits; anything does if nobody reads.
    pub(crate) fn room(&self) -> usize {
        let state = self.state.lock();
        let room = self.capacity.saturating_sub(state.length);
        if state.abandoned || state.ended { self.capacity } else { room }
    }

    /// Ready when something fits.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.abandoned || state.ended || state.length < self.capacity {
            return Poll::Ready(());
        }
        register(&mut state.writers, cx);
        Poll::Pending
    }

    /// What is there, at most `max` bytes: `None` if nothing is there yet, empty at the end.
    pub(crate) fn read(&self, max: usize) -> Option<Bytes> {
        let mut state = self.state.lock();
        let Some(first) = state.chunks.front_mut() else { return state.ended.then(Bytes::new) };
        let part = first.split_to(max.min(first.len()));
        if first.is_empty() {
            state.chunks.pop_front();
        }
        state.length -= part.len();
        let writers = std::mem::take(&mut state.writers);
        drop(state);
        writers.into_iter().for_each(Waker::wake);
        Some(part)
    }

    /// Ready when [`Pipe::read`] would give something.
    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.ended || !state.chunks.is_empty() {
            return Poll::Ready(());
        }
        register(&mut state.readers, cx);
        Poll::Pending
    }

    /// Nothing will follow. False if that was known.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.state.lock();
        let first = !std::mem::replace(&mut state.ended, true);
        let wakers = state.wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        first
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }

    /// Nobody will read any more.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        let chunks = std::mem::take(&mut state.chunks);
        state.length = 0;
        let wakers = state.wakers();
        drop(state);
        drop(chunks);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn push(&mut self, data: &[u8]) -> Vec<Waker> {
        self.length += data.len();
        match self.chunks.back_mut() {
            Some(last) if last.len() + data.len() <= GATHER_BELOW => {
                *last = [&last[..], data].concat().into();
            }
            _ if data.is_empty() => {}
            _ => self.chunks.push_back(Bytes::copy_from_slice(data)),
        }
        std::mem::take(&mut self.readers)
    }

    fn wakers(&mut self) -> Vec<Waker> {
        let mut wakers = std::mem::take(&mut self.readers);
        wakers.append(&mut self.writers);
        wakers
    }
}

/// Guests and sessions are one task each, so the lists stay short.
fn register(wakers: &mut Vec<Waker>, cx: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}
