//! The stack of a guest that waits: the pages below where it waits hold nothing any more, and go back to the kernel.
//!
//! A guest starts deep (it is instantiated, it binds its port, the host formats and allocates on its stack) and waits
//! shallow, so that it would keep a page or more for as long as it lives.

#![expect(unsafe_code, reason = "what nobody uses of a stack is given back")]

use std::pin::pin;
use std::ptr;
use std::task::Poll;
use std::time::Duration;

use crate::executor::turn_began;

/// How often a guest that begins to wait gives back: it costs a system call, and finding the pages anew costs more. Some
/// guests wait a hundred thousand times a second, and thousands are probed once in a second.
const PAUSE: Duration = Duration::from_mins(1);

/// Bytes that are given back at most: what starts and host calls reach, several times over. Below a guest that waits
/// there is more of its stack than this: the part that host functions have to themselves is four times as large, and
/// what they use of it before they wait is a few kilobytes.
const SPAN: usize = 64 << 10;

const _: () = assert!(crate::limits::ASYNC_STACK - crate::limits::GUEST_STACK >= 4 * SPAN);

/// Bytes below the one who gives back that stay: what it calls for that, and what the ABI lets functions use without
/// saying so.
const MARGIN: usize = 512;

/// When a guest gave back last.
#[derive(Debug, Default)]
pub(crate) struct Slack {
    /// The next time, in the executor's.
    next: Duration,
}

impl Slack {
    /// For one that gives nothing back.
    pub(crate) fn kept() -> Slack {
        Slack { next: Duration::MAX }
    }

    /// Waits, on the guest's stack, for what it waits for.
    pub(crate) async fn during<F: Future>(&mut self, waits: F) -> F::Output {
        let mut waits = pin!(waits);
        std::future::poll_fn(|cx| self.minds(waits.as_mut().poll(cx))).await
    }

    /// Passes on whether the guest waits, on whose stack this is called.
    pub(crate) fn minds<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        if polled.is_pending()
            && let Some(now) = turn_began()
            && now >= self.next
        {
            self.next = now + PAUSE;
            give_back();
        }
        polled
    }
}

/// Gives back the pages below.
#[inline(never)]
fn give_back() {
    let here = 0_u8;
    let page = crate::engine::page();
    let end = (ptr::from_ref(&here).addr() - MARGIN) & !(page - 1);
    let start: *mut u8 = ptr::without_provenance_mut(end - SPAN);
    // SAFETY: the range is below all frames of this stack and within it, as said at the constants, so that nobody has
    // anything there. Pages that are touched again are zero. If the kernel refuses, they stay.
    unsafe { libc::madvise(start.cast(), SPAN, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;
    use crate::engine::page;

    /// Whether the kernel has pages for the stack between `from` and `to` bytes below a frame.
    fn resident(frame: usize, from: usize, to: usize) -> Vec<bool> {
        let start = (frame - to).next_multiple_of(page());
        let mut pages = vec![0_u8; (to - from) / page()];
        let at: *mut u8 = ptr::without_provenance_mut(start);
        // SAFETY: it writes a byte for each page of the range, which is the stack of this thread.
        let done = unsafe { libc::mincore(at.cast(), pages.len() * page(), pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.into_iter().map(|page| page & 1 == 1).collect()
    }

    #[inline(never)]
    fn goes_deep() {
        let mut bytes = [1_u8; 40 << 10];
        black_box(&mut bytes);
    }

    #[test]
    fn what_was_touched_below_is_given_back() {
        let kept = [7_u8; 512];
        goes_deep();
        let frame = ptr::from_ref(&kept).addr();
        let (from, to) = (16 << 10, 32 << 10);
        assert_eq!(resident(frame, from, to), [true; 4]);
        give_back();
        assert_eq!((resident(frame, from, to), black_box(kept)), (vec![false; 4], [7; 512]));
        goes_deep();
        assert_eq!(resident(frame, from, to), [true; 4], "and is there again");
    }

    #[tokio::test]
    async fn nothing_is_given_back_but_on_a_guests_stack() {
        let mut slack = Slack::default();
        assert_eq!(slack.during(async { 7 }).await, 7);
        assert!(slack.minds::<()>(Poll::Pending).is_pending());
        assert_eq!(slack.next, Duration::ZERO);
    }
}
