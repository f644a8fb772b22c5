//! `exec` and `attach`: a guest's input and output, and at the end a status, over whatever carries them.
//!
//! ```text
//!  client ══ transport (WebSocket channels │ SPDY streams) ══ Client {stdin, out} ══ exec │ attach ══ guest
//! ```

use std::{io, sync::Arc, time::Duration};

use axum::{
    extract::{
        Path, Query, Request, State,
        ws::{Message, WebSocket},
    },
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use coracle_runtime::{Container, Exit, Output, OutputReader, Stdin, StdinWriter, output_pipe, stdin_pipe};
use futures::{FutureExt, Sink, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::{
    PING_AFTER, Refusal, Upgrade, bad, choose, find, halves, spdy,
    terminal::{self, Terminal},
    upgrade_spdy, upgrade_websocket,
    websocket::{self, Arrived, Coding},
};
use crate::{
    context::Context,
    exec::{self, ExecError, ExecIo, Running},
    handle::PodHandle,
    state::containers,
    termination::exit_of,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;

/// Pieces of input or output on their way between a session and its transport.
const PIECES: usize = 8;
/// How long a client may take to open the streams that it said it would. The kubelet's number.
const STREAM_CREATION: Duration = Duration::from_secs(30);
/// How long a client may take to receive the end of a session.
const FAREWELL: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long loses its session: until then its container waits for it.
const STALLED: Duration = Duration::from_secs(30);
/// How long the first frame waits: `kubectl` 1.33 throws away what comes before it has made its streams, which is
/// after it said that it has (kubernetes/kubernetes 131189).
const FIRST_FRAME: Duration = Duration::from_millis(20);
/// Exit code of a program that Control-C ended.
const INTERRUPTED: i32 = 130;

/// Subprotocols of WebSockets.
const WEBSOCKET: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// Protocols inside SPDY.
const SPDY: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// `/exec/{namespace}/{pod}/{container}`.
pub(super) async fn exec(
    State(context): State<Arc<Context>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let wanted = Wanted::parse(request.uri()).map_err(bad)?;
    if wanted.command.is_empty() {
        return Err(bad("you must specify at least one command for the container"));
    }
    let (_, handle) = find(&context, &namespace, &name)?;
    running(&handle, &container)?;
    let session_context = context.clone();
    serve(&context, request, wanted.clone(), move |client| {
        run_exec(session_context, handle, container, wanted, client).boxed()
    })
    .await
}

/// `/attach/{namespace}/{pod}/{container}`.
pub(super) async fn attach(
    State(context): State<Arc<Context>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let wanted = Wanted::parse(request.uri()).map_err(bad)?;
    let (pod, handle) = find(&context, &namespace, &name)?;
    let running = running(&handle, &container)?;
    let once = stdin_once(&pod, &container);
    serve(&context, request, wanted.clone(), move |client| run_attach(running, once, wanted, client).boxed())
        .await
}

fn running(handle: &PodHandle, container: &str) -> Result<Arc<Running>, Refusal> {
    let missing = || (StatusCode::NOT_FOUND, ExecError::NotRunning(container.to_owned()).to_string());
    handle.running(container).ok_or_else(missing)
}

/// Whether the container's stdin ends with the first session.
fn stdin_once(pod: &Pod, container: &str) -> bool {
    let found = containers(pod).find(|(known, _)| known.name == container);
    found.and_then(|(known, _)| known.stdin_once).unwrap_or(false)
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    /// Reads a query, with the names of the API server (`stdin=true`) or the kubelet's own (`input=1`).
    fn parse(uri: &Uri) -> Result<Wanted, String> {
        let mut wanted = Wanted::default();
        let Query(pairs) =
            Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|error| error.body_text())?;
        for (name, value) in pairs {
            let on = matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True");
            match name.as_str() {
                "command" => wanted.command.push(value),
                "stdin" | "input" => wanted.stdin = on,
                "stdout" | "output" => wanted.stdout = on,
                "stderr" | "error" => wanted.stderr = on,
                "tty" => wanted.tty = on,
                _ => {}
            }
        }
        // A terminal shows both outputs as one.
        wanted.stderr &= !wanted.tty;
        if wanted.stdin || wanted.stdout || wanted.stderr {
            Ok(wanted)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr".into())
        }
    }
}

/// The client's side of a session.
struct Client {
    /// Ends when the client ends it, or is gone.
    stdin: Option<mpsc::Receiver<Bytes>>,
    /// What is for the client, by channel.
    out: mpsc::Sender<(u8, Bytes)>,
    /// Statuses are JSON, otherwise the text of an error.
    json: bool,
    /// Carries it; ends when the client is gone, or has received all after `out` was dropped.
    transport: BoxFuture<'static, ()>,
}

/// What the session learns of its client.
struct Lines {
    stdin: Option<mpsc::Sender<Bytes>>,
    out: mpsc::Receiver<(u8, Bytes)>,
}

fn client(wanted: &Wanted, json: bool, transport: impl FnOnce(Lines) -> BoxFuture<'static, ()>) -> Client {
    let (to_stdin, stdin) = mpsc::channel(PIECES);
    let (out, from_out) = mpsc::channel(PIECES);
    let lines = Lines { stdin: wanted.stdin.then_some(to_stdin), out: from_out };
    Client { stdin: wanted.stdin.then_some(stdin), out, json, transport: transport(lines) }
}

/// Upgrades the connection and runs the session on it.
async fn serve(
    context: &Arc<Context>,
    request: Request,
    wanted: Wanted,
    session: impl FnOnce(Client) -> BoxFuture<'static, ()> + Send + 'static,
) -> Result<Response, Refusal> {
    Ok(match Upgrade::of(request).await?.1 {
        Upgrade::WebSocket(upgrade) => {
            let upgrade = choose(upgrade, &WEBSOCKET)?;
            let protocol = upgrade.selected_protocol().and_then(|name| name.to_str().ok());
            let json = protocol.is_some_and(|name| name.starts_with('v'));
            let base64 = protocol.is_some_and(|name| name.contains("base64"));
            let coding = if base64 { Coding::Base64 } else { Coding::Binary };
            upgrade_websocket(context, upgrade, async move |socket| {
                let greeting = if wanted.stdout {
                    STDOUT
                } else if wanted.stderr {
                    STDERR
                } else {
                    ERROR
                };
                let client =
                    client(&wanted, json, |lines| over_websocket(socket, coding, greeting, lines).boxed());
                session(client).await;
            })
        }
        Upgrade::Spdy(upgrade, headers) => {
            upgrade_spdy(context, upgrade, &headers, &SPDY, async move |protocol, upgraded| {
                let (input, output) = halves(upgraded);
                let (incoming, drive) = spdy::connect(input, output);
                let json = protocol.starts_with("v4") || protocol.starts_with("v5");
                let resize = wanted.tty && !matches!(protocol, "v2.channel.k8s.io" | "channel.k8s.io");
                if let Some(client) = open_spdy(&wanted, json, resize, incoming, drive.boxed()).await {
                    session(client).await;
                }
            })
        }
    }
    .into_response())
}

async fn over_websocket(socket: WebSocket, coding: Coding, greeting: u8, lines: Lines) {
    let Lines { mut stdin, mut out } = lines;
    let (mut sender, mut receiver) = websocket::channels(socket, coding);
    let read = async {
        while let Some(arrived) = receiver.next().await {
            match arrived {
                Arrived::Data(STDIN, data) if !data.is_empty() => {
                    if let Some(stdin) = &stdin {
                        // What nobody reads any more is dropped.
                        let _ = stdin.send(data).await;
                    }
                }
                Arrived::End(STDIN) => stdin = None,
                // Sizes of the terminal: no guest can ask for them.
                Arrived::Data(..) | Arrived::End(_) => {}
            }
        }
    };
    let finished = tokio::select! {
        () = read => false,
        result = write(&mut sender, greeting, &mut out) => result.is_ok(),
    };
    if finished {
        sender.close(&mut receiver).await;
    }
}

/// Sends what is for the client until that ends, or the client is gone.
async fn write<S>(
    sender: &mut websocket::Sender<S>,
    greeting: u8,
    out: &mut mpsc::Receiver<(u8, Bytes)>,
) -> io::Result<()>
where
    S: Sink<Message, Error = axum::Error> + Unpin,
{
    tokio::time::sleep(FIRST_FRAME).await;
    // Tells the client that the connection stands.
    in_time(sender.send(greeting, &[])).await?;
    loop {
        match timeout(PING_AFTER, out.recv()).await {
            Ok(Some((channel, data))) => in_time(sender.send(channel, &data)).await?,
            Ok(None) => return Ok(()),
            Err(_) => in_time(sender.ping()).await?,
        }
    }
}

async fn in_time(sent: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    timeout(STALLED, sent).await.map_err(late)?
}

/// The streams of a session over SPDY.
#[derive(Default)]
struct SpdyStreams {
    stdin: Option<spdy::Stream>,
    stdout: Option<spdy::Stream>,
    stderr: Option<spdy::Stream>,
    error: Option<spdy::Stream>,
    resize: Option<spdy::Stream>,
}

/// Waits for the streams that the client is to open.
async fn open_spdy(
    wanted: &Wanted,
    json: bool,
    resize: bool,
    mut incoming: spdy::Incoming,
    mut drive: BoxFuture<'static, ()>,
) -> Option<Client> {
    let mut streams = SpdyStreams::default();
    let expected = 1 + [wanted.stdin, wanted.stdout, wanted.stderr, resize].iter().filter(|on| **on).count();
    let open = async {
        for _ in 0..expected {
            let stream = incoming.next().await?;
            stream.accept().await;
            let place = match stream.header("streamtype") {
                Some("stdin") => &mut streams.stdin,
                Some("stdout") => &mut streams.stdout,
                Some("stderr") => &mut streams.stderr,
                Some("error") => &mut streams.error,
                Some("resize") => &mut streams.resize,
                _ => return None,
            };
            *place = Some(stream);
        }
        Some(())
    };
    tokio::select! {
        () = &mut drive => return None,
        opened = timeout(STREAM_CREATION, open) => opened.ok()??,
    }
    Some(client(wanted, json, move |lines| {
        async move {
            let carry = over_spdy(streams, lines, incoming);
            tokio::select! {
                () = &mut drive => return,
                () = carry => {}
            }
            // What was written is still on its way.
            let _ = timeout(FAREWELL, drive).await;
        }
        .boxed()
    }))
}

async fn over_spdy(mut streams: SpdyStreams, lines: Lines, mut incoming: spdy::Incoming) {
    let Lines { stdin, mut out } = lines;
    let mut input = streams.stdin.take();
    let read = async {
        if let (Some(to), Some(from)) = (stdin, &mut input) {
            while let Some(data) = from.inbound.read().await {
                let _ = to.send(data).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        if let Some(resize) = &mut streams.resize {
            while resize.inbound.read().await.is_some() {}
        }
        std::future::pending::<()>().await;
    };
    let strangers = async { while incoming.next().await.is_some() {} };
    let (stdout, stderr, error) = (&streams.stdout, &streams.stderr, &streams.error);
    let write = async {
        while let Some((channel, data)) = out.recv().await {
            let stream = match channel {
                STDOUT => stdout,
                STDERR => stderr,
                _ => error,
            };
            if let Some(stream) = stream {
                match timeout(STALLED, stream.outbound.write(data)).await {
                    Ok(Ok(())) => {}
                    _ => return,
                }
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = sizes => {}
        () = strangers => return,
        () = write => {}
    }
    let SpdyStreams { stdout, stderr, error, resize, .. } = streams;
    for mut stream in [input, stdout, stderr, error, resize].into_iter().flatten() {
        stream.outbound.finish().await;
    }
    incoming.close().await;
}

/// Ends an instance that nobody waits for any more.
struct Kill(Container);

impl Drop for Kill {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Throws output away.
struct Nowhere;

impl Output for Nowhere {
    fn write(&self, _bytes: &[u8]) {}
}

/// An output that is read if it is wanted.
fn output(wanted: bool) -> (Arc<dyn Output>, Option<OutputReader>) {
    if wanted {
        let (output, reader) = output_pipe();
        (output, Some(reader))
    } else {
        (Arc::new(Nowhere), None)
    }
}

async fn run_exec(
    context: Arc<Context>,
    handle: Arc<PodHandle>,
    container: String,
    wanted: Wanted,
    client: Client,
) {
    let Client { stdin: from_client, out, json, transport } = client;
    let session = async {
        let (stdin, writer) = match from_client.is_some() {
            true => {
                let (writer, reader) = stdin_pipe();
                (Stdin::Pipe(reader), Some(writer))
            }
            false => (Stdin::Closed, None),
        };
        let (stdout, read_stdout) = output(wanted.stdout);
        let (stderr, read_stderr) = if wanted.tty { (stdout.clone(), None) } else { output(wanted.stderr) };
        let io = ExecIo { stdin, stdout, stderr, tty: wanted.tty };
        let command = wanted.command.clone();
        let status = match exec::start(&context, &handle, &container, command, io).await {
            Err(error) => not_executed(&error.to_string()),
            Ok(instance) => {
                let instance = Kill(instance);
                let pump = Pump { out: &out, tty: wanted.tty };
                let outputs = pump.outputs(read_stdout, read_stderr);
                let ended = futures::future::join(instance.0.wait(), outputs);
                tokio::select! {
                    (exit, ()) = ended => {
                        if let Exit::Trap { message } = &exit {
                            let channel = if wanted.tty { STDOUT } else { STDERR };
                            pump.show(channel, format!("{message}\n").as_bytes()).await;
                        }
                        match exit {
                            Exit::Exhausted { message } => not_executed(&message),
                            exit => exit_status(&wanted.command, exit_of(exit).code),
                        }
                    }
                    () = pump.input(from_client, writer, true) => exit_status(&wanted.command, INTERRUPTED),
                }
            }
        };
        finish(out, json, &status).await;
    };
    with_transport(session, transport).await;
}

async fn run_attach(running: Arc<Running>, once: bool, wanted: Wanted, client: Client) {
    let Client { stdin: from_client, out, json, transport } = client;
    let session = async {
        let (stdout, stderr) =
            running.log.attach(wanted.stdout, wanted.stdout && running.tty || wanted.stderr);
        let pump = Pump { out: &out, tty: running.tty };
        let outputs = pump.outputs(stdout, stderr);
        tokio::select! {
            () = outputs => {}
            () = pump.input(from_client, running.stdin.clone(), once) => running.container.stop(),
        }
        finish(out, json, &json!({"metadata": {}, "status": "Success"})).await;
    };
    with_transport(session, transport).await;
    if once
        && wanted.stdin
        && let Some(stdin) = &running.stdin
    {
        stdin.close();
    }
}

/// Runs a session for as long as its client is there, then lets the client receive the end.
async fn with_transport(session: impl Future<Output = ()>, mut transport: BoxFuture<'static, ()>) {
    tokio::select! {
        () = session => {}
        () = &mut transport => return,
    }
    let _ = timeout(FAREWELL, transport).await;
}

async fn finish(out: mpsc::Sender<(u8, Bytes)>, json: bool, status: &Value) {
    let text = match (json, status["status"] == "Success") {
        (true, _) => status.to_string(),
        (false, true) => return,
        (false, false) => status["message"].as_str().unwrap_or_default().to_owned(),
    };
    let _ = out.send((ERROR, text.into())).await;
}

/// Moves input and output of one session.
struct Pump<'a> {
    out: &'a mpsc::Sender<(u8, Bytes)>,
    tty: bool,
}

impl Pump<'_> {
    /// Shows output until both have ended.
    async fn outputs(&self, stdout: Option<OutputReader>, stderr: Option<OutputReader>) {
        let copy = async |reader: Option<OutputReader>, channel| {
            let Some(mut reader) = reader else { return };
            while let Some(data) = reader.read().await {
                self.show(channel, &data).await;
            }
        };
        let second = if self.tty { STDOUT } else { STDERR };
        tokio::join!(copy(stdout, STDOUT), copy(stderr, second));
    }

    async fn show(&self, channel: u8, data: &[u8]) {
        let data = if self.tty { terminal::shown(data) } else { data.to_vec() };
        let _ = self.out.send((channel, data.into())).await;
    }

    /// Gives input to the guest; `close` says whether its end is the guest's, too. Completes only when somebody
    /// presses Control-C.
    async fn input(&self, from: Option<mpsc::Receiver<Bytes>>, to: Option<StdinWriter>, close: bool) {
        let mut terminal = self.tty.then(Terminal::default);
        let mut to = to;
        if let Some(mut from) = from {
            while let Some(data) = from.recv().await {
                let Some(terminal) = &mut terminal else {
                    if let Some(stdin) = &to
                        && stdin.write(data).await.is_err()
                    {
                        to = None;
                    }
                    continue;
                };
                let keys = terminal.press(&data);
                if !keys.echo.is_empty() {
                    let _ = self.out.send((STDOUT, keys.echo.into())).await;
                }
                if let Some(stdin) = &to {
                    let _ = stdin.write(keys.input.into()).await;
                    if keys.end {
                        stdin.close();
                    }
                }
                if keys.interrupt {
                    return;
                }
            }
        }
        if let Some(stdin) = to.filter(|_| close) {
            stdin.close();
        }
        std::future::pending::<()>().await;
    }
}

/// The status of a command that has ended.
fn exit_status(command: &[String], code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    let command = command.join(" ");
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!(
            "command terminated with non-zero exit code: error executing command [{command}], exit code {code}"
        ),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// The status of a command that never ran.
fn not_executed(why: &str) -> Value {
    internal_error(&format!("error executing command in container: {why}"))
}

/// The status of what could not be done.
fn internal_error(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: Result<Wanted, &str>) {
        let uri: Uri = format!("/exec/n/p/c?{query}").parse().unwrap();
        assert_eq!(Wanted::parse(&uri), expected.map_err(str::to_owned), "{query}");
    }

    #[test]
    fn queries_are_read() {
        let none = Wanted::default;
        let command = vec!["sh".into(), "-c".into(), "echo a b&c".into()];
        check(
            "command=sh&command=-c&command=echo+a%20b%26c&stdout=true&stderr=true",
            Ok(Wanted { command, stdout: true, stderr: true, ..none() }),
        );
        check("input=1&output=1&tty=1", Ok(Wanted { stdin: true, stdout: true, tty: true, ..none() }));
        check("stdout=true&stderr=true&tty=true", Ok(Wanted { stdout: true, tty: true, ..none() }));
        check("stdin=false&stdout=", Err("you must specify at least 1 of stdin, stdout, stderr"));
        check("stderr=1&tty=1", Err("you must specify at least 1 of stdin, stdout, stderr"));
    }

    /// A client of whose messages only so many fit into what carries them, and what it is sent.
    fn carrier(room: usize) -> (impl Sink<Message, Error = axum::Error> + Unpin, mpsc::Receiver<Message>) {
        let (sent, received) = mpsc::channel(room);
        let sink = futures::sink::unfold(sent, |sent, message| async move {
            sent.send(message).await.map_err(axum::Error::new)?;
            Ok(sent)
        });
        (Box::pin(sink), received)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_left_in_silence_is_noticed() {
        let started = tokio::time::Instant::now();
        let (sink, mut received) = carrier(8);
        let (_out, mut from_out) = mpsc::channel(PIECES);
        let mut sender = websocket::sender(sink);
        let client = async {
            assert!(matches!(received.recv().await, Some(Message::Binary(_))), "the greeting");
            assert!(matches!(received.recv().await, Some(Message::Ping(_))));
            drop(received);
        };
        let (result, ()) = tokio::join!(write(&mut sender, STDOUT, &mut from_out), client);
        assert!(result.is_err());
        assert_eq!(started.elapsed(), FIRST_FRAME + 2 * PING_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn output_waits_until_its_client_can_take_it() {
        let started = tokio::time::Instant::now();
        let (sink, mut received) = carrier(8);
        let (out, mut from_out) = mpsc::channel(PIECES);
        out.send((STDOUT, Bytes::from_static(b"early"))).await.unwrap();
        drop(out);
        let mut sender = websocket::sender(sink);
        let client = async {
            received.recv().await.expect("the greeting");
            received.recv().await.expect("the output");
            assert_eq!(started.elapsed(), FIRST_FRAME);
        };
        let (result, ()) = tokio::join!(write(&mut sender, STDOUT, &mut from_out), client);
        result.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let started = tokio::time::Instant::now();
        let (sink, _received) = carrier(1);
        let (_out, mut from_out) = mpsc::channel(PIECES);
        let result = write(&mut websocket::sender(sink), STDOUT, &mut from_out).await;
        assert_eq!(result.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        assert_eq!(started.elapsed(), FIRST_FRAME + PING_AFTER + STALLED);
    }

    #[test]
    fn statuses_are_those_that_clients_look_for() {
        assert_eq!(exit_status(&[], 0), json!({"metadata": {}, "status": "Success"}));
        let status = exit_status(&["sh".into(), "x".into()], 7);
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "7"}]));
        assert_eq!(
            status["message"],
            "command terminated with non-zero exit code: error executing command [sh x], exit code 7"
        );
    }
}
