//! What of a log is asked for, as the query string of the kubelet's `containerLogs` says it. Pure.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::format::StreamName;

/// The query string.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LogQuery {
    follow: Option<String>,
    previous: Option<String>,
    timestamps: Option<String>,
    tail_lines: Option<String>,
    since_seconds: Option<String>,
    since_time: Option<String>,
    limit_bytes: Option<String>,
    stream: Option<String>,
}

/// What of a log is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    /// Only this many newest entries.
    pub(crate) tail: Option<u64>,
    /// Only entries that are not older.
    pub(crate) since: Option<Timestamp>,
    /// At most so many bytes of output.
    pub(crate) limit: Option<u64>,
    /// Only what went to this output.
    pub(crate) stream: Option<StreamName>,
}

impl LogOptions {
    /// Reads a query; the error names the parameter.
    pub(crate) fn parse(query: LogQuery, now: Timestamp) -> Result<LogOptions, String> {
        let since_seconds: Option<u64> = number("sinceSeconds", query.since_seconds)?;
        let since_time = match query.since_time.filter(|text| !text.is_empty()) {
            Some(text) => {
                Some(text.parse::<Timestamp>().map_err(|_| format!("invalid sinceTime: \"{text}\""))?)
            }
            None => None,
        };
        let since = match (since_seconds, since_time) {
            (Some(_), Some(_)) => {
                return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".into());
            }
            (Some(seconds), None) => {
                Some(now.checked_sub(Duration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
            }
            (None, since) => since,
        };
        Ok(LogOptions {
            follow: boolean("follow", query.follow.as_deref())?,
            previous: boolean("previous", query.previous.as_deref())?,
            timestamps: boolean("timestamps", query.timestamps.as_deref())?,
            tail: number("tailLines", query.tail_lines)?,
            since,
            limit: number("limitBytes", query.limit_bytes)?,
            stream: match query.stream.as_deref() {
                None | Some("" | "All") => None,
                Some("Stdout") => Some(StreamName::Stdout),
                Some("Stderr") => Some(StreamName::Stderr),
                Some(other) => return Err(format!("invalid stream: \"{other}\"")),
            },
        })
    }
}

fn boolean(name: &str, text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("false" | "0" | "f" | "F" | "False" | "FALSE") => Ok(false),
        Some("" | "true" | "1" | "t" | "T" | "True" | "TRUE") => Ok(true),
        Some(other) => Err(format!("invalid {name}: \"{other}\"")),
    }
}

fn number(name: &str, text: Option<String>) -> Result<Option<u64>, String> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| format!("invalid {name}: \"{text}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<LogOptions, String> {
        let map: serde_json::Map<_, _> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), serde_json::Value::from(*value))).collect();
        let query = serde_json::from_value(serde_json::Value::Object(map)).unwrap();
        LogOptions::parse(query, "2025-01-01T00:01:00Z".parse().unwrap())
    }

    #[test]
    fn queries_are_read() {
        assert_eq!(parse(&[]).unwrap(), LogOptions::default());
        let options =
            parse(&[("follow", "true"), ("tailLines", "5"), ("sinceSeconds", "60"), ("stream", "Stderr")])
                .unwrap();
        assert!(options.follow && !options.previous);
        assert_eq!(options.stream, Some(StreamName::Stderr));
        assert_eq!(options.tail, Some(5));
        assert_eq!(options.since, Some("2025-01-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_named() {
        for (pairs, message) in [
            (vec![("tailLines", "-1")], "invalid tailLines: \"-1\""),
            (vec![("follow", "yes")], "invalid follow: \"yes\""),
            (vec![("stream", "stdout")], "invalid stream: \"stdout\""),
            (vec![("sinceTime", "noon")], "invalid sinceTime: \"noon\""),
            (
                vec![("sinceTime", "2025-01-01T00:00:00Z"), ("sinceSeconds", "1")],
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
        ] {
            assert_eq!(parse(&pairs).unwrap_err(), message);
        }
    }
}
