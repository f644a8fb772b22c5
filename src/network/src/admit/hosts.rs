//! `coracle.dev/egress-hosts`: the names of the hosts outside that a pod may reach.
//!
//! A name allows addresses: those that the pod's own look-up of it answered, for [`HOST_BINDING`] from that
//! moment. What the pod knows from elsewhere, or learnt long ago, it must look up (again).

use std::collections::HashMap;
use std::net::IpAddr;

use tokio::time::Instant;

use crate::limits::{EGRESS_HOSTS, HOST_BINDING, HOST_BINDINGS};

/// The names that a pod's annotation lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hosts {
    patterns: Box<[Pattern]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// This name.
    Exact(Box<str>),
    /// Every name below this one; with its leading dot.
    Below(Box<str>),
}

impl Hosts {
    /// Reads `api.example.org, *.cdn.example.org`: names between commas or blanks. What is no name allows nothing.
    pub(crate) fn parse(text: &str) -> Hosts {
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        Hosts { patterns: words.take(EGRESS_HOSTS).filter_map(Pattern::parse).collect() }
    }

    /// Whether the list has this name (lower case, no final dot).
    pub(crate) fn has(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::Exact(exact) => **exact == *name,
            Pattern::Below(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
        })
    }
}

impl Pattern {
    fn parse(word: &str) -> Option<Pattern> {
        let word = word.strip_suffix('.').unwrap_or(word).to_ascii_lowercase();
        let (name, below) = match word.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (&*word, false),
        };
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letter);
        let valid = name.len() <= 253 && name.split('.').all(label);
        valid.then(|| if below { Pattern::Below(word[1..].into()) } else { Pattern::Exact(word.into()) })
    }
}

/// The addresses that a pod's look-ups have allowed, and until when.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    until: HashMap<IpAddr, Instant>,
}

impl Bindings {
    /// Allows the addresses that a name on the list has now.
    pub(crate) fn bind(&mut self, addresses: &[IpAddr], now: Instant) {
        for address in addresses {
            if self.until.len() >= HOST_BINDINGS && !self.until.contains_key(address) {
                self.until.retain(|_, until| *until > now);
                // All are recent: the one that ends first makes room.
                let first = self.until.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address);
                if let Some(first) = first.filter(|_| self.until.len() >= HOST_BINDINGS) {
                    self.until.remove(&first);
                }
            }
            self.until.insert(*address, now + HOST_BINDING);
        }
    }

    /// Whether an address is allowed now.
    pub(crate) fn has(&self, address: IpAddr, now: Instant) -> bool {
        self.until.get(&address).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(annotation: &str, name: &str, expected: bool) {
        assert_eq!(Hosts::parse(annotation).has(name), expected, "{annotation:?} {name:?}");
    }

    #[test]
    fn names_and_what_lies_below_them() {
        check("api.example.org", "api.example.org", true);
        check("API.Example.org.", "api.example.org", true);
        check("api.example.org", "x.api.example.org", false);
        check("api.example.org", "example.org", false);
        check("*.example.org", "a.example.org", true);
        check("*.example.org", "a.b.example.org", true);
        check("*.example.org", "example.org", false);
        check("*.example.org", ".example.org", false);
        check("*.example.org", "badexample.org", false);
        check("a.example.org, *.b.example.org\n c.example.org", "c.example.org", true);
        check("a.example.org, *.b.example.org", "x.b.example.org", true);
        for nothing in ["", " , ", "*", "*.", "*.*.example.org", "a.*.example.org", "a/b", "10.0.0.0/8", "."]
        {
            check(nothing, "a.example.org", false);
            check(nothing, "", false);
        }
        let many = "x.org ".repeat(EGRESS_HOSTS) + "last.org";
        check(&many, "last.org", false);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_allowed_for_a_while() {
        let mut bindings = Bindings::default();
        let address = |last: u32| IpAddr::V4(Ipv4Addr::from(0xcb00_7100 + last));
        bindings.bind(&[address(1)], Instant::now());
        tokio::time::advance(HOST_BINDING - Duration::from_secs(1)).await;
        assert!(bindings.has(address(1), Instant::now()) && !bindings.has(address(2), Instant::now()));
        bindings.bind(&[address(1)], Instant::now());
        tokio::time::advance(HOST_BINDING - Duration::from_secs(1)).await;
        assert!(bindings.has(address(1), Instant::now()), "a new look-up begins the time anew");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!bindings.has(address(1), Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_looks_up_everything_is_bounded() {
        let mut bindings = Bindings::default();
        let count = u32::try_from(HOST_BINDINGS).expect("small");
        for last in 0..count + 10 {
            bindings.bind(&[IpAddr::V4(Ipv4Addr::from(0x0100_0000 + last))], Instant::now());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(bindings.until.len(), HOST_BINDINGS);
        let newest = IpAddr::V4(Ipv4Addr::from(0x0100_0000 + count + 9));
        assert!(bindings.has(newest, Instant::now()), "the newest stay");
    }
}
