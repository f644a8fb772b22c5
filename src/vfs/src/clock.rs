//! The crate's clock seam: the wall time that file times are taken from, and how it is kept.

use std::time::{Duration, SystemTime};

/// The wall time now.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate where wall time comes in")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// A time as files in memory keep it: nanoseconds since 1970, half the size of a [`SystemTime`]. It reaches from
/// 1677 to 2262; what lies beyond becomes the nearest of these, as with any filesystem's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(i64);

impl Stamp {
    pub(crate) fn now() -> Stamp {
        Stamp::of(now())
    }

    pub(crate) fn of_nanos(since_1970: i128) -> Stamp {
        let (least, most) = (i128::from(i64::MIN), i128::from(i64::MAX));
        Stamp(i64::try_from(since_1970.clamp(least, most)).unwrap_or_default())
    }

    pub(crate) fn of(time: SystemTime) -> Stamp {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Stamp(i64::try_from(after.as_nanos()).unwrap_or(i64::MAX)),
            Err(before) => {
                Stamp(i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos))
            }
        }
    }

    pub(crate) fn time(self) -> SystemTime {
        let distance = Duration::from_nanos(self.0.unsigned_abs());
        if self.0 < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        let epoch = SystemTime::UNIX_EPOCH;
        for time in [epoch, epoch + Duration::new(1_000_000_000, 123_456_789), epoch - Duration::new(9, 1)] {
            assert_eq!(Stamp::of(time).time(), time);
        }
        let far = epoch + Duration::from_secs(1 << 40);
        assert!(Stamp::of(far).time() < far && Stamp::of(far) > Stamp::now());
    }
}
