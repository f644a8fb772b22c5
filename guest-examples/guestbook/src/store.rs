//! The store: one leader takes the entries, followers copy them and answer readers.
//!
//! A follower asks the leader again and again for what it has not yet: `GET /log?life=L&after=N`. `life` names one life of
//! the leader; the followers of a new one begin anew. A leader that starts takes over what a follower knows, so that the
//! entries outlive it.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kit::{Answer, Request};

/// Entries that are kept; the oldest go.
const MAX_ENTRIES: usize = 1000;
/// The longest name and the longest message, in characters.
const MAX_TEXT: usize = 500;
/// How often a follower asks.
const PERIOD: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    id: u64,
    name: String,
    message: String,
}

#[derive(Debug, Default, PartialEq)]
struct Store {
    life: u64,
    entries: VecDeque<Entry>,
}

/// The leader.
pub fn lead(port: u16) -> io::Result<()> {
    let followers = kit::var("FOLLOWERS", "guestbook-followers");
    let mut store = Store::default();
    // Without followers this is the beginning.
    if let Ok(log) = kit::get(&followers, "/log") {
        store.adopt(&log);
        println!("{} entries taken over from a follower", store.entries.len());
    }
    store.life = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    kit::serve(port, move |request: &Request| match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/entries") => match store.sign(&request.body) {
            Some(entry) => Answer { code: 201, ..Answer::json(entry.json() + "\n") },
            None => Answer::error(400, "name=…&message=… is wanted"),
        },
        _ => store.answer(request),
    })
}

/// A follower.
pub fn follow(port: u16) -> io::Result<()> {
    let leader = kit::var("LEADER", "guestbook-leader");
    let mut reached = true;
    let copy = move |store: &mut Store| match kit::get(
        &leader,
        &format!("/log?life={}&after={}", store.life, store.last()),
    ) {
        Ok(log) => {
            store.adopt(&log);
            reached = true;
        }
        Err(error) => {
            if std::mem::take(&mut reached) {
                eprintln!("{leader}: {error}; what is here stays readable");
            }
        }
    };
    kit::serve_and(port, Store::default(), PERIOD, copy, |store, request| match request.method.as_str() {
        "POST" => Answer::error(405, "a follower takes no entries"),
        _ => store.answer(request),
    })
}

impl Entry {
    fn json(&self) -> String {
        format!(
            "{{\"id\":{},\"name\":{},\"message\":{}}}",
            self.id,
            kit::json(&self.name),
            kit::json(&self.message)
        )
    }
}

impl Store {
    fn last(&self) -> u64 {
        self.entries.back().map_or(0, |entry| entry.id)
    }

    fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        self.entries.drain(..self.entries.len().saturating_sub(MAX_ENTRIES));
    }

    fn sign(&mut self, form: &str) -> Option<Entry> {
        let text = |name| {
            let text: String = kit::field(form, name)?.trim().chars().take(MAX_TEXT).collect();
            (!text.is_empty()).then_some(text)
        };
        let entry = Entry { id: self.last() + 1, name: text("name")?, message: text("message")? };
        self.push(entry.clone());
        Some(entry)
    }

    fn answer(&self, request: &Request) -> Answer {
        match request.path.as_str() {
            "/healthz" => Answer::text("ok\n"),
            "/entries" => {
                let entries: Vec<String> = self.entries.iter().map(Entry::json).collect();
                Answer::json(format!("[{}]\n", entries.join(",")))
            }
            "/log" => Answer::text(self.log(&request.query)),
            _ => Answer::not_found(),
        }
    }

    /// The leader's life, then a line for every entry that the asker has not.
    fn log(&self, query: &str) -> String {
        let number = |name| kit::field(query, name).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let after = if number("life") == self.life { number("after") } else { 0 };
        let mut log = format!("{}\n", self.life);
        for Entry { id, name, message } in self.entries.iter().filter(|entry| entry.id > after) {
            log.push_str(&format!("{id}\t{}\t{}\n", escape(name), escape(message)));
        }
        log
    }

    /// Takes over what a log says.
    fn adopt(&mut self, log: &str) {
        let mut lines = log.lines();
        let Some(life) = lines.next().and_then(|life| life.parse().ok()) else { return };
        if life != self.life {
            *self = Store { life, ..Store::default() };
        }
        for line in lines {
            let mut fields = line.split('\t');
            if let (Some(Ok(id)), Some(name), Some(message)) =
                (fields.next().map(str::parse), fields.next(), fields.next())
                && id > self.last()
            {
                self.push(Entry { id, name: kit::decode(name), message: kit::decode(message) });
            }
        }
    }
}

/// Text without tabs and line ends, as [`kit::decode`] reads it.
fn escape(text: &str) -> String {
    text.replace('%', "%25")
        .replace('+', "%2B")
        .replace('\t', "%09")
        .replace('\n', "%0A")
        .replace('\r', "%0D")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_get_what_they_lack_and_begin_anew_with_a_new_leader() {
        let mut leader = Store { life: 7, ..Store::default() };
        leader.sign("name=Ann&message=100%25+\"fun\"%09%0A+%2B").unwrap();
        leader.sign("name=Bob&message=hi").unwrap();
        assert_eq!(leader.sign("name=+&message=nobody"), None);
        let mut follower = Store::default();
        follower.adopt(&leader.log("life=0&after=0"));
        assert_eq!(follower, leader);
        assert_eq!(leader.log("life=7&after=2"), "7\n");
        leader.sign("name=Cy&message=late").unwrap();
        follower.adopt(&leader.log("life=7&after=2"));
        follower.adopt(&leader.log("life=7&after=2"));
        assert_eq!(follower, leader, "copied twice is copied once");
        let new = Store { life: 8, ..Store::default() };
        follower.adopt(&new.log("life=7&after=3"));
        assert_eq!(follower, new);
        follower.adopt("no log\n1\tx\ty\n");
        assert_eq!(follower, new);
    }
}
