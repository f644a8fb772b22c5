//! Cron schedules as Kubernetes reads them: five fields with names, lists, ranges and steps, `?` for `*`,
//! `@hourly` and its like, and `@every 90m`.
//!
//! Times are the ones that a clock on the wall shows in the schedule's zone: a time that is skipped when
//! clocks go forward does not come, one that is repeated when they go back comes twice. If both the day of
//! the month and the day of the week are restricted, either will do. The general libraries differ in these
//! points, and in what they accept; the rules here are those of the one that Kubernetes uses.

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

/// A schedule whose next time is further away never comes.
const HORIZON_DAYS: i32 = 5 * 366;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// So long after the last time.
    Every(SignedDuration),
    /// At these times.
    At(Fields),
}

/// The values of each field as bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both kinds of days are restricted.
    either_day: bool,
}

/// The values that a field may have.
struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it. The server says it better, and earlier.
    pub(super) fn parse(text: &str) -> Result<Schedule, String> {
        if let Some(length) = text.strip_prefix("@every ") {
            let length = duration(length).ok_or_else(|| format!("failed to parse duration {text}"))?;
            return Ok(Schedule::Every(length.max(SignedDuration::from_secs(1))));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        let read = |text, low, high, names| {
            field(text, &Bounds { low, high, names }).ok_or_else(|| format!("failed to parse {text}"))
        };
        let (days, any_day) = read(days, 1, 31, &[])?;
        let (weekdays, any_weekday) = read(weekdays, 0, 6, &WEEKDAYS)?;
        Ok(Schedule::At(Fields {
            minutes: read(minutes, 0, 59, &[])?.0,
            hours: read(hours, 0, 23, &[])?.0,
            days,
            months: read(months, 1, 12, &MONTHS)?.0,
            weekdays,
            either_day: !any_day && !any_weekday,
        }))
    }

    /// The first time after `after`.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(length) => whole_seconds(after).checked_add(*length).ok(),
            Schedule::At(fields) => fields.search(minute_after(after)?, zone, Direction::Forward),
        }
    }

    /// The last time until `until`, but after `after`.
    pub(super) fn latest(&self, after: Timestamp, until: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
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

/// The bits of a field, and whether it restricts nothing.
fn field(text: &str, bounds: &Bounds) -> Option<(u64, bool)> {
    let mut bits = 0;
    let mut any = false;
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (ends, step) = match range.split_once('/') {
            Some((ends, step)) => (ends, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
            None => (range, None),
        };
        let (low, high) = if matches!(ends, "*" | "?") {
            any |= step.is_none_or(|step| step == 1);
            (bounds.low, bounds.high)
        } else if let Some((low, high)) = ends.split_once('-') {
            (value(low, bounds)?, value(high, bounds)?)
        } else {
            let low = value(ends, bounds)?;
            (low, if step.is_some() { bounds.high } else { low })
        };
        if low < bounds.low || high > bounds.high || low > high {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        bits |= (low..=high).step_by(step).fold(0, |bits, value| bits | (1_u64 << value));
    }
    Some((bits, any))
}

fn value(text: &str, bounds: &Bounds) -> Option<u32> {
    match bounds.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        Some(at) => Some(bounds.low + u32::try_from(at).ok()?),
        None => text.parse().ok(),
    }
}

/// A duration as Go writes it, in whole seconds: `1h30m`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut seconds = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    // A hundred years are enough for everyone.
    (0.0..=3.2e9).contains(&seconds).then(|| SignedDuration::from_secs(seconds as i64))
}
