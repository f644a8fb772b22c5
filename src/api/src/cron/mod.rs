//! Cron schedules as Kubernetes reads them: five fields with names, lists, ranges and steps, `?` for `*`,
//! `@hourly` and its like, and `@every 90m`.
//!
//! Times are the ones that a clock on the wall shows in the schedule's zone: a time that is skipped when
//! clocks go forward does not come, one that is repeated when they go back comes twice. If both the day of
//! the month and the day of the week are restricted, either will do.
//!
//! Calendar and time zones are `jiff`'s. The libraries for cron schedules read other languages: they want
//! seconds and years (`cron`, `jiff-cron`), a zone within the text (`cronexpr`), or know `L`, `W` and `#`
//! (`croner`); none reads `@every`, `?` and `5/15` as the library that Kubernetes uses does, or says what is
//! wrong in its words, which is what users see.

mod parse;

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

/// A schedule whose next time is further away never comes.
const HORIZON_DAYS: i32 = 5 * 366;

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// So long after the last time; whole seconds, at least one.
    Every(SignedDuration),
    /// At these times.
    At(Fields),
}

/// The values of each field as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both kinds of days are restricted.
    either_day: bool,
}

impl Schedule {
    /// Reads a schedule without a time zone in it.
    ///
    /// # Errors
    /// What is wrong with it, in the words of the library that Kubernetes uses.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        parse::schedule(text)
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(length) => whole_seconds(after).checked_add(*length).ok(),
            Schedule::At(fields) => fields.search(minute_after(after)?, zone, Direction::Forward),
        }
    }

    /// The last time until `until`, but after `after`.
    pub fn latest(&self, after: Timestamp, until: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let found = match self {
            Schedule::Every(length) => {
                let after = whole_seconds(after);
                let passed = until.duration_since(after).as_secs();
                let times = passed.checked_div(length.as_secs()).filter(|times| *times > 0)?;
                after.checked_add(SignedDuration::from_secs(length.as_secs() * times)).ok()
            }
            Schedule::At(fields) => {
                let minute = until.as_second().div_euclid(60) * 60;
                fields.search(Timestamp::from_second(minute).ok()?, zone, Direction::Back)
            }
        };
        found.filter(|found| *found > after)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Back,
}

impl Fields {
    /// The nearest time from `start`, a whole minute, on.
    fn search(&self, start: Timestamp, zone: &TimeZone, direction: Direction) -> Option<Timestamp> {
        if [self.minutes, self.hours, self.days | self.weekdays, self.months].contains(&0) {
            // A field of commas alone: the server lets it through, and it never comes.
            return None;
        }
        let mut day = zone.to_datetime(start).date();
        for _ in 0..HORIZON_DAYS {
            if self.has_day(day)
                && let Some(found) = self.search_day(day, start, zone, direction)
            {
                return Some(found);
            }
            day = match direction {
                Direction::Forward => day.tomorrow().ok()?,
                Direction::Back => day.yesterday().ok()?,
            };
        }
        None
    }

    /// The same within a day, minute for minute, because clocks may go forward or back in it.
    fn search_day(
        &self,
        day: Date,
        start: Timestamp,
        zone: &TimeZone,
        direction: Direction,
    ) -> Option<Timestamp> {
        let begin = day.to_zoned(zone.clone()).ok()?.timestamp().as_second();
        let end = day.tomorrow().ok()?.to_zoned(zone.clone()).ok()?.timestamp().as_second() - 60;
        let start = start.as_second();
        let matches = |second: &i64| {
            let Ok(time) = Timestamp::from_second(*second) else { return false };
            let local = zone.to_datetime(time);
            has(self.hours, local.hour()) && has(self.minutes, local.minute())
        };
        let found = match direction {
            Direction::Forward => {
                let first = begin.max(start);
                (0..).map(|minute| first + minute * 60).take_while(|second| *second <= end).find(matches)
            }
            Direction::Back => {
                let last = end.min(start);
                (0..).map(|minute| last - minute * 60).take_while(|second| *second >= begin).find(matches)
            }
        };
        Timestamp::from_second(found?).ok()
    }

    fn has_day(&self, day: Date) -> bool {
        let in_month = has(self.days, day.day());
        let in_week = has(self.weekdays, day.weekday().to_sunday_zero_offset());
        let day_matches = if self.either_day { in_month || in_week } else { in_month && in_week };
        has(self.months, day.month()) && day_matches
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn minute_after(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second((time.as_second().div_euclid(60) + 1) * 60).ok()
}
