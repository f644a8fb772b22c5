//! Durations as Go reads and Kubernetes writes them: `1h30m`, `1.5s`, `-5ms`.

use crate::quote::Quoted;

/// Units and their nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration, in nanoseconds.
///
/// # Errors
/// What is wrong with it, in Go's words. More than 292 years are too much.
pub fn parse(text: &str) -> Result<i64, String> {
    let wrong = || format!("time: invalid duration {}", Quoted(text));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut sum: u64 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(wrong());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        if name.is_empty() {
            return Err(format!("time: missing unit in duration {}", Quoted(text)));
        }
        let Some((_, unit)) = UNITS.iter().find(|(unit, _)| *unit == name) else {
            return Err(format!("time: unknown unit {} in duration {}", Quoted(name), Quoted(text)));
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
        let part = whole.checked_mul(*unit).and_then(|part| part.checked_add(part_of(fraction, *unit)));
        sum = part.and_then(|part| sum.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    let sum = if negative { 0_i128 - i128::from(sum) } else { i128::from(sum) };
    i64::try_from(sum).map_err(|_| wrong())
}

/// As many of the unit's nanoseconds as the digits after the point say.
fn part_of(fraction: &str, unit: u64) -> u64 {
    let mut scale = unit;
    let mut sum = 0;
    for digit in fraction.bytes() {
        // The largest unit has thirteen digits: what follows them is less than a nanosecond.
        let exact = scale * u64::from(digit - b'0');
        sum += exact / 10;
        scale /= 10;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        #[track_caller]
        fn check(text: &str, want: Result<i64, &str>) {
            assert_eq!(parse(text), want.map_err(str::to_owned), "{text}");
        }
        check("0", Ok(0));
        check("5s", Ok(5_000_000_000));
        check("-5s", Ok(-5_000_000_000));
        check("+1h30m", Ok(5_400_000_000_000));
        check("1.5s", Ok(1_500_000_000));
        check(".25h", Ok(900_000_000_000));
        check("1.h", Ok(3_600_000_000_000));
        check("3µs4ns", Ok(3_004));
        check("9223372036854775807ns", Ok(i64::MAX));
        check("-9223372036854775808ns", Ok(i64::MIN));
        for wrong in ["", "-", "soon", ".s", "9223372036854775808ns", "3000000h", "99999999999999999999s"] {
            check(wrong, Err(&format!("time: invalid duration {wrong:?}")));
        }
        check("5", Err("time: missing unit in duration \"5\""));
        check("5d", Err("time: unknown unit \"d\" in duration \"5d\""));
        check("1.5.5s", Err("time: missing unit in duration \"1.5.5s\""));
    }
}
