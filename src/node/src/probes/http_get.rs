//! One HTTP GET on a connection of its own, as probes and hooks make it: a request that was written once
//! and an answer that is looked at just as far as it matters. Thousands of them a second must cost little.

use std::{io, net::IpAddr, sync::Arc};

use bytes::Bytes;
use coracle_network::{Fabric, Stream};
use http::HeaderValue;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use super::address::Destination;
use crate::tls;

/// How much of a body is read. Kubernetes' number.
const MAX_BODY: usize = 10 << 10;
/// The longest head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// How many redirects are followed. Go's number, which is Kubernetes'.
const MAX_REDIRECTS: usize = 10;

/// A request that can be sent again and again.
#[derive(Clone, Debug)]
pub(crate) struct HttpRequest {
    to: Destination,
    tls: bool,
    host: Box<str>,
    path: Box<str>,
    /// All headers but the host.
    headers: Box<str>,
    named_host: bool,
    /// All of it, as it is sent.
    bytes: Bytes,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    location: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl HttpRequest {
    /// The request of a probe or a hook to a pod with this address.
    pub(crate) fn of(
        action: &HTTPGetAction,
        container: &Container,
        ip: IpAddr,
        agent: &str,
    ) -> Result<HttpRequest, String> {
        let to = Destination::of(action.host.as_deref(), &action.port, container, ip)?;
        let tls = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let own = |name: &str| {
            let mut headers = action.http_headers.iter().flatten();
            headers.find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.as_str())
        };
        let mut headers = format!("User-Agent: {}\r\n", own("user-agent").unwrap_or(agent));
        match own("accept") {
            None => headers += "Accept: */*\r\n",
            Some("") => {}
            Some(accept) => headers += &format!("Accept: {accept}\r\n"),
        }
        for header in action.http_headers.iter().flatten() {
            let known = ["host", "user-agent", "accept", "connection"]
                .iter()
                .any(|known| header.name.eq_ignore_ascii_case(known));
            // What would break out of its line is left out.
            if !known && HeaderValue::from_str(&header.value).is_ok() {
                headers += &format!("{}: {}\r\n", header.name, header.value);
            }
        }
        headers += "Connection: close\r\n\r\n";
        let path = action.path.as_deref().unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let named = own("host").filter(|host| !host.is_empty() && HeaderValue::from_str(host).is_ok());
        let request = HttpRequest {
            to,
            tls,
            host: named.map_or_else(|| to.address.to_string(), str::to_owned).into(),
            path: visible(&path).into(),
            headers: headers.into(),
            named_host: named.is_some(),
            bytes: Bytes::new(),
        };
        Ok(request.written())
    }

    /// As users know it.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.to.address, self.path)
    }

    /// Sends the request. The errors of this and of [`HttpRequest::answer`] say what went wrong in Go's words, without
    /// the URL.
    pub(crate) async fn ask(&self, fabric: &Arc<Fabric>) -> Result<Asked, String> {
        let mut stream = self.to.dial(fabric).await?;
        if self.tls {
            let mut stream = Box::pin(tls::connect(stream, self.to.address.ip())).await?;
            let sent = stream.write_all(&self.bytes).await;
            return Ok(Asked { connection: Connection::Tls(Box::new(stream)), sent });
        }
        let sent = stream.write_all(&self.bytes).await;
        Ok(Asked { connection: Connection::Plain(stream), sent })
    }

    /// Reads what comes back; answers that lead to another place of the same host are followed.
    pub(crate) async fn answer(&self, fabric: &Arc<Fabric>, asked: Asked) -> Result<Answer, String> {
        let answer = asked.answer().await?;
        if answer.location.is_none() || !(300..400).contains(&answer.status) {
            return Ok(answer);
        }
        Box::pin(self.follow(fabric, answer)).await
    }

    async fn follow(&self, fabric: &Arc<Fabric>, mut answer: Answer) -> Result<Answer, String> {
        let mut request = self.clone();
        for _ in 0..MAX_REDIRECTS {
            let location = answer.location.as_deref().filter(|_| (300..400).contains(&answer.status));
            let Some(next) = location.and_then(|location| request.moved(location)) else { return Ok(answer) };
            request = next;
            answer = request.ask(fabric).await?.answer().await?;
        }
        Err(format!("stopped after {MAX_REDIRECTS} redirects"))
    }

    fn written(mut self) -> HttpRequest {
        let text = format!("GET {} HTTP/1.1\r\nHost: {}\r\n{}", self.path, self.host, self.headers);
        self.bytes = text.into();
        self
    }

    /// The request to where a redirect leads; `None` if that is another host, where probes do not go.
    fn moved(&self, location: &str) -> Option<HttpRequest> {
        let mut next = self.clone();
        let rest = match location.split_once("://") {
            Some((scheme, rest)) => {
                next.tls = scheme.eq_ignore_ascii_case("https");
                Some(rest)
            }
            None => location.strip_prefix("//"),
        };
        let path = match rest {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                let default = if next.tls { 443 } else { 80 };
                let (name, port) = match authority.rsplit_once(':') {
                    Some((name, port)) => (name, port.parse().ok()?),
                    None => (authority, default),
                };
                let ip: IpAddr = name.parse().ok()?;
                if ip != self.to.address.ip() {
                    return None;
                }
                next.to.address.set_port(port);
                if !self.named_host {
                    next.host = next.to.address.to_string().into();
                }
                if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
            }
            None if location.starts_with('/') => location.to_owned(),
            None => {
                let folder = self.path.split('?').next()?.rsplit_once('/')?.0;
                format!("{folder}/{location}")
            }
        };
        next.path = visible(path.split('#').next()?).into();
        Some(next.written())
    }
}

/// A path without what would end it early: spaces and controls are written as a URL has them.
fn visible(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            0x21..=0x7e => out.push(char::from(byte)),
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}

/// A request that was sent.
pub(crate) struct Asked {
    connection: Connection,
    /// A server that answers without having read everything may have closed already.
    sent: io::Result<()>,
}

enum Connection {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

impl Asked {
    async fn answer(self) -> Result<Answer, String> {
        match self.connection {
            Connection::Plain(mut stream) => answer(&mut stream, self.sent).await,
            Connection::Tls(mut stream) => Box::pin(answer(&mut stream, self.sent)).await,
        }
    }
}

/// Reads the answer to a request that was sent, or not quite.
async fn answer<S: AsyncRead + Unpin>(stream: &mut S, sent: io::Result<()>) -> Result<Answer, String> {
    let mut data = Vec::with_capacity(512);
    loop {
        if let Some(end) = head_end(&data) {
            let head = Head::of(&data[..end])?;
            if head.status >= 200 {
                data.drain(..end);
                let body = body(stream, data, &head).await?;
                return Ok(Answer { status: head.status, location: head.location, body });
            }
            // An interim answer: the one that counts follows.
            data.drain(..end);
            continue;
        }
        if data.len() > MAX_HEAD {
            return Err("net/http: HTTP/1.x transport connection broken: header too large".into());
        }
        if stream.read_buf(&mut data).await.map_err(|error| broken(&error))? == 0 {
            sent.map_err(|error| broken(&error))?;
            return Err(if data.is_empty() { "EOF".into() } else { "unexpected EOF".into() });
        }
    }
}

/// Reads the body as far as it goes, or as far as anybody looks.
async fn body<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut data: Vec<u8>,
    head: &Head,
) -> Result<Vec<u8>, String> {
    let length = match head.status {
        204 | 304 => Some(0),
        _ if head.chunked => None,
        _ => head.length,
    };
    let wanted = length.map_or(MAX_BODY, |length| length.min(MAX_BODY));
    while data.len() < wanted {
        if head.chunked && data.ends_with(b"0\r\n\r\n") {
            break;
        }
        let read = stream.read_buf(&mut data).await;
        match read {
            Ok(0) if length.is_some() => return Err("unexpected EOF".into()),
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(broken(&error)),
        }
    }
    data.truncate(wanted);
    Ok(data)
}

/// Where the head ends, if all of it is there.
fn head_end(data: &[u8]) -> Option<usize> {
    let end = data.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
    end.or_else(|| data.windows(2).position(|window| window == b"\n\n").map(|at| at + 2))
}

struct Head {
    status: u16,
    length: Option<usize>,
    chunked: bool,
    location: Option<String>,
}

impl Head {
    fn of(head: &[u8]) -> Result<Head, String> {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let malformed =
            || format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response {first:?}");
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1))
            .and_then(|code| code.parse().ok())
            .filter(|code| (100..1000).contains(code))
            .ok_or_else(malformed)?;
        let mut head = Head { status, length: None, chunked: false, location: None };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.parse().ok();
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.to_ascii_lowercase().contains("chunked");
            } else if name.eq_ignore_ascii_case("location") {
                head.location = Some(value.to_owned());
            }
        }
        Ok(head)
    }
}

fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            "read: connection reset by peer".into()
        }
        io::ErrorKind::BrokenPipe => "write: broken pipe".into(),
        io::ErrorKind::UnexpectedEof => "unexpected EOF".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(action: Value) -> HttpRequest {
        let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container = serde_json::from_value(container).unwrap();
        let action = serde_json::from_value(action).unwrap();
        HttpRequest::of(&action, &container, "10.128.0.2".parse().unwrap(), "kube-probe/1.33").unwrap()
    }

    #[test]
    fn requests_look_like_the_kubelets() {
        #[track_caller]
        fn check(action: Value, expected: &str) {
            assert_eq!(String::from_utf8_lossy(&request(action).bytes), expected);
        }
        check(
            json!({"port": "web", "path": "a b?c=d"}),
            "GET /a%20b?c=d HTTP/1.1\r\nHost: 10.128.0.2:8080\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        );
        let headers = json!([
            {"name": "Host", "value": "example.com"}, {"name": "accept", "value": ""},
            {"name": "X-Probe", "value": "yes"}, {"name": "X-Evil", "value": "a\r\nb: c"},
        ]);
        check(
            json!({"port": 80, "path": "/", "httpHeaders": headers}),
            "GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: kube-probe/1.33\r\nX-Probe: yes\r\nConnection: close\r\n\r\n",
        );
    }

    #[test]
    fn redirects_stay_on_the_host() {
        #[track_caller]
        fn check(location: &str, expected: Option<&str>) {
            let from = request(json!({"port": 80, "path": "/a/b?c"}));
            assert_eq!(from.moved(location).map(|to| to.url()).as_deref(), expected);
        }
        check("/x", Some("http://10.128.0.2:80/x"));
        check("x", Some("http://10.128.0.2:80/a/x"));
        check("http://10.128.0.2:81/y?z", Some("http://10.128.0.2:81/y?z"));
        check("http://10.128.0.2", Some("http://10.128.0.2:80/"));
        check("https://10.128.0.2/s", Some("https://10.128.0.2:443/s"));
        check("http://10.128.0.3/", None);
        check("https://example.com/", None);
    }

    #[tokio::test]
    async fn answers_are_read_as_far_as_they_matter() {
        #[track_caller]
        fn check(answer: &'static str, expected: Result<(u16, &str), &str>) -> impl Future<Output = ()> {
            let caller = std::panic::Location::caller();
            async move {
                let (mut ours, mut theirs) = tokio::io::duplex(64 << 10);
                let serve = async {
                    let mut request = [0; 7];
                    theirs.read_exact(&mut request).await.unwrap();
                    theirs.write_all(answer.as_bytes()).await.unwrap();
                    drop(theirs);
                };
                let sent = ours.write_all(b"request").await;
                let (seen, ()) = tokio::join!(super::answer(&mut ours, sent), serve);
                let seen = seen.map(|answer| (answer.status, String::from_utf8(answer.body).unwrap()));
                let expected = expected.map(|(status, body)| (status, body.to_owned()));
                assert_eq!(seen, expected.map_err(str::to_owned), "{caller}");
            }
        }
        check("HTTP/1.1 200 OK\r\n\r\nall of it", Ok((200, "all of it"))).await;
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nall of it", Ok((200, "al"))).await;
        check("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nall of it", Err("unexpected EOF")).await;
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 503 No\r\n\r\n", Ok((503, ""))).await;
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, ""))).await;
        check("", Err("EOF")).await;
        check("HTTP/1.1 200", Err("unexpected EOF")).await;
        check(
            "SSH-2.0\r\n\r\n",
            Err("net/http: HTTP/1.x transport connection broken: malformed HTTP response \"SSH-2.0\""),
        )
        .await;
    }
}
