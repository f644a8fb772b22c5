//! Commands of the network: `wget` and `nc`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs},
    time::Duration,
};

use crate::{
    call::{Call, Failure, Out, Outcome, reason},
    options::{Options, parse},
    platform,
    sink::Sink,
};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// The longest head of an answer.
const MAX_HEAD: u64 = 64 * 1024;
/// A server that is silent for so long is given up, unless `-T` says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn wget(call: &mut Call) -> Outcome {
    const USAGE: &str = "wget [-qS] [-O FILE] [-T SECONDS] [--header LINE] [--post-data DATA] [--spider] URL";
    let long = [
        ("quiet", 'q'),
        ("output-document", 'O'),
        ("timeout", 'T'),
        ("header", 'H'),
        ("post-data", 'P'),
        ("spider", 's'),
        ("server-response", 'S'),
        ("no-check-certificate", 'N'),
        ("tries", 't'),
    ];
    let options = parse(call.operands(), "qO:T:SH:P:sNt:c", &long)?;
    let [url] = options.operands.as_slice() else { return Err(Failure::usage(USAGE)) };
    let mut url = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let (host, path) = split_url(&url)?;
        let answer = request(call, &options, &host, &path)?;
        if let (true, Some(location)) = ((301..=308).contains(&answer.code), answer.header("location")) {
            url = if location.starts_with('/') {
                format!("http://{host}{location}")
            } else {
                location.to_owned()
            };
            continue;
        }
        if !(200..300).contains(&answer.code) {
            return Err(Failure::new(format!("server returned error: {}", answer.status)));
        }
        if !options.has('s') {
            save(call, &options, &path, answer)?;
        }
        return Ok(0);
    }
    Err(Failure::new("too many redirections"))
}

/// Host (with port) and path of an http URL.
fn split_url(url: &str) -> Result<(String, String), Failure> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(Failure::new(format!("{scheme}: only http is spoken here"))),
        None => url,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let path = path.split('#').next().unwrap_or_default();
    if host.is_empty() {
        return Err(Failure::new(format!("bad address '{url}'")));
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((host.to_owned(), path))
}

struct Answer {
    status: String,
    code: u16,
    headers: Vec<(String, String)>,
    body: BufReader<TcpStream>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

fn request(call: &mut Call, options: &Options, host: &str, path: &str) -> Result<Answer, Failure> {
    let with_port = if host.rsplit(']').next().is_some_and(|tail| tail.contains(':')) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut stream = connect(&with_port)?;
    let patience = options.value('T').and_then(|t| t.parse().ok()).map_or(PATIENCE, Duration::from_secs);
    // Where there is no time limit for reading, the wait has none.
    stream.set_read_timeout(Some(patience).filter(|p| !p.is_zero())).ok();
    let data = options.value('P');
    let method = if data.is_some() { "POST" } else { "GET" };
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: toolbox\r\naccept: */*\r\nconnection: close\r\n"
    );
    for header in options.values('H') {
        head.push_str(&format!("{header}\r\n"));
    }
    if let Some(data) = data {
        if !options.values('H').any(|h| h.to_ascii_lowercase().starts_with("content-type:")) {
            head.push_str("content-type: application/x-www-form-urlencoded\r\n");
        }
        head.push_str(&format!("content-length: {}\r\n", data.len()));
    }
    stream.write_all(format!("{head}\r\n{}", data.unwrap_or_default()).as_bytes())?;

    let mut body = BufReader::new(stream);
    let mut head = Vec::new();
    let mut left = MAX_HEAD;
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        let n = body.by_ref().take(left).read_until(b'\n', &mut head)?;
        left -= n as u64;
        if n == 0 {
            return Err(Failure::new("error getting response"));
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if options.has('S') {
        head.lines().filter(|l| !l.is_empty()).try_for_each(|line| writeln!(call.err, "  {line}"))?;
    }
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default().to_owned();
    let code =
        status.split(' ').nth(1).and_then(|c| c.parse().ok()).filter(|_| status.starts_with("HTTP/1."));
    let code = code.ok_or_else(|| Failure::new(format!("bad response: {status}")))?;
    let headers =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect();
    Ok(Answer { status, code, headers, body })
}

fn save(call: &mut Call, options: &Options, path: &str, mut answer: Answer) -> Result<(), Failure> {
    let name = match options.value('O') {
        Some(name) => name.to_owned(),
        None => match path.split('?').next().unwrap_or_default().rsplit('/').next() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => "index.html".to_owned(),
        },
    };
    let mut to: Box<dyn Write> = match name.as_str() {
        "-" => Box::new(call.out.clone()),
        name => Box::new(Sink::create(&call.path(name)).map_err(|e| Failure::about(name, &e))?),
    };
    let chunked = answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    let length = answer.header("content-length").and_then(|v| v.parse::<u64>().ok());
    let bytes = match length {
        _ if chunked => copy_chunks(&mut answer.body, &mut to)?,
        Some(length) => {
            let copied = io::copy(&mut answer.body.by_ref().take(length), &mut to)?;
            if copied < length {
                return Err(Failure::new("connection closed prematurely"));
            }
            copied
        }
        None => io::copy(&mut answer.body, &mut to)?,
    };
    if !options.has('q') {
        writeln!(call.err, "'{name}' saved, {bytes} bytes")?;
    }
    Ok(())
}

fn copy_chunks(from: &mut impl BufRead, to: &mut dyn Write) -> Result<u64, Failure> {
    let bad = || Failure::new("bad chunk in the answer");
    let mut total = 0;
    loop {
        let mut line = String::new();
        from.by_ref().take(1024).read_line(&mut line)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad())?;
        if size == 0 {
            return Ok(total);
        }
        let copied = io::copy(&mut from.by_ref().take(size), to)?;
        total += copied;
        line.clear();
        from.by_ref().take(2).read_line(&mut line)?;
        if copied < size || line != "\r\n" {
            return Err(bad());
        }
    }
}

/// Connects to the first address of the name that answers.
fn connect(address: &str) -> Result<TcpStream, Failure> {
    let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
    let addresses = address.to_socket_addrs().map_err(|_| Failure::new(format!("bad address '{name}'")))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                last = Some(Failure::new(format!(
                    "can't connect to remote host ({address}): {}",
                    reason(&error)
                )))
            }
        }
    }
    Err(last.unwrap_or_else(|| Failure::new(format!("bad address '{name}'"))))
}

pub fn nc(call: &mut Call) -> Outcome {
    const USAGE: &str = "nc [-v] [-z] HOST PORT, or nc -l [-k] [-p] PORT";
    let options = parse(call.operands(), "lp:kvznw:q:", &[])?;
    let mut operands = options.operands.iter();
    if options.has('l') {
        let port = options.value('p').or_else(|| operands.next_back().map(String::as_str));
        let port: u16 = port.and_then(|p| p.parse().ok()).ok_or_else(|| Failure::usage(USAGE))?;
        let listener = TcpListener::bind(("0.0.0.0", port))
            .map_err(|e| Failure::about(format_args!("bind: {port}"), &e))?;
        loop {
            let (stream, peer) = listener.accept()?;
            if options.has('v') {
                writeln!(call.err, "connect from {peer}")?;
            }
            talk(call, stream)?;
            if !options.has('k') {
                return Ok(0);
            }
        }
    }
    let (Some(host), Some(port)) = (operands.next(), operands.next()) else {
        return Err(Failure::usage(USAGE));
    };
    let port: u16 = port.parse().map_err(|_| Failure::usage(USAGE))?;
    let stream = connect(&format!("{host}:{port}"))?;
    if options.has('v') {
        writeln!(call.err, "{host} ({}) open", stream.peer_addr()?)?;
    }
    if !options.has('z') {
        talk(call, stream)?;
    }
    Ok(0)
}

/// Both ways at once where the input is the module's own; what comes from a pipe is sent whole first.
fn talk(call: &mut Call, mut stream: TcpStream) -> Result<(), Failure> {
    let mut out: Out = call.out.clone();
    out.flush()?;
    if call.stdin.is_own {
        return Ok(platform::converse(stream, &out)?);
    }
    io::copy(&mut call.stdin, &mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut stream, &mut out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    #[test]
    fn urls_are_host_and_path() {
        for (url, expected) in [
            ("http://web", Some(("web", "/"))),
            ("web:8080/a?b#c", Some(("web:8080", "/a?b"))),
            ("http://[::1]:80?x", Some(("[::1]:80", "/?x"))),
            ("https://web/", None),
            ("http:///x", None),
        ] {
            let split = super::split_url(url).ok();
            assert_eq!(split, expected.map(|(h, p)| (h.to_owned(), p.to_owned())), "{url}");
        }
    }

    #[test]
    fn chunks_are_joined_and_bad_ones_refused() {
        let read = |text: &str| {
            let mut body = Vec::new();
            super::copy_chunks(&mut BufReader::new(text.as_bytes()), &mut body).map(|_| body).ok()
        };
        assert_eq!(read("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"), Some(b"abcde".to_vec()));
        assert_eq!(read("3\r\nab"), None);
        assert_eq!(read("zz\r\n"), None);
        assert_eq!(read(""), None);
    }
}
