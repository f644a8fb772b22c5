//! How a pod wants its `wasi:http` handlers served: the declared port, and annotations.

use std::time::Duration;

use coracle_api::duration;
use coracle_runtime::{CONCURRENCY_MAX, HttpConfig};
use k8s_openapi::api::core::v1::{Container, Pod};

/// How many requests one instance answers.
const REUSE: &str = "coracle.dev/http-reuse";
/// How many instances there may be at one time.
const CONCURRENCY: &str = "coracle.dev/http-concurrency";
/// How long an instance may take to begin its answer.
const TIMEOUT: &str = "coracle.dev/http-timeout";

/// More would be as good as for ever.
const REUSE_MAX: u32 = 1_000_000;
/// Nothing answers in less.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Longer than a day is as good as for ever, too.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How to serve the container, if it is a handler.
pub(crate) fn config(pod: &Pod, container: &Container) -> Result<HttpConfig, String> {
    let mut config = HttpConfig::default();
    let mut ports = container.ports.iter().flatten();
    let tcp = ports.find(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    if let Some(port) = tcp.and_then(|port| u16::try_from(port.container_port).ok()) {
        config.port = port;
    }
    let annotations = pod.metadata.annotations.as_ref();
    let value = |name: &str| annotations.and_then(|annotations| annotations.get(name)).map(String::as_str);
    if let Some(text) = value(REUSE) {
        config.reuse = number(REUSE, text, REUSE_MAX)?;
    }
    if let Some(text) = value(CONCURRENCY) {
        let most = u32::try_from(CONCURRENCY_MAX).unwrap_or(u32::MAX);
        config.concurrency = number(CONCURRENCY, text, most)? as usize;
    }
    if let Some(text) = value(TIMEOUT) {
        let nanos = duration::parse(text).ok().and_then(|nanos| u64::try_from(nanos).ok());
        let valid = nanos.map(Duration::from_nanos).filter(|time| (TIMEOUT_MIN..=TIMEOUT_MAX).contains(time));
        config.timeout =
            valid.ok_or_else(|| invalid(TIMEOUT, text, "must be a duration from 1ms to 24h, such as 30s"))?;
    }
    Ok(config)
}

fn number(name: &str, text: &str, most: u32) -> Result<u32, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (1..=most).contains(number));
    number.ok_or_else(|| invalid(name, text, &format!("must be a whole number from 1 to {most}")))
}

fn invalid(name: &str, text: &str, why: &str) -> String {
    format!("annotation {name}: Invalid value: {text:?}: {why}")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerPort;

    use super::*;

    #[track_caller]
    fn check(
        annotations: &[(&str, &str)],
        ports: &[(i32, Option<&str>)],
        expected: Result<HttpConfig, &str>,
    ) {
        let mut pod = Pod::default();
        let owned = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        pod.metadata.annotations = Some(owned.collect());
        let port = |(port, protocol): &(i32, Option<&str>)| ContainerPort {
            container_port: *port,
            protocol: protocol.map(str::to_owned),
            ..ContainerPort::default()
        };
        let container = Container { ports: Some(ports.iter().map(port).collect()), ..Container::default() };
        assert_eq!(config(&pod, &container), expected.map_err(str::to_owned));
    }

    #[test]
    fn annotations_and_ports_say_how() {
        let usual = HttpConfig::default();
        check(&[], &[], Ok(usual));
        check(&[("other", "x")], &[(80, None), (81, None)], Ok(HttpConfig { port: 80, ..usual }));
        check(&[], &[(53, Some("UDP")), (81, Some("TCP"))], Ok(HttpConfig { port: 81, ..usual }));
        check(&[(REUSE, "100")], &[], Ok(HttpConfig { reuse: 100, ..usual }));
        check(&[(CONCURRENCY, "1000")], &[], Ok(HttpConfig { concurrency: 1000, ..usual }));
        let seconds = |timeout| Ok(HttpConfig { timeout, ..usual });
        check(&[(TIMEOUT, "1h1m1s1ms")], &[], seconds(Duration::from_millis(3_661_001)));
        for text in ["0", "-1", "+1", "1.5", "x", "", "1000001"] {
            let expected = format!(
                "annotation coracle.dev/http-reuse: Invalid value: {text:?}: must be a whole number from 1 to 1000000"
            );
            check(&[(REUSE, text)], &[], Err(&expected));
        }
        let expected = "annotation coracle.dev/http-concurrency: Invalid value: \"1001\": must be a whole number from 1 to 1000";
        check(&[(CONCURRENCY, "1001")], &[], Err(expected));
        check(&[(TIMEOUT, "1.5s")], &[], seconds(Duration::from_millis(1_500)));
        for text in ["", "30", "s", "1d", "0s", "999us", "25h", "-1s", "99999999999999999999s"] {
            let expected = format!(
                "annotation coracle.dev/http-timeout: Invalid value: {text:?}: must be a duration from 1ms to 24h, such as 30s"
            );
            check(&[(TIMEOUT, text)], &[], Err(&expected));
        }
    }
}
