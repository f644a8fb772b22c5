//! A cluster under test.

#[path = "../../src/coracle/src/connection.rs"]
#[allow(dead_code, reason = "the binary's own client; the tests use a part of it")]
pub(crate) mod connection;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Nothing in these tests takes longer, on a busy machine and in a debug build.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_coracle");
const GUESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-examples");

/// A running `coracle up`; killed when dropped.
pub(crate) struct Cluster {
    dir: TempDir,
    host: String,
    listen: String,
    options: &'static [&'static str],
    process: Option<Process>,
}

/// Clusters that this test run has started.
static CLUSTERS: AtomicU8 = AtomicU8::new(0);

/// A `coracle up` that has said that it is ready.
struct Process {
    child: Child,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts a cluster in a new folder.
    pub(crate) fn start() -> Cluster {
        Cluster::start_with(&[])
    }

    /// Starts a cluster in a new folder, with further options of `coracle up`.
    pub(crate) fn start_with(options: &'static [&'static str]) -> Cluster {
        // A loopback address of its own, so that clusters side by side have all node ports to themselves.
        let (run, n) = (std::process::id() % 250 + 1, CLUSTERS.fetch_add(1, Ordering::Relaxed) + 1);
        let host = format!("127.77.{run}.{n}");
        let listen = format!("{host}:0");
        let mut cluster = Cluster { dir: tempfile::tempdir().unwrap(), host, listen, options, process: None };
        cluster.up();
        cluster
    }

    /// Starts a cluster in a new folder that listens there and not on an address of its own.
    pub(crate) fn start_at(listen: &str) -> Cluster {
        let (dir, host) = (tempfile::tempdir().unwrap(), "127.0.0.1".to_owned());
        let mut cluster = Cluster { dir, host, listen: listen.to_owned(), options: &[], process: None };
        cluster.up();
        cluster
    }

    /// Starts it (again) on its folder and waits until the node is Ready.
    pub(crate) fn up(&mut self) {
        assert!(self.process.is_none(), "the cluster is running");
        let mut command = command(self.dir.path());
        command.args(["--listen", &self.listen]).args(self.options);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some((_, kubeconfig)) = line.split_once("KUBECONFIG=") else {
            panic!("`coracle up` did not get ready: {line:?}, {:?}", child.wait());
        };
        self.process = Some(Process { child, kubeconfig: PathBuf::from(kubeconfig.trim()) });
    }

    /// The node's address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The data folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Sends a signal, e.g. `KILL`, and waits for the end of the process.
    pub(crate) fn signal(&mut self, signal: &str) -> ExitStatus {
        let mut process = self.process.take().expect("the cluster is running");
        let pid = process.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
        process.child.wait().unwrap()
    }

    /// A client with the admin's credentials.
    pub(crate) fn connection(&self) -> connection::Connection {
        // The provider is installed once per process; the second time it is already there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        connection::Connection::open(&self.process().kubeconfig).unwrap()
    }

    /// Pushes a guest example as `registry.local/NAME:1`.
    pub(crate) fn push(&self, guests: &[&str]) {
        for guest in guests {
            self.push_as(guest, &format!("{guest}:1"));
        }
    }

    /// Pushes a guest example as `registry.local/IMAGE`.
    pub(crate) fn push_as(&self, guest: &str, image: &str) {
        self.push_file(&Path::new(GUESTS).join("built").join(format!("{guest}.wasm")), image);
    }

    /// Pushes a module as `registry.local/IMAGE`.
    pub(crate) fn push_file(&self, module: &Path, image: &str) {
        let output = Command::new(BINARY)
            .arg("push")
            .arg(module)
            .arg(format!("registry.local/{image}"))
            .env("KUBECONFIG", &self.process().kubeconfig)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Address of a node port, by the service and the name of its port (empty if it has none).
    pub(crate) fn node_port(&self, service: &str, port: &str) -> String {
        let select = if port.is_empty() { "0".to_owned() } else { format!("?(@.name==\"{port}\")") };
        let path = format!("jsonpath={{.spec.ports[{select}].nodePort}}");
        format!("{}:{}", self.host(), self.kubectl(&format!("get service {service} -o '{path}'")))
    }

    /// Runs kubectl and gives its standard output; panics if it fails.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &str) -> String {
        self.kubectl_input(args, "")
    }

    /// Runs kubectl with something on its standard input.
    #[track_caller]
    pub(crate) fn kubectl_input(&self, args: &str, input: &str) -> String {
        let output = self.try_kubectl(&split(args), input);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {args}: {}\n{out}{err}", output.status);
        out
    }

    /// Runs kubectl with further environment variables.
    #[track_caller]
    pub(crate) fn kubectl_env(&self, args: &str, env: &[(&str, &str)]) -> String {
        let output = self.kubectl_command().args(split(args)).envs(env.iter().copied()).output().unwrap();
        assert!(output.status.success(), "kubectl {args}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a kubectl that must fail and gives its standard error.
    #[track_caller]
    pub(crate) fn kubectl_fails(&self, args: &str, input: &str) -> String {
        let output = self.try_kubectl(&split(args), input);
        assert!(!output.status.success(), "kubectl {args} should fail: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Starts a kubectl that goes on, e.g. `logs -f`; its standard output is piped.
    pub(crate) fn kubectl_follow(&self, args: &str) -> Follow {
        let child =
            self.kubectl_command().args(split(args)).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Follow { child, lines }
    }

    fn try_kubectl(&self, args: &[String], input: &str) -> Output {
        let mut child = self
            .kubectl_command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", &self.process().kubeconfig)
            // Discovery is cached below the home folder by address, and ports are reused.
            .env("HOME", self.dir.path())
            .env("KUBECACHEDIR", self.dir.path().join("kube-cache"));
        command
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the cluster is running")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// A kubectl that goes on; killed when dropped.
pub(crate) struct Follow {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Follow {
    /// The next line, without its end; `None` when kubectl has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).unwrap() > 0).then(|| line.trim_end().to_owned())
    }

    /// Reads on until a line satisfies the condition.
    #[track_caller]
    pub(crate) fn until(&mut self, condition: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        while let Some(line) = self.line() {
            if condition(&line) {
                return line;
            }
            seen.push(line);
        }
        panic!("kubectl ended first, after {seen:#?}");
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// GETs a JSON document.
pub(crate) async fn get(
    connection: &connection::Connection,
    path: &str,
) -> Result<serde_json::Value, String> {
    let answer = connection.request(reqwest::Method::GET, path).send().await.map_err(|e| e.to_string())?;
    let answer = connection::expect(answer).await.map_err(|e| e.to_string())?;
    answer.json().await.map_err(|e| e.to_string())
}

/// `coracle up` on a folder and a free port.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["up", "--listen", "127.0.0.1:0", "--node-name", "boat", "--data-dir"]).arg(dir);
    command
}

/// Runs a command that must end by itself, and gives exit code, standard output and standard error.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let code = output.status.code().or_else(|| output.status.signal().map(|s| 128 + s));
    (code, text(&output.stdout), text(&output.stderr))
}

/// The manifest of a guest example.
pub(crate) fn manifest(path: &str) -> String {
    fs::read_to_string(Path::new(GUESTS).join(path)).unwrap()
}

/// True if kubectl can be run; says so if not, and fails in CI.
pub(crate) fn have_kubectl() -> bool {
    let found =
        Command::new("kubectl").args(["version", "--client"]).output().is_ok_and(|o| o.status.success());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "CI must run the kubectl tests, and there is no kubectl");
        eprintln!("skipped: there is no kubectl on this machine");
    }
    found
}

/// Asks again and again until the answer is there; panics with the last refusal when [`PATIENCE`] ends.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let deadline = runtime.block_on(async { Instant::now() }) + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(refusal) => {
                let late = runtime.block_on(async {
                    sleep(Duration::from_millis(50)).await;
                    Instant::now() > deadline
                });
                assert!(!late, "{what}: {refusal}");
            }
        }
    }
}

/// One HTTP GET over a plain connection: status line with headers, and body.
pub(crate) fn http_get(address: &str, path: &str) -> Result<(String, String), String> {
    http(address, "GET", path, "")
}

/// One HTTP POST.
pub(crate) fn http_post(address: &str, path: &str, body: &str) -> Result<(String, String), String> {
    http(address, "POST", path, body)
}

fn http(address: &str, method: &str, path: &str, body: &str) -> Result<(String, String), String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        std::io::Write::write_all(
            &mut stream,
            format!(
                "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP: {answer:?}"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body =
        if chunked { joined(body).ok_or_else(|| format!("no chunks: {answer:?}"))? } else { body.to_owned() };
    Ok((head.to_owned(), body))
}

/// The text that comes in these chunks (RFC 9112, 7.1).
fn joined(mut chunks: &str) -> Option<String> {
    let mut text = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(text);
        }
        text.push_str(rest.get(..length)?);
        chunks = rest.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// Splits a command line at spaces; what stands in single quotes is not split.
fn split(args: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for c in args.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
