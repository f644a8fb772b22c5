//! `nslookup`: asks the resolver, or speaks DNS itself where a type, a server or a connection (`-vc`) is named.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::{Duration, SystemTime},
};

use crate::call::{Call, Failure, Out, Outcome};

const USAGE: &str = "nslookup [-type=A|AAAA|CNAME|NS|PTR|SRV|TXT] [-vc] NAME [SERVER]";
/// A server that is silent for so long is given up, where reading has a time limit.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any answer over UDP.
const DATAGRAM: usize = 4096;

const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const TYPES: [(&str, u16); 7] =
    [("A", A), ("AAAA", AAAA), ("CNAME", CNAME), ("NS", NS), ("PTR", PTR), ("SRV", SRV), ("TXT", TXT)];

pub fn nslookup(call: &mut Call) -> Outcome {
    let usage = || Failure::usage(USAGE);
    let (mut types, mut circuit, mut words) = (Vec::new(), false, Vec::new());
    for word in call.operands() {
        match word.strip_prefix('-').map(|option| option.split_once('=').unwrap_or((option, ""))) {
            None => words.push(word.as_str()),
            Some(("vc", "")) => circuit = true,
            Some(("type" | "query" | "querytype" | "q", name)) => {
                let known = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                types = vec![known.ok_or_else(|| Failure::new(format!("unknown query type: {name}")))?.1];
            }
            Some(_) => return Err(usage()),
        }
    }
    let (name, server) = match words[..] {
        [name] => (name, None),
        [name, server] => (name, Some(server)),
        _ => return Err(usage()),
    };
    let mut out = call.out.clone();
    if types.is_empty() && !circuit && server.is_none() {
        return resolve(name, &mut out);
    }
    if types.is_empty() {
        types = usual(name);
    }
    let text = fs::read_to_string(call.path("/etc/resolv.conf")).unwrap_or_default();
    let settings = Settings::read(&text);
    let server = match server {
        Some(server) => address_of(server)?,
        None => settings.server.ok_or_else(|| Failure::new("/etc/resolv.conf names no server"))?,
    };
    writeln!(out, "Server:\t\t{server}\nAddress:\t{server}#53\n")?;
    let server = SocketAddr::new(server, 53);
    let mut code = 3;
    for name in settings.names(name) {
        let mut lines = Vec::new();
        for kind in &types {
            let answer = ask(server, &name, *kind, circuit)?;
            // What another question was answered with is no worse for this one.
            code = answer.code;
            lines.extend(answer.records.iter().filter_map(Record::line));
        }
        if !lines.is_empty() {
            let mut seen = BTreeSet::new();
            lines.retain(|line| seen.insert(line.clone()));
            lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            return Ok(0);
        }
    }
    Err(Failure::new(match code {
        0 => format!("*** Can't find {name}: No answer"),
        2 => format!("** server can't find {name}: SERVFAIL"),
        3 => format!("** server can't find {name}: NXDOMAIN"),
        5 => format!("** server can't find {name}: REFUSED"),
        code => format!("** server can't find {name}: RCODE {code}"),
    }))
}

/// What is asked where no type is named: the name of an address, the addresses of anything else.
fn usual(name: &str) -> Vec<u16> {
    if name.parse::<IpAddr>().is_ok() { vec![PTR] } else { vec![A, AAAA] }
}

/// What any program of the pod is told by its resolver.
fn resolve(name: &str, out: &mut Out) -> Outcome {
    let addresses = (name, 0).to_socket_addrs();
    let addresses: BTreeSet<_> = addresses.into_iter().flatten().map(|a| a.ip()).collect();
    if addresses.is_empty() {
        return Err(Failure::new(format!("can't resolve '{name}'")));
    }
    for address in addresses {
        writeln!(out, "Name:\t{name}\nAddress: {address}")?;
    }
    Ok(0)
}

fn address_of(server: &str) -> Result<IpAddr, Failure> {
    let mut found = (server, 53).to_socket_addrs().into_iter().flatten();
    found.next().map(|a| a.ip()).ok_or_else(|| Failure::new(format!("couldn't get address for '{server}'")))
}

/// What `/etc/resolv.conf` says.
#[derive(Debug, PartialEq)]
struct Settings {
    server: Option<IpAddr>,
    search: Vec<String>,
    dots: usize,
}

impl Settings {
    fn read(text: &str) -> Settings {
        let mut settings = Settings { server: None, search: Vec::new(), dots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if settings.server.is_none() => {
                    settings.server = words.next().and_then(|word| word.parse().ok());
                }
                Some("search" | "domain") => settings.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    settings.dots = dots.unwrap_or(settings.dots);
                }
                _ => {}
            }
        }
        settings
    }

    /// The names to ask for, one after the other. An address stands for the name that it is found by.
    fn names(&self, name: &str) -> Vec<String> {
        match name.parse() {
            Ok(IpAddr::V4(ip)) => {
                let [a, b, c, d] = Ipv4Addr::octets(&ip);
                return vec![format!("{d}.{c}.{b}.{a}.in-addr.arpa")];
            }
            Ok(IpAddr::V6(ip)) => {
                let digits = u128::from(ip);
                let digits = (0..32).map(|at| format!("{:x}.", digits >> (4 * at) & 0xf));
                return vec![digits.collect::<String>() + "ip6.arpa"];
            }
            Err(_) => {}
        }
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let mut names: Vec<_> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let at = if name.matches('.').count() >= self.dots { 0 } else { names.len() };
        names.insert(at, name.to_owned());
        names
    }
}

/// Asks over UDP, or over TCP if that is wanted or the answer is too long for a datagram.
fn ask(server: SocketAddr, name: &str, kind: u16, circuit: bool) -> Result<Answer, Failure> {
    let id = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.subsec_nanos() as u16);
    let question = question(id, name, kind).ok_or_else(|| Failure::new(format!("'{name}' is not a name")))?;
    let failed = |error: io::Error| Failure::about(server.ip(), &error);
    if !circuit {
        let answer = over_udp(server, &question).map_err(failed)?;
        let answer = Answer::read(&answer, id).ok_or_else(|| Failure::new("bad answer"))?;
        if !answer.truncated {
            return Ok(answer);
        }
    }
    let answer = over_tcp(server, &question).map_err(failed)?;
    Answer::read(&answer, id).ok_or_else(|| Failure::new("bad answer"))
}

fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE)).ok();
    socket.send(question)?;
    let mut answer = vec![0; DATAGRAM];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE)).ok();
    let length = (question.len() as u16).to_be_bytes();
    stream.write_all(&[&length, question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A message with one question; `None` if this is no name.
fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    // Recursion is desired; one question.
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    (name.len() <= 253).then_some(message)
}

#[derive(Debug, PartialEq)]
struct Answer {
    code: u8,
    truncated: bool,
    records: Vec<Record>,
}

#[derive(Debug, PartialEq)]
struct Record {
    name: String,
    kind: u16,
    data: Data,
}

#[derive(Debug, PartialEq)]
enum Data {
    Address(IpAddr),
    Name(String),
    Service(u16, u16, u16, String),
    Text(String),
    Other,
}

impl Record {
    /// As people read it.
    fn line(&self) -> Option<String> {
        let Record { name, kind, data } = self;
        Some(match (data, *kind) {
            (Data::Address(ip), _) => format!("Name:\t{name}\nAddress: {ip}"),
            (Data::Name(target), CNAME) => format!("{name}\tcanonical name = {target}."),
            (Data::Name(target), NS) => format!("{name}\tnameserver = {target}."),
            (Data::Name(target), _) => format!("{name}\tname = {target}."),
            (Data::Service(priority, weight, port, target), _) => {
                format!("{name}\tservice = {priority} {weight} {port} {target}.")
            }
            (Data::Text(text), _) => format!("{name}\ttext = {text:?}"),
            (Data::Other, _) => return None,
        })
    }
}

impl Answer {
    /// The answer to the question of that number; `None` if it is none.
    fn read(message: &[u8], id: u16) -> Option<Answer> {
        let mut from = Reader { message, at: 0 };
        let (found, flags, questions, records) =
            (from.number()?, from.number()?, from.number()?, from.number()?);
        if found != id || flags & 0x8000 == 0 {
            return None;
        }
        from.skip(4)?;
        for _ in 0..questions {
            from.name()?;
            from.skip(4)?;
        }
        let records: Option<Vec<_>> = (0..records).map(|_| from.record()).collect();
        Some(Answer { code: (flags & 0xf) as u8, truncated: flags & 0x0200 != 0, records: records? })
    }
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.take(length).map(drop)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// A name, whose end may be somewhere before.
    fn name(&mut self) -> Option<String> {
        let (mut name, mut after) = (String::new(), None);
        loop {
            let length = self.take(1)?[0];
            match length {
                0 => break,
                1..=63 => {
                    let label = self.take(length.into())?;
                    name.extend((!name.is_empty()).then_some('.'));
                    name.push_str(&String::from_utf8_lossy(label));
                }
                // Who points forward, or to itself, may go round in circles.
                0xc0.. => {
                    let start = self.at - 1;
                    let to = usize::from(length & 0x3f) << 8 | usize::from(self.take(1)?[0]);
                    after.get_or_insert(self.at);
                    self.at = Some(to).filter(|to| *to < start)?;
                }
                _ => return None,
            }
            if name.len() > 255 {
                return None;
            }
        }
        self.at = after.unwrap_or(self.at);
        Some(name)
    }

    fn record(&mut self) -> Option<Record> {
        let name = self.name()?;
        let kind = self.number()?;
        self.skip(6)?;
        let length = self.number()?;
        let end = self.at.checked_add(length.into())?;
        let data = match kind {
            A => Data::Address(<[u8; 4]>::try_from(self.take(4)?).ok()?.into()),
            AAAA => Data::Address(<[u8; 16]>::try_from(self.take(16)?).ok()?.into()),
            NS | CNAME | PTR => Data::Name(self.name()?),
            SRV => Data::Service(self.number()?, self.number()?, self.number()?, self.name()?),
            TXT => {
                let mut text = String::new();
                while self.at < end {
                    let length = self.take(1)?[0];
                    text.push_str(&String::from_utf8_lossy(self.take(length.into())?));
                }
                Data::Text(text)
            }
            _ => {
                self.skip(length.into())?;
                Data::Other
            }
        };
        (self.at == end).then_some(Record { name, kind, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = "search ns.svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver 10.0.0.1\noptions ndots:5 edns0\n";

    #[test]
    fn names_are_searched_for_as_the_file_says() {
        let settings = Settings::read(CONF);
        assert_eq!(settings.server, "10.96.0.10".parse().ok());
        #[track_caller]
        fn check(text: &str, name: &str, expected: &[&str]) {
            assert_eq!(Settings::read(text).names(name), expected, "{name}");
        }
        check(CONF, "web", &["web.ns.svc.cluster.local", "web.cluster.local", "web"]);
        check(
            CONF,
            "a.b.c.d.e.f",
            &["a.b.c.d.e.f", "a.b.c.d.e.f.ns.svc.cluster.local", "a.b.c.d.e.f.cluster.local"],
        );
        check(CONF, "web.", &["web"]);
        check("", "web", &["web"]);
        check(CONF, "10.96.0.1", &["1.0.96.10.in-addr.arpa"]);
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        check(CONF, "fd00::1", &[v6]);
    }

    #[test]
    fn an_address_is_asked_for_its_name() {
        for address in ["10.96.0.1", "fd00::1"] {
            assert_eq!(usual(address), [PTR]);
        }
        assert_eq!(usual("web"), [A, AAAA]);
    }

    /// An answer to question 7 for `a.b`, with these records behind a pointer to its name.
    fn answer(flags: u16, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question(7, "a.b", A).unwrap();
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[7] = records.len() as u8;
        for (kind, data) in records {
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 5]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        message
    }

    #[test]
    fn answers_are_read() {
        let records: [(u16, &[u8]); 6] = [
            (A, &[10, 0, 0, 1]),
            (AAAA, &[0; 16]),
            (CNAME, &[1, b'c', 0xc0, 12]),
            (SRV, &[0, 1, 0, 2, 0, 80, 1, b'd', 0]),
            (TXT, b"\x02hi\x01!"),
            (6, &[1, 2, 3]),
        ];
        let message = answer(0x8180, &records);
        let read = Answer::read(&message, 7).unwrap();
        assert_eq!((read.code, read.truncated, read.records.len()), (0, false, 6));
        let lines: Vec<_> = read.records.iter().filter_map(Record::line).collect();
        let expected = [
            "Name:\ta.b\nAddress: 10.0.0.1",
            "Name:\ta.b\nAddress: ::",
            "a.b\tcanonical name = c.a.b.",
            "a.b\tservice = 1 2 80 d.",
            "a.b\ttext = \"hi!\"",
        ];
        assert_eq!(lines, expected);
        for end in 0..message.len() {
            assert_eq!(Answer::read(&message[..end], 7), None, "cut at {end}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        #[track_caller]
        fn check(message: &[u8], expected: Option<(u8, bool)>) {
            assert_eq!(Answer::read(message, 7).map(|answer| (answer.code, answer.truncated)), expected);
        }
        check(&answer(0x8183, &[]), Some((3, false)));
        check(&answer(0x8380, &[]), Some((0, true)));
        check(&answer(0x0100, &[]), None);
        check(&[&[0, 8], &answer(0x8180, &[])[2..]].concat(), None);
        // To itself, forward, and longer than it says.
        check(&answer(0x8180, &[(CNAME, &[0xc0, 33])]), None);
        check(&answer(0x8180, &[(CNAME, &[0xc0, 99])]), None);
        check(&answer(0x8180, &[(A, &[1, 2, 3, 4, 5])]), None);
        assert_eq!(question(7, "a..b", A), None);
        assert_eq!(question(7, &"a.".repeat(200), A), None);
    }
}
