//! `poll_oneoff`: waiting for clocks and descriptors.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Caller;

use super::abi::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, EVENT_BYTES, EVENT_CLOCK, EVENT_FD_READ, EVENT_FD_WRITE, Errno, Result,
    Snapshot, rights,
};
use super::table::{Direction, Kind, Table};
use super::{Guest, with};
use crate::state::State;

/// Subscriptions of one call: more than twice the descriptors that a program can have. Each costs the host some
/// tens of bytes while the call waits.
const SUBSCRIPTIONS: u32 = 8_192;

/// Flag of a clock subscription: its time is a point, not a span from now.
const ABSOLUTE: u16 = 1;

/// Flag of an event: the other side is gone.
const HANGUP: u16 = 1;

/// What is waited for.
#[derive(Debug, Clone, Copy)]
struct Subscription {
    userdata: u64,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// `None` for a time that never comes.
    Clock(Option<Instant>),
    Descriptor(u32, Direction),
    /// It cannot be waited for; that is its event.
    Refused(u8, Errno),
}

/// Waits until something happens, and tells all that has.
pub(super) async fn poll_oneoff(
    caller: &mut Caller<'_, State>,
    snapshot: Snapshot,
    (subscriptions, events, count, count_at): (u32, u32, u32, u32),
) -> Result<()> {
    if count == 0 || count > SUBSCRIPTIONS {
        return Err(Errno::Inval);
    }
    let subscriptions = with(caller, |guest| {
        guest.memory.check(count_at, 4)?;
        guest.memory.check(events, count * EVENT_BYTES)?;
        (0..count)
            .map(|number| guest.subscription(snapshot, subscriptions, number))
            .collect::<Result<Vec<_>>>()
    })?;
    loop {
        wait(caller, &subscriptions).await;
        let now = Instant::now();
        let told = with(caller, |guest| {
            let mut told = 0;
            for subscription in &subscriptions {
                if let Some(event) = guest.event(subscription, now) {
                    guest.memory.put(events + told * EVENT_BYTES, &event)?;
                    told += 1;
                }
            }
            guest.memory.put_u32(count_at, told)?;
            Ok(told)
        })?;
        if told > 0 {
            return Ok(()); // else somebody else was faster
        }
    }
}

/// Waits until at least one of them has happened.
async fn wait(caller: &mut Caller<'_, State>, subscriptions: &[Subscription]) {
    let first = subscriptions.iter().filter_map(|subscription| match subscription.what {
        What::Clock(time) => time,
        _ => None,
    });
    let timer = async {
        match first.min() {
            Some(time) => tokio::time::sleep_until(time).await,
            None => std::future::pending().await,
        }
    };
    let mut timer = pin!(timer);
    poll_fn(|cx| {
        // All are asked, so that each can wake the guest.
        let mut happened = false;
        let now = Instant::now();
        if let Some(preview1) = &caller.data_mut().preview1 {
            for subscription in subscriptions {
                happened |= is_ready(&preview1.table, subscription.what, now, cx);
            }
        }
        let polled = if happened { Poll::Ready(()) } else { timer.as_mut().poll(cx) };
        caller.data_mut().slack.minds(polled)
    })
    .await;
}

fn is_ready(table: &Table, what: What, now: Instant, cx: &mut Context<'_>) -> bool {
    match what {
        // Who only asks must not wait: the timer is late by up to a millisecond.
        What::Clock(time) => time.is_some_and(|time| time <= now),
        What::Refused(..) => true,
        What::Descriptor(fd, direction) => match table.get(fd) {
            Ok(descriptor) => descriptor.poll(direction, cx).is_ready(),
            Err(_) => true,
        },
    }
}

impl Guest<'_> {
    fn subscription(&self, snapshot: Snapshot, list: u32, number: u32) -> Result<Subscription> {
        let size = snapshot.subscription_bytes();
        let at = number.checked_mul(size).and_then(|offset| list.checked_add(offset)).ok_or(Errno::Fault)?;
        self.memory.check(at, size)?;
        let kind = self.memory.u8(at + 8)?;
        let what = match kind {
            EVENT_CLOCK => self.clock(snapshot, at)?,
            EVENT_FD_READ => self.descriptor(at, kind, Direction::Read)?,
            EVENT_FD_WRITE => self.descriptor(at, kind, Direction::Write)?,
            _ => return Err(Errno::Inval),
        };
        Ok(Subscription { userdata: self.memory.u64(at)?, what })
    }

    fn clock(&self, snapshot: Snapshot, at: u32) -> Result<What> {
        let fields = snapshot.clock_fields();
        let clock = self.memory.u32(at + fields.id)?;
        let timeout = self.memory.u64(at + fields.timeout)?;
        let flags = self.memory.u16(at + fields.flags)?;
        if flags & !ABSOLUTE != 0 {
            return Ok(What::Refused(EVENT_CLOCK, Errno::Inval));
        }
        let span = match clock {
            CLOCK_REALTIME | CLOCK_MONOTONIC if flags & ABSOLUTE != 0 => {
                timeout.saturating_sub(self.time(clock)?)
            }
            CLOCK_REALTIME | CLOCK_MONOTONIC => timeout,
            // Nobody's CPU time goes on while it waits.
            _ => return Ok(What::Refused(EVENT_CLOCK, Errno::NotSup)),
        };
        Ok(What::Clock(Instant::now().checked_add(Duration::from_nanos(span))))
    }

    fn descriptor(&self, at: u32, kind: u8, direction: Direction) -> Result<What> {
        let fd = self.memory.u32(at + 16)?;
        let refused = match self.preview1.table.get(fd) {
            Err(error) => Some(error),
            Ok(descriptor) => match (&descriptor.kind, direction) {
                (Kind::Directory(_), _) => Some(Errno::Badf),
                _ => descriptor.may(rights::POLL_FD_READWRITE).err(),
            },
        };
        Ok(refused.map_or(What::Descriptor(fd, direction), |error| What::Refused(kind, error)))
    }

    /// The event of a subscription, if it has happened.
    fn event(&self, subscription: &Subscription, now: Instant) -> Option<[u8; EVENT_BYTES as usize]> {
        let (kind, errno, bytes, flags) = match subscription.what {
            What::Clock(Some(time)) if time <= now => (EVENT_CLOCK, None, 0, 0),
            What::Clock(_) => return None,
            What::Refused(kind, errno) => (kind, Some(errno), 0, 0),
            What::Descriptor(fd, direction) => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let descriptor = self.preview1.table.get(fd).ok()?;
                if descriptor.poll(direction, &mut cx).is_pending() {
                    return None;
                }
                let kind = if direction == Direction::Read { EVENT_FD_READ } else { EVENT_FD_WRITE };
                let (bytes, flags) = available(&descriptor.kind, direction);
                (kind, None, bytes, flags)
            }
        };
        let mut event = [0; EVENT_BYTES as usize];
        event[..8].copy_from_slice(&subscription.userdata.to_le_bytes());
        event[8..10].copy_from_slice(&errno.map_or(0, |errno| errno as u16).to_le_bytes());
        event[10] = kind;
        event[16..24].copy_from_slice(&bytes.to_le_bytes());
        event[24..26].copy_from_slice(&flags.to_le_bytes());
        Some(event)
    }
}

/// How much can be moved at once, as far as it is known, and flags.
fn available(kind: &Kind, direction: Direction) -> (u64, u16) {
    match (kind, direction) {
        (Kind::File { file, position }, Direction::Read) if !file.blocking() => {
            let size = file.stat().map_or(0, |stat| stat.size);
            (size.saturating_sub(*position), 0)
        }
        (Kind::Output { output, .. }, Direction::Write) => (output.room() as u64, 0),
        (Kind::Stream(stream), Direction::Write) => match stream.connection.stream().write_vacancy() {
            Ok(room) => (room as u64, 0),
            Err(_) => (0, HANGUP),
        },
        _ => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A timer would be late by up to a millisecond, each time a program looks whether anything happened.
    #[tokio::test]
    async fn what_is_due_is_not_waited_for() {
        let (table, now) = (Table::default(), Instant::now());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut check = |time: Option<Instant>, ready: bool| {
            assert_eq!(is_ready(&table, What::Clock(time), now, &mut cx), ready, "{time:?}");
        };
        check(Some(now), true);
        check(now.checked_sub(Duration::from_nanos(1)), true);
        check(Some(now + Duration::from_nanos(1)), false);
        check(None, false);
    }
}
