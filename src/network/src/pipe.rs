//! One direction of a connection: a bounded queue of bytes with one writer and one reader.
//!
//! ```text
//!  writer: open ──finish──▶ finished          reader: open ──shut──▶ shut (discards) ──close──▶ gone
//!            │                                            └──────────close──────────────────────▶ gone
//!            └──────── reset (from either side, also from outside): both see ConnectionReset ─────────
//! ```
//!
//! What was written before a reset or an end can still be read, as on Linux. Buffers exist only while
//! they hold bytes, so an idle direction owns no heap memory at all.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;

use crate::bandwidth::{Bucket, Shaping};
use crate::limits::{CHUNK, COALESCE_BELOW, STREAM_WINDOW, STREAM_WINDOW_MIN, WRITE_MAX};
use crate::meter::Meter;
use crate::wakers::Wakers;

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Who pays for what is buffered: the pod that writes, or the one that reads if the node writes. Only
    /// between the node and the node nobody does.
    payer: Option<Payer>,
    /// How fast bytes may pass, if that is limited.
    shaping: Option<Box<Shaping>>,
    state: Mutex<State>,
}

/// A pod that pays for a direction.
#[derive(Clone, Debug)]
pub(crate) struct Payer {
    pub(crate) meter: Arc<Meter>,
    /// It is the one that writes, so what it writes is counted as sent.
    pub(crate) writes: bool,
}

#[derive(Debug)]
struct State {
    /// Whole buffers, oldest first; after them comes `tail`, where short writes gather.
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
    /// What the writer was told it may write, and has not yet.
    promised: usize,
    /// What is paid for beyond [`STREAM_WINDOW_MIN`], which is paid with the connection.
    paid: usize,
    finished: bool,
    reset: bool,
    /// Stands in the list of a bucket that will wake the writers.
    throttled: bool,
    /// What the bucket granted and was not sent yet.
    grant: usize,
    reader: Reader,
    read_waiters: Wakers,
    write_waiters: Wakers,
}

/// What a writer that asks for room is told.
pub(crate) enum Room<'a> {
    /// It may write, or would fail at once.
    Ready,
    /// The reader wakes it.
    Full,
    /// This bucket is to wake it.
    Throttled(&'a Arc<Bucket>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Open,
    Shut,
    Gone,
}

impl Pipe {
    pub(crate) fn new(payer: Option<Payer>, shaping: Option<Box<Shaping>>) -> Pipe {
        let state = State {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            len: 0,
            promised: 0,
            paid: 0,
            finished: false,
            reset: false,
            throttled: false,
            grant: 0,
            reader: Reader::Open,
            read_waiters: Wakers::default(),
            write_waiters: Wakers::default(),
        };
        Pipe { payer, shaping, state: Mutex::new(state) }
    }

    /// Copies out what is there: 0 at the end, `WouldBlock` if there is nothing yet.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.state.lock();
        if state.len == 0 {
            return state.nothing_to_read().map(|()| 0);
        }
        let mut read = 0;
        while read < buffer.len() && state.len > read {
            read += state.copy_front(&mut buffer[read..]);
        }
        self.drained(state, read);
        Ok(read)
    }

    /// Takes out at most `max` bytes of one buffer; empty at the end.
    pub(crate) fn read_bytes(&self, max: usize) -> io::Result<Bytes> {
        if max == 0 {
            return Ok(Bytes::new());
        }
        let mut state = self.state.lock();
        if state.len == 0 {
            return state.nothing_to_read().map(|()| Bytes::new());
        }
        let bytes = state.take_front(max);
        self.drained(state, bytes.len());
        Ok(bytes)
    }

    /// Copies in as much as fits.
    pub(crate) fn write(&self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.writable()?;
        if state.reader == Reader::Shut || data.is_empty() {
            return Ok(data.len());
        }
        let written = self.afford(&mut state, data.len());
        if written == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.append(&data[..written]);
        self.written(state, written);
        Ok(written)
    }

    /// Takes all of `data`, without a copy if it is long. The caller keeps to what
    /// [`Pipe::capacity`] allowed it; the window is not looked at again.
    pub(crate) fn write_bytes(&self, data: Bytes) -> io::Result<()> {
        let mut state = self.state.lock();
        state.writable()?;
        if state.reader == Reader::Shut || data.is_empty() {
            return Ok(());
        }
        let written = data.len();
        if written < COALESCE_BELOW {
            state.append(&data);
        } else {
            state.push(data);
        }
        self.written(state, written);
        Ok(())
    }

    /// How much a write takes now. It is paid for until the next write, or until it is asked again.
    pub(crate) fn capacity(&self) -> io::Result<usize> {
        let mut state = self.state.lock();
        state.writable()?;
        state.promised = self.afford(&mut state, WRITE_MAX);
        self.settle(&mut state);
        Ok(state.promised)
    }

    /// How much a write would probably take now.
    pub(crate) fn vacancy(&self) -> io::Result<usize> {
        let state = self.state.lock();
        state.writable()?;
        Ok(self.window(&state).saturating_sub(state.len).min(WRITE_MAX))
    }

    /// An error if no write will succeed any more.
    pub(crate) fn check_writable(&self) -> io::Result<()> {
        self.state.lock().writable()
    }

    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.len > 0
            || state.nothing_to_read().map_err(|error| error.kind()) != Err(io::ErrorKind::WouldBlock)
        {
            return Poll::Ready(());
        }
        state.read_waiters.register(cx);
        Poll::Pending
    }

    /// Remembers a writer unless there is room for a fair piece.
    pub(crate) fn room(&self, cx: &Context<'_>) -> Room<'_> {
        let mut state = self.state.lock();
        if state.writable().is_err() || state.reader == Reader::Shut {
            return Room::Ready;
        }
        if !has_room(state.len, self.window(&state)) {
            state.write_waiters.register(cx);
            return Room::Full;
        }
        let Some(bucket) = self.shaping.as_ref().and_then(|shaping| shaping.empty(state.grant)) else {
            return Room::Ready;
        };
        state.write_waiters.register(cx);
        if std::mem::replace(&mut state.throttled, true) { Room::Full } else { Room::Throttled(bucket) }
    }

    /// A bucket has tokens again.
    pub(crate) fn go_on(&self, grant: usize) {
        let mut state = self.state.lock();
        state.throttled = false;
        state.grant = grant;
        let writers = state.write_waiters.take();
        drop(state);
        writers.wake();
    }

    /// Ready once the reader will never read again.
    pub(crate) fn poll_reader_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.reset || state.reader == Reader::Gone {
            return Poll::Ready(());
        }
        state.write_waiters.register(cx);
        Poll::Pending
    }

    /// The writer is done: the reader sees the end once it has read the rest.
    pub(crate) fn finish(&self) {
        let mut state = self.state.lock();
        state.finished = true;
        state.promised = 0;
        self.settle(&mut state);
        let (readers, writers) = (state.read_waiters.take(), state.write_waiters.take());
        drop(state);
        readers.wake();
        writers.wake();
    }

    /// The reader wants no more: what is there and what comes is discarded, and it reads the end.
    pub(crate) fn shut_reader(&self) {
        self.end_reader(Reader::Shut);
    }

    /// The reader goes away. True if there was something it had not read.
    pub(crate) fn close_reader(&self) -> bool {
        self.end_reader(Reader::Gone)
    }

    fn end_reader(&self, to: Reader) -> bool {
        let mut state = self.state.lock();
        let unread = state.len;
        state.chunks = VecDeque::new();
        state.tail = BytesMut::new();
        if state.reader != Reader::Gone {
            state.reader = to;
        }
        let readers = state.read_waiters.take();
        self.drained(state, unread);
        readers.wake();
        unread > 0
    }

    /// Both sides see `ConnectionReset`, the reader after what is buffered.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock();
        state.reset = true;
        state.promised = 0;
        self.settle(&mut state);
        let (readers, writers) = (state.read_waiters.take(), state.write_waiters.take());
        drop(state);
        readers.wake();
        writers.wake();
    }

    /// How much may wait here as long as the payer's purse is as it is.
    fn window(&self, state: &State) -> usize {
        match &self.payer {
            Some(payer) if !payer.meter.has(CHUNK) => STREAM_WINDOW_MIN + state.paid,
            _ => STREAM_WINDOW,
        }
    }

    /// How much of `want` a write takes now, paid for.
    fn afford(&self, state: &mut State, want: usize) -> usize {
        let allowed =
            self.shaping.as_ref().map_or(WRITE_MAX, |shaping| shaping.allowed(state.grant).min(WRITE_MAX));
        let room = STREAM_WINDOW.saturating_sub(state.len);
        let want = want.min(room).min(allowed);
        let Some(payer) = &self.payer else { return want };
        let paid = (STREAM_WINDOW_MIN + state.paid).saturating_sub(state.len);
        // All of it, or a page of it, or what is paid already.
        for more in [want.saturating_sub(paid), CHUNK.min(want).saturating_sub(paid)] {
            if more == 0 || payer.meter.take(more) {
                state.paid += more;
                return want.min(paid + more);
            }
        }
        paid
    }

    /// Pays what is owed, as far as that is possible, and takes back what was paid too much.
    fn settle(&self, state: &mut State) {
        let Some(payer) = &self.payer else { return };
        let due = (state.len + state.promised).saturating_sub(STREAM_WINDOW_MIN);
        if state.paid > due {
            payer.meter.give(state.paid - due);
            state.paid = due;
        } else if state.paid < due && payer.meter.take(due - state.paid) {
            state.paid = due;
        }
    }

    fn written(&self, mut state: parking_lot::MutexGuard<'_, State>, bytes: usize) {
        state.len += bytes;
        state.promised = 0;
        // Under the lock, so that nobody gives back what was not charged yet.
        self.settle(&mut state);
        if let Some(payer) = &self.payer {
            payer.meter.queued(bytes);
            if payer.writes {
                payer.meter.wrote(bytes);
            }
        }
        if let Some(shaping) = &self.shaping {
            shaping.spend(bytes);
            state.grant = state.grant.saturating_sub(bytes);
        }
        let readers = state.read_waiters.take();
        drop(state);
        readers.wake();
    }

    fn drained(&self, mut state: parking_lot::MutexGuard<'_, State>, bytes: usize) {
        state.len -= bytes;
        self.settle(&mut state);
        if let Some(payer) = &self.payer {
            payer.meter.drained(bytes);
        }
        let waits = state.write_waiters.any();
        let ready = waits && (state.reader != Reader::Open || has_room(state.len, self.window(&state)));
        let writers = if ready { state.write_waiters.take() } else { Wakers::default() };
        drop(state);
        writers.wake();
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let Some(payer) = &self.payer {
            payer.meter.drained(state.len);
            payer.meter.give(state.paid);
        }
    }
}

/// A waiting writer is woken when a quarter of the window is free, not for every byte that is read.
fn has_room(len: usize, window: usize) -> bool {
    len <= window / 4 * 3
}

impl State {
    /// Why there is nothing to read: the end, an error, or nothing yet.
    fn nothing_to_read(&self) -> io::Result<()> {
        if self.reset {
            Err(io::ErrorKind::ConnectionReset.into())
        } else if self.finished || self.reader != Reader::Open {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    fn writable(&self) -> io::Result<()> {
        if self.reset {
            Err(io::ErrorKind::ConnectionReset.into())
        } else if self.finished || self.reader == Reader::Gone {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(())
        }
    }

    fn append(&mut self, data: &[u8]) {
        if self.tail.len() >= CHUNK {
            let full = std::mem::take(&mut self.tail).freeze();
            self.chunks.push_back(full);
        }
        self.tail.extend_from_slice(data);
    }

    fn push(&mut self, data: Bytes) {
        if !self.tail.is_empty() {
            let gathered = std::mem::take(&mut self.tail).freeze();
            self.chunks.push_back(gathered);
        }
        self.chunks.push_back(data);
    }

    /// The front buffer, at most `max` bytes of it. There is one.
    fn take_front(&mut self, max: usize) -> Bytes {
        match self.chunks.front_mut() {
            Some(front) if front.len() > max => front.split_to(max),
            Some(_) => self.pop_front(),
            None if self.tail.len() > max => self.tail.split_to(max).freeze(),
            None => std::mem::take(&mut self.tail).freeze(),
        }
    }

    fn pop_front(&mut self) -> Bytes {
        let front = self.chunks.pop_front().unwrap_or_default();
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
        front
    }

    /// Copies from the front buffer only.
    fn copy_front(&mut self, buffer: &mut [u8]) -> usize {
        if let Some(front) = self.chunks.front_mut() {
            let read = front.len().min(buffer.len());
            front.copy_to_slice(&mut buffer[..read]);
            if front.is_empty() {
                self.pop_front();
            }
            return read;
        }
        let read = self.tail.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.tail[..read]);
        if read == self.tail.len() {
            self.tail = BytesMut::new();
        } else {
            self.tail.advance(read);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use coracle_budget::Budget;
    use proptest::prelude::*;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        HandOver(usize),
        Read(usize),
        Take(usize),
        Finish,
        Shut,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let size = prop_oneof![0usize..10, 0usize..3000, 0usize..100_000];
        let step = prop_oneof![
            8 => size.clone().prop_map(Step::Write),
            4 => size.clone().prop_map(|size| Step::HandOver(size.min(WRITE_MAX))),
            8 => size.clone().prop_map(Step::Read),
            4 => size.prop_map(Step::Take),
            1 => Just(Step::Finish),
            1 => Just(Step::Shut),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Bytes come out as they went in, what is buffered is charged and bounded, and whoever was told
        /// to wait is woken when there is something to do.
        #[test]
        fn behaves_as_a_queue(steps in steps(), left in prop_oneof![Just(10 << 20), 0u64..1_000_000]) {
            let budget = Budget::new(Some(left));
            let payer = Arc::new(Meter::new(Some(&budget)));
            let pipe = Pipe::new(Some(Payer { meter: Arc::clone(&payer), writes: true }), None);
            let (mut model, mut next) = (VecDeque::new(), 0u8);
            let mut produce = |size: usize| -> Vec<u8> {
                (0..size).map(|_| { next = next.wrapping_add(1); next }).collect()
            };
            let (mut finished, mut shut) = (false, false);
            let bell = Arc::new(Bell::default());
            let waker = Arc::clone(&bell).into();
            let cx = Context::from_waker(&waker);
            for step in steps {
                let reader_waits = pipe.poll_readable(&cx).is_pending();
                let writer_waits = waits(&pipe, &cx);
                let rung = bell.0.load(Relaxed);
                match step {
                    Step::Write(size) => {
                        let data = produce(size);
                        match pipe.write(&data) {
                            Ok(written) => {
                                prop_assert!(!finished && written <= size);
                                prop_assert!(size == 0 || written > 0);
                                // What was not taken is produced again by nobody.
                                if !shut {
                                    model.extend(&data[..written]);
                                }
                            }
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                                let floor = model.len() >= STREAM_WINDOW_MIN && !payer.has(CHUNK);
                                prop_assert!(model.len() >= STREAM_WINDOW || floor);
                            }
                            Err(error) => prop_assert!(finished && error.kind() == io::ErrorKind::BrokenPipe),
                        }
                    }
                    Step::HandOver(size) => {
                        let size = size.min(pipe.capacity().unwrap_or(0));
                        let data = produce(size);
                        match pipe.write_bytes(data.clone().into()) {
                            Ok(()) => if !shut { model.extend(data) },
                            Err(error) => prop_assert!(finished && error.kind() == io::ErrorKind::BrokenPipe),
                        }
                    }
                    Step::Read(size) => {
                        let mut buffer = vec![0; size];
                        match pipe.read(&mut buffer) {
                            Ok(read) => {
                                prop_assert_eq!(read, size.min(model.len()));
                                prop_assert!(read > 0 || size == 0 || finished || shut);
                                prop_assert!(buffer[..read].iter().eq(model.drain(..read).collect::<Vec<_>>().iter()));
                            }
                            Err(error) => {
                                prop_assert!(error.kind() == io::ErrorKind::WouldBlock && model.is_empty() && !finished);
                            }
                        }
                    }
                    Step::Take(size) => match pipe.read_bytes(size) {
                        Ok(bytes) => {
                            prop_assert!(bytes.len() <= size.min(model.len()));
                            prop_assert!(!bytes.is_empty() || size == 0 || finished || shut);
                            prop_assert!(bytes.iter().eq(model.drain(..bytes.len()).collect::<Vec<_>>().iter()));
                        }
                        Err(error) => {
                            prop_assert!(error.kind() == io::ErrorKind::WouldBlock && model.is_empty() && !finished);
                        }
                    },
                    Step::Finish => {
                        pipe.finish();
                        finished = true;
                    }
                    Step::Shut => {
                        pipe.shut_reader();
                        model.clear();
                        shut = true;
                    }
                }
                prop_assert_eq!(payer.buffered(), model.len());
                prop_assert!(model.len() <= STREAM_WINDOW);
                let woken = bell.0.load(Relaxed) > rung;
                let noop = Context::from_waker(std::task::Waker::noop());
                prop_assert!(!reader_waits || woken || pipe.poll_readable(&noop).is_pending());
                prop_assert!(!writer_waits || woken || waits(&pipe, &noop));
                prop_assert!(payer.held() as u64 == budget.used() && budget.used() <= left / 4);
            }
            drop(pipe);
            prop_assert_eq!((payer.buffered(), payer.held(), budget.used()), (0, 0, 0));
        }
    }

    fn waits(pipe: &Pipe, cx: &Context<'_>) -> bool {
        !matches!(pipe.room(cx), Room::Ready)
    }

    #[test]
    fn a_pod_without_memory_keeps_small_windows() {
        let budget = Budget::new(Some(0));
        let payer = Payer { meter: Arc::new(Meter::new(Some(&budget))), writes: true };
        let pipe = Pipe::new(Some(payer), None);
        let mut written = 0;
        while let Ok(more) = pipe.write(&[0; 3000]) {
            written += more;
        }
        assert_eq!(written, STREAM_WINDOW_MIN);
        assert_eq!(pipe.capacity().expect("open"), 0);
        budget.set_limit(Some(4 << 20));
        assert_eq!(pipe.capacity().expect("open"), WRITE_MAX);
        assert_eq!(budget.used(), WRITE_MAX as u64, "what is promised is paid for");
        pipe.write_bytes(Bytes::from_static(b"less")).expect("promised");
        assert_eq!(budget.used(), 4);
    }
}
