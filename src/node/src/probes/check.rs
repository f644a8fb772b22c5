//! One check: over the pod's network, as the kubelet makes it, with its words for what went wrong.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use coracle_network::{Fabric, Stream};
use http::{HeaderValue, Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// What the guest sees as the caller: programs know the kubelet's probes by it.
const USER_AGENT: &str = concat!("kube-probe/", "1.33");

/// What is looked at.
#[derive(Clone, Debug)]
pub(super) enum Check {
    Http {
        address: SocketAddr,
        url: String,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp(SocketAddr),
    /// A check that can never succeed, and why.
    Impossible(String),
}

impl Check {
    /// The check of a probe on a pod with this address.
    pub(super) fn of(probe: &Probe, container: &Container, ip: IpAddr) -> Check {
        if let Some(action) = &probe.http_get {
            return http(action, container, ip);
        }
        if let Some(action) = &probe.tcp_socket {
            return match (host(action.host.as_deref(), ip), port(&action.port, container)) {
                (Ok(ip), Ok(port)) => Check::Tcp(SocketAddr::new(ip, port)),
                (Err(problem), _) | (_, Err(problem)) => Check::Impossible(problem),
            };
        }
        let kind = if probe.exec.is_some() {
            "exec"
        } else if probe.grpc.is_some() {
            "gRPC"
        } else {
            return Check::Impossible("no probe handler is given".into());
        };
        Check::Impossible(format!("{kind} probes are not supported by this node"))
    }

    /// Makes the check; the error is the text of the event.
    pub(super) async fn make(&self, fabric: &Arc<Fabric>, timeout: Duration) -> Result<(), String> {
        match self {
            Check::Impossible(problem) => Err(problem.clone()),
            Check::Tcp(address) => match tokio::time::timeout(timeout, fabric.connect(*address)).await {
                Ok(Ok(_stream)) => Ok(()),
                Ok(Err(error)) => Err(format!("dial tcp {address}: {}", dial_problem(&error))),
                Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
            },
            Check::Http { address, url, path, headers } => {
                match tokio::time::timeout(timeout, get(fabric, *address, path, headers)).await {
                    Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
                    Ok(Ok(status)) => Err(format!("HTTP probe failed with statuscode: {status}")),
                    Ok(Err(problem)) => Err(format!("Get \"{url}\": {problem}")),
                    Err(_) => Err(format!(
                        "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                    )),
                }
            }
        }
    }
}

fn http(action: &HTTPGetAction, container: &Container, ip: IpAddr) -> Check {
    if action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        return Check::Impossible("HTTPS probes are not supported by this node".into());
    }
    let (ip, port) = match (host(action.host.as_deref(), ip), port(&action.port, container)) {
        (Ok(ip), Ok(port)) => (ip, port),
        (Err(problem), _) | (_, Err(problem)) => return Check::Impossible(problem),
    };
    let address = SocketAddr::new(ip, port);
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let headers = action.http_headers.iter().flatten();
    Check::Http {
        address,
        url: format!("http://{address}{path}"),
        path,
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    }
}

fn host(host: Option<&str>, pod: IpAddr) -> Result<IpAddr, String> {
    match host.filter(|host| !host.is_empty()) {
        None => Ok(pod),
        Some(host) => host.parse().map_err(|_| format!("probe host \"{host}\" is not an IP address")),
    }
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("couldn't find port {port:?} in container {}", container.name))
}

/// One request on a connection of its own; the status code.
async fn get(
    fabric: &Arc<Fabric>,
    address: SocketAddr,
    path: &str,
    headers: &[(String, String)],
) -> Result<u16, String> {
    let mut request = Request::get(path)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close");
    let named_host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = named_host.map_or_else(|| address.to_string(), |(_, value)| value.clone());
    request = request.header(header::HOST, host);
    for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        if let Ok(value) = HeaderValue::from_str(value) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|error| error.to_string())?;
    let stream: Stream = fabric
        .connect(address)
        .await
        .map_err(|error| format!("dial tcp {address}: {}", dial_problem(&error)))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::pin!(connection);
    let response = sender.send_request(request);
    tokio::pin!(response);
    let mut driving = true;
    loop {
        tokio::select! {
            // The connection carries the bytes; its end is seen by the response as well.
            _ = &mut connection, if driving => driving = false,
            answer = &mut response => {
                return answer.map(|answer| answer.status().as_u16()).map_err(|error| exchange_problem(&error));
            }
        }
    }
}

fn exchange_problem(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".into() } else { crate::images::chain(error) }
}

fn dial_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::ConnectionReset => "connect: connection reset by peer".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string(),
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
            Check::Http { url, .. } => url,
            Check::Tcp(address) => format!("tcp://{address}"),
            Check::Impossible(problem) => problem,
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_looked_at() {
        check(&json!({"httpGet": {"port": 80}}), "http://10.128.0.2:80/");
        check(&json!({"httpGet": {"port": "web", "path": "healthz"}}), "http://10.128.0.2:8080/healthz");
        check(&json!({"tcpSocket": {"port": "web"}}), "tcp://10.128.0.2:8080");
        check(&json!({"tcpSocket": {"port": 1, "host": "10.0.0.9"}}), "tcp://10.0.0.9:1");
        check(&json!({"tcpSocket": {"port": "x"}}), "couldn't find port String(\"x\") in container c");
        check(&json!({"exec": {"command": ["x"]}}), "exec probes are not supported by this node");
        check(
            &json!({"httpGet": {"port": 80, "scheme": "HTTPS"}}),
            "HTTPS probes are not supported by this node",
        );
    }
}
