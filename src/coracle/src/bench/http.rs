//! `coracle bench http`: requests to a `wasi:http` component through a NodePort, and to the same component served
//! as `wasmtime serve` does, in turns.
//!
//! ```text
//!   this process: clients ──kernel loopback──▶ coracle up: NodePort ─▶ pod ─▶ instance
//!                        └──kernel loopback──▶ the peer:  socket ─▶ instance
//! ```

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::child::Cluster;
use crate::{cli::BenchHttp, connection::Connection, guests, push, ui};

/// What does not answer by then never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before each measurement: instances, connections and caches as they are in the middle of it.
const WARM_UP: Duration = Duration::from_millis(500);
/// Requests that one instance answers where instances are used again.
const REUSE: &str = "1000";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nhost: bench\r\n\r\n";

/// What is measured, and what it did in each round.
struct Contestant {
    name: &'static str,
    address: String,
    rates: Vec<f64>,
    latencies: Vec<Duration>,
}

/// Runs the command.
pub(crate) async fn run(args: BenchHttp) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let cluster = Cluster::start(dir.path()).await?;
    let component = guests::HANDLER.wasm;
    push::push(&cluster.connection, "registry.local/handler:1", component.to_vec()).await?;
    let fresh = serve(&cluster.connection, "fresh", "1").await?;
    let reused = serve(&cluster.connection, "reused", REUSE).await?;
    let file = dir.path().join("handler.wasm");
    std::fs::write(&file, component).context("cannot write the component")?;
    let (mut peer, address) = start_peer(args.wasmtime.as_deref(), &file).await?;

    let contestant = |name, address| Contestant { name, address, rates: Vec::new(), latencies: Vec::new() };
    let mut all = [
        contestant("as `wasmtime serve` does", address),
        contestant("instance per request", fresh),
        contestant("instances used again", reused),
    ];
    for contestant in &all {
        until_it_answers(&contestant.address).await?;
    }
    for _ in 0..args.rounds {
        for contestant in &mut all {
            load(&contestant.address, args.connections, WARM_UP).await?;
            let time = Duration::from_secs(args.seconds.into());
            let mut latencies = load(&contestant.address, args.connections, time).await?;
            contestant.rates.push(latencies.len() as f64 / time.as_secs_f64());
            contestant.latencies.append(&mut latencies);
        }
    }
    peer.kill().await.context("cannot end the peer")?;
    ui::line(&format!(
        "{} connections, {} rounds of {} s each, medians of the rounds:",
        args.connections, args.rounds, args.seconds
    ));
    let base = median(&mut all[0].rates);
    for contestant in &mut all {
        contestant.latencies.sort_unstable();
        let percentile = |hundredths: usize| {
            let latencies = &contestant.latencies;
            latencies
                .get(latencies.len() * hundredths / 100)
                .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
        };
        let (half, most) = (percentile(50), percentile(99));
        let rate = median(&mut contestant.rates);
        ui::line(&format!(
            "{:<26} {rate:>8.0} requests/s  median {half:>6.0} µs  p99 {most:>7.0} µs  ratio {:.2}",
            contestant.name,
            rate / base
        ));
    }
    cluster.stop().await
}

/// A pod of the handler and its NodePort; gives its address.
async fn serve(connection: &Connection, name: &str, reuse: &str) -> anyhow::Result<String> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "labels": {"bench": name}, "annotations": {"coracle.dev/http-reuse": reuse},
        },
        // Without the variables of all services: the peer's guest has no environment at all.
        "spec": {"enableServiceLinks": false, "containers": [
            {"name": "handler", "image": "registry.local/handler:1", "ports": [{"containerPort": 8080}]},
        ]},
    });
    connection.create(PODS, &pod).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": {"bench": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let created = connection.create(SERVICES, &service).await?;
    let port = created["spec"]["ports"][0]["nodePort"].as_u64().context("the service has no node port")?;
    Ok(format!("127.0.0.1:{port}"))
}

/// Starts the peer: that binary if there is one, or this one.
async fn start_peer(wasmtime: Option<&Path>, component: &Path) -> anyhow::Result<(Child, String)> {
    let mut command = match wasmtime {
        Some(binary) => {
            let mut command = Command::new(binary);
            command.args(["serve", "--addr", "127.0.0.1:0"]).arg(component);
            command
        }
        None => {
            let mut command = Command::new(std::env::current_exe().context("cannot find the binary")?);
            command.args(["bench", "http-peer"]).arg(component);
            command
        }
    };
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the peer")?;
    let mut lines = BufReader::new(child.stderr.take().context("the peer has no standard error")?).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.context("the peer does not get ready")??;
    let line = line.context("the peer ended instead of getting ready")?;
    // Serving HTTP on http://127.0.0.1:12345/
    let address = line.split_once("http://").map(|(_, rest)| rest.trim_end_matches('/').to_owned());
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, address.with_context(|| format!("the peer does not say where it is: {line}"))?))
}

async fn until_it_answers(address: &str) -> anyhow::Result<()> {
    let answers = async {
        while one(address).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, answers).await.with_context(|| format!("nobody answers on {address}"))
}

async fn one(address: &str) -> anyhow::Result<()> {
    Client::connect(address).await?.ask().await
}

/// Asks over and over on so many connections, and gives how long each request took.
async fn load(address: &str, connections: u32, time: Duration) -> anyhow::Result<Vec<Duration>> {
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let mut client = Client::connect(address).await?;
        let end = Instant::now() + time;
        clients.spawn(async move {
            let mut latencies = Vec::with_capacity(1 << 16);
            let mut begun = Instant::now();
            while begun < end {
                client.ask().await?;
                let now = Instant::now();
                latencies.push(now - begun);
                begun = now;
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = clients.join_next().await {
        all.append(&mut latencies.context("a client failed")??);
    }
    Ok(all)
}

/// The least that a client must do, so that it is the servers that are measured.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: &str) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, buffer: Vec::with_capacity(4096) })
    }

    async fn ask(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(REQUEST).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the connection was closed");
            if let Some(length) = answer_length(&self.buffer)? {
                ensure!(length == self.buffer.len(), "more was answered than was asked");
                return Ok(());
            }
        }
    }
}

/// How long the answer is that begins here; `None` if its end is not here yet.
fn answer_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let Some(head) = find(b"\r\n\r\n").map(|end| end + 4) else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head]).context("a head that is no text")?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "another answer than was due: {text}");
    for line in text.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            let length = head + value.parse::<usize>().context("a length that is no number")?;
            return Ok((bytes.len() >= length).then_some(length));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(bytes[head..].ends_with(b"0\r\n\r\n").then_some(bytes.len()));
        }
    }
    bail!("an answer without a length: {text}")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_answer_is_found() {
        #[track_caller]
        fn check(text: &str, expected: Option<usize>) {
            assert_eq!(answer_length(text.as_bytes()).unwrap(), expected, "{text}");
        }
        check("HTTP/1.1 200 OK\r\n", None);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some(40));
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", None);
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Some(59));
        assert!(answer_length(b"HTTP/1.1 503 No\r\n\r\n").is_err());
        assert!(answer_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
