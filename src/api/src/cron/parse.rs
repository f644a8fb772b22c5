//! The syntax of cron schedules, and what is wrong with one.

use jiff::SignedDuration;

use super::{Fields, Schedule};
use crate::{duration, quote::Quoted};

/// The values that a field may have, and names for some of them, from the lowest on.
struct Bounds {
    low: u64,
    high: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { low: 0, high: 59, names: &[] };
const HOURS: Bounds = Bounds { low: 0, high: 23, names: &[] };
const DAYS: Bounds = Bounds { low: 1, high: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds =
    Bounds { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// The values of a field.
#[derive(Default)]
struct Field {
    bits: u64,
    /// It restricts nothing.
    any: bool,
}

pub(super) fn schedule(text: &str) -> Result<Schedule, String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        descriptor if descriptor.starts_with('@') => return every(descriptor),
        fields => fields,
    };
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = fields[..] else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    let (minutes, hours) = (field(minutes, &MINUTES)?, field(hours, &HOURS)?);
    let (days, months) = (field(days, &DAYS)?, field(months, &MONTHS)?);
    let weekdays = field(weekdays, &WEEKDAYS)?;
    Ok(Schedule::At(Fields {
        minutes: minutes.bits,
        hours: hours.bits,
        days: days.bits,
        months: months.bits,
        weekdays: weekdays.bits,
        either_day: !days.any && !weekdays.any,
    }))
}

/// `@every 1h30m`. Less than a second, and less than nothing, is a second.
fn every(descriptor: &str) -> Result<Schedule, String> {
    let Some(length) = descriptor.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {descriptor}"));
    };
    let length =
        duration::parse(length).map_err(|why| format!("failed to parse duration {descriptor}: {why}"))?;
    Ok(Schedule::Every(SignedDuration::from_secs((length / 1_000_000_000).max(1))))
}

fn field(text: &str, bounds: &Bounds) -> Result<Field, String> {
    let mut all = Field::default();
    for text in text.split(',').filter(|range| !range.is_empty()) {
        let one = range(text, bounds)?;
        all.bits |= one.bits;
        all.any |= one.any;
    }
    Ok(all)
}

/// `*`, `5`, `1-5`, any of them with `/2`.
fn range(range: &str, bounds: &Bounds) -> Result<Field, String> {
    let parts: Vec<&str> = range.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let any = matches!(ends[0], "*" | "?");
    let (start, mut end) = if any {
        (bounds.low, bounds.high)
    } else {
        let start = value(ends[0], bounds)?;
        match ends[..] {
            [_] => (start, start),
            [_, end] => (start, value(end, bounds)?),
            _ => return Err(format!("too many hyphens: {range}")),
        }
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = bounds.high;
            }
            step
        }
        _ => return Err(format!("too many slashes: {range}")),
    };
    if start < bounds.low {
        return Err(format!("beginning of range ({start}) below minimum ({}): {range}", bounds.low));
    }
    if end > bounds.high {
        return Err(format!("end of range ({end}) above maximum ({}): {range}", bounds.high));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {range}"));
    }
    let steps = usize::try_from(step).unwrap_or(usize::MAX);
    let bits = (start..=end).step_by(steps).fold(0, |bits, value| bits | (1_u64 << value));
    Ok(Field { bits, any: any && step == 1 })
}

fn value(text: &str, bounds: &Bounds) -> Result<u64, String> {
    match (bounds.low..).zip(bounds.names).find(|(_, name)| text.eq_ignore_ascii_case(name)) {
        Some((value, _)) => Ok(value),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    match text.parse::<i64>() {
        Ok(number) => {
            u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
        }
        Err(error) => {
            let why = match error.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {}: {why}", Quoted(text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        #[track_caller]
        fn check(schedule: &str, want: Result<(), &str>) {
            assert_eq!(super::schedule(schedule).map(drop), want.map_err(str::to_owned), "{schedule}");
        }
        check("* * * * *", Ok(()));
        check("*/5 0-6,12 1 jan-MAR mon", Ok(()));
        check("5/15 ? * * 0", Ok(()));
        check("@daily", Ok(()));
        check("@every 1h30m", Ok(()));
        check("@every 1.5s", Ok(()));
        check("@every -5s", Ok(()));
        check("* * * *", Err("expected exactly 5 fields, found 4: [* * * *]"));
        check("@fortnightly", Err("unrecognized descriptor: @fortnightly"));
        check("@every soon", Err("failed to parse duration @every soon: time: invalid duration \"soon\""));
        check("@every 5", Err("failed to parse duration @every 5: time: missing unit in duration \"5\""));
        check(
            "@every 5d",
            Err("failed to parse duration @every 5d: time: unknown unit \"d\" in duration \"5d\""),
        );
        check("60 * * * *", Err("end of range (60) above maximum (59): 60"));
        check("* * 0 * *", Err("beginning of range (0) below minimum (1): 0"));
        check("5-1 * * * *", Err("beginning of range (5) beyond end of range (1): 5-1"));
        check("*/0 * * * *", Err("step of range should be a positive number: */0"));
        check("1-2-3 * * * *", Err("too many hyphens: 1-2-3"));
        check("1/2/3 * * * *", Err("too many slashes: 1/2/3"));
        check(
            "\u{1} * * * *",
            Err("failed to parse int from \u{1}: strconv.Atoi: parsing \"\\x01\": invalid syntax"),
        );
        check("x * * * *", Err("failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"));
        check(
            "99999999999999999999 * * * *",
            Err("failed to parse int from 99999999999999999999: strconv.Atoi: parsing \
                 \"99999999999999999999\": value out of range"),
        );
    }

    /// What the API lets through is what the controller goes by.
    #[test]
    fn lengths_are_whole_seconds_and_at_least_one() {
        #[track_caller]
        fn check(text: &str, seconds: i64) {
            assert_eq!(schedule(text), Ok(Schedule::Every(SignedDuration::from_secs(seconds))), "{text}");
        }
        check("@every 1h30m", 5400);
        check("@every 1.9s", 1);
        check("@every 0", 1);
        check("@every 10ms", 1);
        check("@every -5s", 1);
    }
}
