//! Wall time that follows tokio's clock.

use std::cell::Cell;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

thread_local! {
    static SHIFT: Cell<SignedDuration> = const { Cell::new(SignedDuration::ZERO) };
}

/// From now on the wall time of this thread is so far from what it would be. For simulations on a
/// current-thread runtime: a clock that is set, by hand or by the network, jumps while timers run on.
pub fn shift(by: SignedDuration) {
    SHIFT.set(by);
}

/// The wall time now.
///
/// In a program this is the system's clock. Under tokio's paused clock it stands still and moves with
/// `tokio::time::advance`: the distance between tokio's clock and the monotonic clock, which is nothing
/// unless tokio's was paused, is added.
#[expect(clippy::disallowed_methods, reason = "this is the seam that everyone else must use")]
pub fn now() -> Timestamp {
    let virtual_now = tokio::time::Instant::now().into_std();
    let real_now = std::time::Instant::now();
    let ahead = match virtual_now.checked_duration_since(real_now) {
        Some(ahead) => SignedDuration::try_from(ahead).unwrap_or(SignedDuration::MAX),
        None => {
            -SignedDuration::try_from(real_now.duration_since(virtual_now)).unwrap_or(SignedDuration::MAX)
        }
    };
    // Between the two readings lie nanoseconds; real pauses are longer.
    let ahead = if ahead.abs() < SignedDuration::from_millis(1) { SignedDuration::ZERO } else { ahead };
    let system = Timestamp::now();
    system.checked_add(ahead.saturating_add(SHIFT.get())).unwrap_or(system)
}

/// The wall time now as Kubernetes' `Time` (whole seconds).
pub fn time() -> Time {
    Time(seconds(now()))
}

/// The wall time now as Kubernetes' `MicroTime`.
pub fn micro_time() -> MicroTime {
    let now = now();
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}

/// `time` without what is below the second, which Kubernetes' `Time` does not carry.
pub fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wall_time_follows_a_paused_clock() {
        let before = now();
        tokio::time::advance(Duration::from_hours(1)).await;
        let passed = now().duration_since(before);
        // A machine that is busy may take its time between the two looks.
        let late = passed - SignedDuration::from_hours(1);
        assert!(late.abs() < SignedDuration::from_mins(1), "{passed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn wall_time_can_jump_while_timers_run_on() {
        let (before, timers) = (now(), tokio::time::Instant::now());
        for hours in [1, -1] {
            shift(SignedDuration::from_hours(hours));
            let late = now().duration_since(before) - SignedDuration::from_hours(hours);
            assert!(late.abs() < SignedDuration::from_mins(1), "{late:?}");
        }
        shift(SignedDuration::ZERO);
        assert!(timers.elapsed() < Duration::from_mins(1));
    }

    #[tokio::test]
    async fn wall_time_is_the_systems() {
        let off = now().duration_since(Timestamp::now()).abs();
        assert!(off < SignedDuration::from_mins(1), "{off:?}");
    }
}
