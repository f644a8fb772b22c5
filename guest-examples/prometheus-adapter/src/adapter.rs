//! The adapter: the old program's statistics as metrics.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use kit::{Answer, Request};

/// A neighbour that is silent for so long is reported as down.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const MAX_BYTES: u64 = 64 * 1024;

/// What is known of the statistics: name there, name here, type, help. What is not listed becomes a gauge.
const KNOWN: [(&str, &str, &str, &str); 5] = [
    ("curr_items", "items", "gauge", "Keys in the store."),
    ("total_connections", "connections_total", "counter", "Clients since the start."),
    ("cmd_get", "gets_total", "counter", "Reads since the start."),
    ("get_hits", "hits_total", "counter", "Reads that found something."),
    ("cmd_set", "sets_total", "counter", "Writes since the start."),
];

/// Serves `/metrics` until the container is asked to end.
pub fn run() -> io::Result<()> {
    let source = kit::var("SOURCE", "localhost:11211");
    let port = kit::number("PORT", 9100) as u16;
    println!("metrics of {source} on port {port}");
    kit::serve(port, move |request: &Request| match request.path.as_str() {
        "/healthz" => Answer::text("ok\n"),
        "/metrics" => {
            let stats = stats(&source).inspect_err(|error| eprintln!("{source}: {error}")).ok();
            Answer::new(200, "text/plain; version=0.0.4; charset=utf-8", metrics(stats.as_deref()))
        }
        _ => Answer::not_found(),
    })
}

/// What the old program says to `stats`.
fn stats(source: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(source)?;
    stream.set_read_timeout(Some(PATIENCE)).ok();
    stream.write_all(b"stats\r\n")?;
    let mut stats = String::new();
    let mut lines = BufReader::new(stream.take(MAX_BYTES));
    loop {
        let start = stats.len();
        if lines.read_line(&mut stats)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if stats[start..].trim() == "END" {
            return Ok(stats);
        }
    }
}

/// The metrics; without statistics only that there are none.
fn metrics(stats: Option<&str>) -> String {
    let mut text = format!(
        "# HELP legacy_up Whether the old store answered.\n# TYPE legacy_up gauge\nlegacy_up {}\n",
        u8::from(stats.is_some())
    );
    for line in stats.unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let (Some("STAT"), Some(name), Some(value)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        // Versions and other texts are no metrics.
        if value.parse::<f64>().is_err() {
            continue;
        }
        let valid: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let (name, kind, help) = match KNOWN.iter().find(|(old, ..)| *old == name) {
            Some((_, name, kind, help)) => (*name, *kind, *help),
            None => (valid.as_str(), "gauge", "A statistic of the old store."),
        };
        text.push_str(&format!(
            "# HELP legacy_{name} {help}\n# TYPE legacy_{name} {kind}\nlegacy_{name} {value}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::legacy::Store;

    #[test]
    fn statistics_become_metrics() {
        let mut store = Store::default();
        for line in ["set a 1 2", "get a", "get b"] {
            store.command(line);
        }
        assert_eq!(store.command("get a"), "VALUE a 1 2\r\nEND\r\n");
        assert_eq!(store.command("GET a"), "ERROR\r\n");
        let metrics = super::metrics(Some(&store.command("stats")));
        for line in [
            "legacy_up 1",
            "legacy_items 1",
            "legacy_gets_total 3",
            "legacy_hits_total 2",
            "legacy_sets_total 1",
        ] {
            assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
        }
        assert!(!metrics.contains("version"), "{metrics}");
        assert!(super::metrics(Some("STAT odd-name 1.5\nnonsense\n")).contains("\nlegacy_odd_name 1.5\n"));
        assert!(super::metrics(None).ends_with("legacy_up 0\n"));
    }
}
