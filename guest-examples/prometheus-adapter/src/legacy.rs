//! The old program: a memory store with a line protocol.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

/// Keys that are held, and the longest line.
const MAX_KEYS: usize = 10_000;
const MAX_LINE: u64 = 4096;
/// One client at a time: a silent one is let go.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Store {
    values: BTreeMap<String, String>,
    connections: u64,
    gets: u64,
    hits: u64,
    sets: u64,
}

/// Serves one client after the other, until the container is asked to end.
pub fn run() -> io::Result<()> {
    let port = kit::number("PORT", 11211) as u16;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("the old store listens on port {port}");
    let mut store = Store::default();
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                store.connections += 1;
                if let Err(error) = talk(&client, &mut store) {
                    eprintln!("client lost: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return Ok(()),
        }
    }
}

fn talk(mut client: &TcpStream, store: &mut Store) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE)).ok();
    let mut lines = BufReader::new(client);
    loop {
        let mut line = String::new();
        if lines.by_ref().take(MAX_LINE).read_line(&mut line)? == 0 || line.trim() == "quit" {
            return Ok(());
        }
        client.write_all(store.command(line.trim()).as_bytes())?;
    }
}

impl Store {
    pub fn command(&mut self, line: &str) -> String {
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("set"), Some(key), Some(value)) => {
                if self.values.len() >= MAX_KEYS && !self.values.contains_key(key) {
                    return "SERVER_ERROR out of memory\r\n".to_owned();
                }
                self.sets += 1;
                self.values.insert(key.to_owned(), value.to_owned());
                "STORED\r\n".to_owned()
            }
            (Some("get"), Some(key), None) => {
                self.gets += 1;
                let value = self.values.get(key);
                self.hits += u64::from(value.is_some());
                value.map_or_else(|| "END\r\n".to_owned(), |value| format!("VALUE {key} {value}\r\nEND\r\n"))
            }
            (Some("stats"), None, None) => {
                let stats = [
                    ("curr_items", self.values.len() as u64),
                    ("total_connections", self.connections),
                    ("cmd_get", self.gets),
                    ("get_hits", self.hits),
                    ("cmd_set", self.sets),
                ];
                let lines = stats.map(|(name, value)| format!("STAT {name} {value}\r\n"));
                lines.concat() + "STAT version 0.9-old\r\nEND\r\n"
            }
            _ => "ERROR\r\n".to_owned(),
        }
    }
}
