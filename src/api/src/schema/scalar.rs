//! Scalars that JSON carries as text: times, durations, base64. Each check turns the text into the form
//! that Kubernetes would write, and fails in the words of Go's parsers.

use jiff::{Timestamp, fmt::temporal::DateTimeParser, tz::Offset};

use crate::quote::Quoted;

/// RFC 3339 to UTC with whole seconds.
pub(super) fn time(text: &str) -> Result<Option<String>, String> {
    if is_canonical(text, 20) {
        return Ok(None);
    }
    let time = parse(text, "2006-01-02T15:04:05Z07:00")?;
    Ok(Some(Offset::UTC.to_datetime(time).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

/// RFC 3339 to UTC with six digits of fraction.
pub(super) fn micro_time(text: &str) -> Result<Option<String>, String> {
    if text.as_bytes().get(19) == Some(&b'.') && is_canonical(text, 27) {
        return Ok(None);
    }
    let time = parse(text, "2006-01-02T15:04:05.000000Z07:00")?;
    Ok(Some(Offset::UTC.to_datetime(time).strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()))
}

/// A time of that length that ends in `Z` and that jiff can read: nothing to change.
fn is_canonical(text: &str, length: usize) -> bool {
    text.len() == length
        && text.as_bytes().get(10) == Some(&b'T')
        && text.ends_with('Z')
        && read(text).is_some()
}

fn read(text: &str) -> Option<Timestamp> {
    // RFC 3339 only: jiff also reads other ISO 8601 forms, which Go refuses.
    let shape = b"0000-00-00T00:00:00";
    let bytes = text.as_bytes();
    let plain = bytes.len() > shape.len()
        && bytes.iter().zip(shape).all(
            |(&byte, &want)| {
                if want == b'0' { byte.is_ascii_digit() } else { byte == want }
            },
        );
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let zoned = zone == "Z" || (zone.len() == 6 && zone.as_bytes()[3] == b':');
    if !(plain && zoned) {
        return None;
    }
    static PARSER: DateTimeParser = DateTimeParser::new();
    PARSER.parse_timestamp(text).ok()
}

fn parse(text: &str, layout: &str) -> Result<Timestamp, String> {
    read(text).ok_or_else(|| {
        let (rest, element) = stuck(text);
        format!(
            "parsing time {} as {}: cannot parse {} as {}",
            Quoted(text),
            Quoted(layout),
            Quoted(rest),
            Quoted(element)
        )
    })
}

/// Where Go's parser would stop: the rest of the text, and the element of the layout that it does not fit.
fn stuck(text: &str) -> (&str, &'static str) {
    const ELEMENTS: &[(&str, usize)] = &[
        ("2006", 4),
        ("-", 0),
        ("01", 2),
        ("-", 0),
        ("02", 2),
        ("T", 0),
        ("15", 2),
        (":", 0),
        ("04", 2),
        (":", 0),
        ("05", 2),
    ];
    let mut rest = text;
    for &(element, digits) in ELEMENTS {
        let fits = if digits == 0 {
            rest.starts_with(element)
        } else {
            rest.len() >= digits && rest.as_bytes()[..digits].iter().all(u8::is_ascii_digit)
        };
        if !fits {
            return (rest, element);
        }
        rest = &rest[digits.max(element.len())..];
    }
    (rest, "Z07:00")
}

/// Standard base64 with padding. Line breaks are dropped, as Go does.
pub(super) fn base64(text: &str) -> Result<Option<String>, String> {
    if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n')) {
        let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        return check_base64(text.as_bytes()).map(|()| Some(text));
    }
    check_base64(text.as_bytes()).map(|()| None)
}

fn check_base64(bytes: &[u8]) -> Result<(), String> {
    let wrong = |at: usize| Err(format!("illegal base64 data at input byte {at}"));
    let padding = bytes.iter().rev().take(2).take_while(|&&byte| byte == b'=').count();
    let body = &bytes[..bytes.len() - padding];
    let stray = body.iter().position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')));
    if let Some(at) = stray {
        return wrong(at);
    }
    let lacking = (4 - body.len() % 4) % 4;
    if lacking == 3 {
        // One character left over carries six bits, which is no byte.
        return wrong(if padding > 0 { body.len() } else { body.len() - 1 });
    }
    if padding < lacking {
        return wrong(if padding > 0 { bytes.len() } else { body.len() - body.len() % 4 });
    }
    if padding > lacking {
        return wrong(body.len() + lacking);
    }
    Ok(())
}

/// A duration as Go reads it: a sequence of numbers with units.
pub(super) fn duration(text: &str) -> Result<(), String> {
    crate::duration::parse(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: fn(&str) -> Result<Option<String>, String>, text: &str, want: Result<&str, &str>) {
        let got = rule(text).map(|changed| changed.unwrap_or_else(|| text.to_owned()));
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{text:?}");
    }

    #[test]
    fn times_become_utc_seconds() {
        check(time, "2026-01-02T03:04:05Z", Ok("2026-01-02T03:04:05Z"));
        check(time, "2026-01-02T03:04:05.678Z", Ok("2026-01-02T03:04:05Z"));
        check(time, "2026-01-02T03:04:05+02:00", Ok("2026-01-02T01:04:05Z"));
        let layout = r#"as "2006-01-02T15:04:05Z07:00""#;
        let stuck = |text: &str, rest: &str, element: &str| {
            let want = format!("parsing time {text:?} {layout}: cannot parse {rest:?} as {element:?}");
            check(time, text, Err(&want));
        };
        stuck("", "", "2006");
        stuck("soon", "soon", "2006");
        stuck("2026-01-02", "", "T");
        stuck("2026-01-02T03:04:05", "", "Z07:00");
        stuck("2026-01-02 03:04:05Z", " 03:04:05Z", "T");
        stuck("20260102T030405Z", "0102T030405Z", "-");
        assert!(time("2026-13-40T03:04:05Z").is_err());
        assert!(time("ä026-01-02T03:04:05Z").is_err());
        assert!(time("2026-01-02T03:04:05ä0:00").is_err());
    }

    #[test]
    fn micro_times_have_six_digits() {
        check(micro_time, "2026-01-02T03:04:05.678901Z", Ok("2026-01-02T03:04:05.678901Z"));
        check(micro_time, "2026-01-02T03:04:05Z", Ok("2026-01-02T03:04:05.000000Z"));
        check(micro_time, "2026-01-02T03:04:05.1+01:00", Ok("2026-01-02T02:04:05.100000Z"));
    }

    #[test]
    fn base64_is_checked() {
        for good in ["", "QQ==", "QUI=", "QUJD", "QUJDRA=="] {
            check(base64, good, Ok(good));
        }
        check(base64, "QU\nJD\r\n", Ok("QUJD"));
        check(base64, "!", Err("illegal base64 data at input byte 0"));
        check(base64, "QU D", Err("illegal base64 data at input byte 2"));
        check(base64, "QUJDQ", Err("illegal base64 data at input byte 4"));
        check(base64, "QUI", Err("illegal base64 data at input byte 0"));
        check(base64, "Q=", Err("illegal base64 data at input byte 1"));
        check(base64, "QQ=", Err("illegal base64 data at input byte 3"));
        check(base64, "QUI==", Err("illegal base64 data at input byte 4"));
        check(base64, "=", Err("illegal base64 data at input byte 0"));
        check(base64, "a-_b", Err("illegal base64 data at input byte 1"));
    }

    #[test]
    fn durations_are_checked() {
        for good in ["0", "1s", "-1h30m", "1.5s", "3µs"] {
            assert_eq!(duration(good), Ok(()), "{good}");
        }
        for bad in ["5", "1..2s"] {
            assert_eq!(duration(bad), Err(format!("time: missing unit in duration {bad:?}")));
        }
        assert_eq!(duration("1x"), Err("time: unknown unit \"x\" in duration \"1x\"".into()));
        for bad in ["", "s", "."] {
            assert_eq!(duration(bad), Err(format!("time: invalid duration {bad:?}")));
        }
    }
}
