//! `port-forward`: connections to a pod's ports, as pairs of a data and an error stream.
//!
//! Over SPDY (raw, or inside a WebSocket) the client opens a pair for each connection. Over the older WebSocket
//! protocol there is one connection for each port of the query, on two channels each, which begin with the port's
//! number. What is dialled is the pod's own loopback, as everywhere in Kubernetes.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Path, Query, Request, State, ws::WebSocket},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use coracle_network::{NetworkError, PodStack, Stream};
use futures::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use super::{
    Refusal, Upgrade, bad, choose, find, halves,
    spdy::{self, Inbound, Outbound},
    upgrade_spdy, upgrade_websocket,
    websocket::{self, Arrived, Coding},
};
use crate::{context::Context, handle::PodHandle};

/// The protocol inside SPDY.
const PROTOCOL: &str = "portforward.k8s.io";
/// SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Channels in a WebSocket.
const CHANNELS: [&str; 3] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", PROTOCOL];
/// Ports in one query: each takes two of 255 channels.
const PORTS: usize = 100;
/// How long a stream waits for its other half. The kubelet's number.
const PAIRING: Duration = Duration::from_secs(30);
/// How much is read at once.
const READ: usize = 32 << 10;
/// Pieces on their way to one forwarded connection.
const PIECES: usize = 8;

/// Where connections go, and how it is called in errors.
#[derive(Clone)]
struct Target {
    stack: PodStack,
    pod: Arc<str>,
}

/// `/portForward/{namespace}/{pod}`.
pub(super) async fn port_forward(
    State(context): State<Arc<Context>>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let (_, handle) = find(&context, &namespace, &name)?;
    let target = target(&handle).ok_or_else(|| {
        (StatusCode::BAD_REQUEST, format!("unable to do port forwarding: pod \"{name}\" is not running"))
    })?;
    let (parts, upgrade) = Upgrade::of(request).await?;
    Ok(match upgrade {
        Upgrade::Spdy(upgrade, headers) => {
            upgrade_spdy(&context, upgrade, &headers, &[PROTOCOL], async move |_, upgraded| {
                let (input, output) = halves(upgraded);
                over_spdy(spdy::connect(input, output), target).await;
            })
        }
        Upgrade::WebSocket(upgrade) => {
            let tunnelled = upgrade.requested_protocols().any(|name| name.as_bytes() == TUNNEL.as_bytes());
            if tunnelled {
                let upgrade = upgrade.protocols([TUNNEL]);
                upgrade_websocket(&context, upgrade, async move |socket| {
                    let (input, output) = websocket::tunnel(socket);
                    over_spdy(spdy::connect(input, output), target).await;
                })
            } else {
                let ports = ports(&parts.uri).map_err(bad)?;
                let upgrade = choose(upgrade, &CHANNELS)?;
                let protocol = upgrade.selected_protocol().map(|name| name.as_bytes().to_vec());
                let base64 = protocol.is_some_and(|name| name.starts_with(b"v4.base64"));
                let coding = if base64 { Coding::Base64 } else { Coding::Binary };
                upgrade_websocket(&context, upgrade, async move |socket| {
                    over_channels(socket, coding, &ports, &target).await;
                })
            }
        }
    }
    .into_response())
}

fn target(handle: &PodHandle) -> Option<Target> {
    let key = handle.key();
    Some(Target { stack: handle.guests.stack()?, pod: format!("{}_{}", key.name, key.namespace).into() })
}

/// The ports of a query, `ports=80&ports=90,91`.
fn ports(uri: &Uri) -> Result<Vec<u16>, String> {
    let Query(pairs) =
        Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|error| error.body_text())?;
    let mut ports = Vec::new();
    for (_, value) in pairs.iter().filter(|(name, _)| matches!(name.as_str(), "ports" | "port")) {
        if value.is_empty() {
            return Err("query parameter \"ports\" cannot be empty".into());
        }
        for text in value.split(',') {
            match text.parse::<u16>() {
                Ok(0) => return Err(format!("port \"{value}\" must be > 0")),
                Ok(port) => ports.push(port),
                Err(error) => return Err(format!("unable to parse \"{value}\" as a port: {error}")),
            }
        }
    }
    match ports.len() {
        0 => Err("query parameter \"ports\" is required".into()),
        count if count > PORTS => Err(format!("at most {PORTS} ports can be forwarded")),
        _ => Ok(ports),
    }
}

impl Target {
    /// Dials a port of the pod; the error is the text that the client is shown.
    async fn dial(&self, port: u16) -> Result<Stream, String> {
        let v4 = match self.connect(Ipv4Addr::LOCALHOST.into(), port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let v6 = match self.connect(Ipv6Addr::LOCALHOST.into(), port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        Err(self.problem(
            port,
            &format!(
                "failed to connect to localhost:{port} inside pod, IPv4: dial tcp4 127.0.0.1:{port}: {} \
                 IPv6: dial tcp6 [::1]:{port}: {}",
                dial_problem(&v4),
                dial_problem(&v6)
            ),
        ))
    }

    async fn connect(&self, address: IpAddr, port: u16) -> Result<Stream, NetworkError> {
        self.stack.connect(SocketAddr::new(address, port)).await
    }

    fn problem(&self, port: u16, problem: &str) -> String {
        format!("error forwarding port {port} to pod {}: {problem}", self.pod)
    }
}

fn dial_problem(error: &NetworkError) -> String {
    match error {
        NetworkError::Refused(_) => "connect: connection refused".into(),
        other => other.to_string(),
    }
}

/// One stream of a pair that waits for the other.
struct Half {
    stream: spdy::Stream,
    since: Instant,
}

async fn over_spdy(
    (mut incoming, drive): (spdy::Incoming, impl Future<Output = ()> + Send + 'static),
    target: Target,
) {
    let serve = async {
        let mut halves: BTreeMap<(String, bool), Half> = BTreeMap::new();
        let mut connections = JoinSet::new();
        while let Some(stream) = incoming.next().await {
            while connections.try_join_next().is_some() {}
            halves.retain(|_, half| half.since.elapsed() < PAIRING);
            let Some((request, is_data, port)) = purpose(&stream) else {
                stream.refuse().await;
                continue;
            };
            stream.accept().await;
            match halves.remove(&(request.clone(), !is_data)) {
                Some(Half { stream: other, .. }) => {
                    let (data, error) = if is_data { (stream, other) } else { (other, stream) };
                    connections.spawn(forward(target.clone(), port, data, error));
                }
                None => {
                    halves.insert((request, is_data), Half { stream, since: Instant::now() });
                }
            }
        }
        // The connections are dropped with the session.
    };
    // Connections end with the client; what it has not read by then it does not want.
    tokio::select! {
        () = drive => {}
        () = serve => {}
    }
}

/// Which connection a stream belongs to, whether it is the one for data, and the port.
fn purpose(stream: &spdy::Stream) -> Option<(String, bool, u16)> {
    let port = stream.header("port")?.parse().ok().filter(|port| *port > 0)?;
    let is_data = match stream.header("streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    // Old clients name no request, but open the error stream just before the other.
    let numbered = || if is_data { stream.id.wrapping_sub(2) } else { stream.id }.to_string();
    let request = stream.header("requestid").filter(|id| !id.is_empty()).map_or_else(numbered, str::to_owned);
    Some((request, is_data, port))
}

/// One forwarded connection, to its end.
async fn forward(target: Target, port: u16, data: spdy::Stream, error: spdy::Stream) {
    let spdy::Stream { mut inbound, mut outbound, .. } = data;
    let spdy::Stream { outbound: mut errors, .. } = error;
    match target.dial(port).await {
        Ok(connection) => {
            let (mut from_pod, mut to_pod) = tokio::io::split(connection);
            tokio::select! {
                () = from_client(&mut inbound, &mut to_pod) => {}
                () = from_pod_to(&mut from_pod, &outbound) => {}
            }
        }
        Err(problem) => {
            tracing::debug!(problem, "port-forward failed");
            let _ = errors.write(problem.into()).await;
        }
    }
    errors.finish().await;
    outbound.finish().await;
}

/// Completes when the client has given the connection up; its orderly end is passed on, and the answer waited for.
async fn from_client(inbound: &mut Inbound, to_pod: &mut WriteHalf<Stream>) {
    while let Some(data) = inbound.read().await {
        if to_pod.write_all(&data).await.is_err() {
            break;
        }
    }
    if !inbound.was_reset() {
        let _ = to_pod.shutdown().await;
        std::future::pending::<()>().await;
    }
}

async fn from_pod_to(from_pod: &mut ReadHalf<Stream>, outbound: &Outbound) {
    let mut buffer = vec![0; READ];
    while let Ok(count) = from_pod.read(&mut buffer).await {
        if count == 0 || outbound.write(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
            return;
        }
    }
}

/// The older protocol: channel `2i` is the data of the port at `i`, the next one its errors.
async fn over_channels(socket: WebSocket, coding: Coding, ports: &[u16], target: &Target) {
    let (mut sender, mut receiver) = websocket::channels(socket, coding);
    let (out, mut to_client) = mpsc::channel::<(u8, Bytes)>(PIECES);
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (port, channel) in ports.iter().zip((0_u8..).step_by(2)) {
        let (input, from_client) = mpsc::channel::<Bytes>(PIECES);
        inputs.push(input);
        connections.spawn(forward_channel(target.clone(), *port, channel, from_client, out.clone()));
    }
    drop(out);
    let read = async {
        while let Some(arrived) = receiver.next().await {
            if let Arrived::Data(channel, data) = arrived
                && channel % 2 == 0
                && let Some(input) = inputs.get(usize::from(channel / 2))
                && !data.is_empty()
            {
                let _ = input.send(data).await;
            }
        }
    };
    let write = async {
        while let Some((channel, data)) = to_client.recv().await {
            sender.send(channel, &data).await?;
        }
        io::Result::Ok(())
    };
    let finished = tokio::select! {
        () = read => false,
        result = write => result.is_ok(),
    };
    if finished {
        sender.close(&mut receiver).await;
    }
}

async fn forward_channel(
    target: Target,
    port: u16,
    channel: u8,
    mut from_client: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<(u8, Bytes)>,
) {
    for channel in [channel, channel + 1] {
        let _ = out.send((channel, Bytes::copy_from_slice(&port.to_le_bytes()))).await;
    }
    let connection = match target.dial(port).await {
        Ok(connection) => connection,
        Err(problem) => {
            let _ = out.send((channel + 1, problem.into())).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let write = async {
        while let Some(data) = from_client.recv().await {
            if to_pod.write_all(&data).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let read = async {
        let mut buffer = vec![0; READ];
        while let Ok(count) = from_pod.read(&mut buffer).await {
            let data = Bytes::copy_from_slice(&buffer[..count]);
            if count == 0 || out.send((channel, data)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = write.fuse() => {}
        () = read => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        #[track_caller]
        fn check(query: &str, expected: Result<&[u16], &str>) {
            let uri: Uri = format!("/portForward/n/p?{query}").parse().unwrap();
            assert_eq!(ports(&uri).as_deref().map_err(String::as_str), expected, "{query}");
        }
        check("ports=80", Ok(&[80]));
        check("ports=80,90&ports=91", Ok(&[80, 90, 91]));
        check("", Err("query parameter \"ports\" is required"));
        check("ports=", Err("query parameter \"ports\" cannot be empty"));
        check("ports=0", Err("port \"0\" must be > 0"));
        check("ports=x", Err("unable to parse \"x\" as a port: invalid digit found in string"));
        assert!(ports(&format!("/?ports={}", vec!["1"; 101].join(",")).parse().unwrap()).is_err());
    }
}
