//! One check, as the kubelet makes it, with its words for what went wrong.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use coracle_network::Fabric;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::time::{Instant, timeout_at};

use super::{
    Commands, Target,
    address::Destination,
    grpc,
    http_get::{Answer, Asked, HttpRequest},
};
use crate::backoff::go_duration;

/// What the guest sees as the caller: programs know the kubelet's probes by it.
pub(super) const USER_AGENT: &str = "kube-probe/1.33";

/// What is looked at.
#[derive(Clone, Debug)]
pub(super) enum Check {
    Http(Arc<HttpRequest>),
    Tcp(Destination),
    Grpc {
        address: SocketAddr,
        service: Box<str>,
    },
    Exec(Arc<[String]>),
    /// A check that cannot be made, and why.
    Impossible(Box<str>),
}

/// What a check found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// Well, but users should hear of it.
    Warning(String),
    Failure(String),
    /// It could not be made: that says nothing about the container.
    Error(String),
}

/// How far a check has come.
pub(super) enum Step {
    Asked(Arc<HttpRequest>, Asked),
    Over(Outcome),
}

impl Step {
    /// Reads the answer if there is one to come.
    pub(super) async fn outcome(self, fabric: &Arc<Fabric>, time: Time) -> Outcome {
        let (request, asked) = match self {
            Step::Asked(request, asked) => (request, asked),
            Step::Over(outcome) => return outcome,
        };
        match timeout_at(time.deadline, request.answer(fabric, asked)).await {
            Ok(Ok(answer)) => verdict(&answer),
            Ok(Err(problem)) => failed(&request, &problem),
            Err(_) => late(&request),
        }
    }
}

/// The time that a check has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    allowed: Duration,
    deadline: Instant,
}

impl Time {
    pub(super) fn starts(now: Instant, allowed: Duration) -> Time {
        Time { allowed, deadline: now + allowed }
    }
}

impl Check {
    /// The check of a probe on a pod with this address.
    pub(super) fn of(probe: &Probe, container: &Container, ip: IpAddr) -> Check {
        Check::try_of(probe, container, ip).unwrap_or_else(|problem| Check::Impossible(problem.into()))
    }

    fn try_of(probe: &Probe, container: &Container, ip: IpAddr) -> Result<Check, String> {
        if let Some(action) = &probe.exec {
            return Ok(Check::Exec(action.command.as_deref().unwrap_or_default().into()));
        }
        if let Some(action) = &probe.http_get {
            return HttpRequest::of(action, container, ip, USER_AGENT).map(Arc::new).map(Check::Http);
        }
        if let Some(action) = &probe.tcp_socket {
            let to = Destination::of(action.host.as_deref(), &action.port, container, ip)?;
            return Ok(Check::Tcp(to));
        }
        if let Some(action) = &probe.grpc {
            let port =
                u16::try_from(action.port).map_err(|_| format!("invalid port number: {}", action.port))?;
            let service = action.service.as_deref().unwrap_or_default().into();
            return Ok(Check::Grpc { address: SocketAddr::new(ip, port), service });
        }
        Err(format!("missing probe handler for {}", container.name))
    }

    /// True if the check costs so little that it can be made every few milliseconds.
    pub(super) fn is_cheap(&self) -> bool {
        matches!(self, Check::Http(_) | Check::Tcp(_))
    }

    /// Makes the check, but for the answer over HTTP.
    pub(super) async fn begin(
        &self,
        target: &Target,
        fabric: &Arc<Fabric>,
        commands: &Commands,
        time: Time,
    ) -> Step {
        Step::Over(match self {
            Check::Impossible(problem) => Outcome::Error(problem.to_string()),
            Check::Tcp(to) => match timeout_at(time.deadline, to.dial(fabric)).await {
                Ok(Ok(_stream)) => Outcome::Success,
                Ok(Err(problem)) => Outcome::Failure(problem),
                Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", to.address)),
            },
            Check::Http(request) => match timeout_at(time.deadline, request.ask(fabric)).await {
                Ok(Ok(asked)) => return Step::Asked(request.clone(), asked),
                Ok(Err(problem)) => failed(request, &problem),
                Err(_) => late(request),
            },
            Check::Grpc { address, service } => {
                match Box::pin(grpc::check(fabric, *address, service, time.allowed)).await {
                    Ok(()) => Outcome::Success,
                    Err(problem) => Outcome::Failure(problem),
                }
            }
            Check::Exec(argv) => exec(target, commands, argv, time).await,
        })
    }
}

fn verdict(answer: &Answer) -> Outcome {
    match answer.status {
        200..300 => Outcome::Success,
        300..400 => Outcome::Warning(format!(
            "Probe terminated redirects, Response body: {}",
            String::from_utf8_lossy(&answer.body)
        )),
        status => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

fn failed(request: &HttpRequest, problem: &str) -> Outcome {
    Outcome::Failure(format!("Get \"{}\": {problem}", request.url()))
}

fn late(request: &HttpRequest) -> Outcome {
    failed(request, "context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
}

async fn exec(target: &Target, commands: &Commands, argv: &Arc<[String]>, time: Time) -> Outcome {
    match timeout_at(time.deadline, commands(target, argv.to_vec())).await {
        Ok(Ok(end)) if end.code == 0 => Outcome::Success,
        Ok(Ok(end)) => Outcome::Failure(end.output),
        Ok(Err(problem)) => Outcome::Error(format!("rpc error: code = Unknown desc = {problem}")),
        Err(_) => {
            let (command, timeout) = (argv.join(" "), go_duration(time.allowed));
            Outcome::Failure(format!("command timed out: {command:?} timed out after {timeout}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(probe: &Value, expected: &str) {
        let probe = serde_json::from_value(probe.clone()).unwrap();
        let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container = serde_json::from_value(container).unwrap();
        let text = match Check::of(&probe, &container, "10.128.0.2".parse().unwrap()) {
            Check::Http(request) => request.url(),
            Check::Tcp(to) => format!("tcp://{}", to.address),
            Check::Grpc { address, service } => format!("grpc://{address}/{service}"),
            Check::Exec(argv) => argv.join(" "),
            Check::Impossible(problem) => problem.into(),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_looked_at() {
        check(&json!({"httpGet": {"port": 80}}), "http://10.128.0.2:80/");
        check(&json!({"httpGet": {"port": "web", "path": "healthz"}}), "http://10.128.0.2:8080/healthz");
        check(&json!({"httpGet": {"port": 443, "scheme": "HTTPS"}}), "https://10.128.0.2:443/");
        check(&json!({"tcpSocket": {"port": "web"}}), "tcp://10.128.0.2:8080");
        check(&json!({"tcpSocket": {"port": 1, "host": "10.0.0.9"}}), "tcp://10.0.0.9:1");
        check(&json!({"tcpSocket": {"port": 1, "host": "localhost"}}), "tcp://127.0.0.1:1");
        check(&json!({"tcpSocket": {"port": 1, "host": "web"}}), "probe host \"web\" is not an IP address");
        check(&json!({"tcpSocket": {"port": "x"}}), "invalid port number: -1");
        check(&json!({"exec": {"command": ["cat", "/x"]}}), "cat /x");
        check(&json!({"grpc": {"port": 9000, "service": "s"}}), "grpc://10.128.0.2:9000/s");
        check(&json!({}), "missing probe handler for c");
    }
}
