//! The ports of one pod for one protocol: who holds which address, and which ephemeral port is free.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use crate::NetworkError;
use crate::idset::IdSet;
use crate::policy::wildcard;

/// First ephemeral port and how many there are: Linux's default `ip_local_port_range`.
const EPHEMERAL_FIRST: u16 = 32768;
const EPHEMERAL_COUNT: usize = 60999 - 32768 + 1;

/// A table of bound addresses. `T` is what traffic to a bound address is handed to, once there is one.
#[derive(Debug)]
pub(crate) struct Ports<T> {
    bound: HashMap<u16, Vec<Bound<T>>>,
    count: usize,
    /// Which ephemeral ports are held, by a bind or by an outgoing connection. Made on first use.
    ephemeral: Option<Box<IdSet>>,
}

#[derive(Debug)]
struct Bound<T> {
    address: IpAddr,
    target: Option<Weak<T>>,
}

impl<T> Default for Ports<T> {
    fn default() -> Ports<T> {
        Ports { bound: HashMap::new(), count: 0, ephemeral: None }
    }
}

impl<T> Ports<T> {
    /// How many addresses are bound.
    pub(crate) fn bound(&self) -> usize {
        self.count
    }

    /// Holds an address; port 0 picks an ephemeral port that nobody holds on any address.
    ///
    /// An address is in use if the same address, or the wildcard of its family, holds the port. The two
    /// families do not collide (WASI's IPv6 sockets are IPv6 only), see [`Ports::find`].
    pub(crate) fn bind(&mut self, local: SocketAddr) -> Result<SocketAddr, NetworkError> {
        let address = local.ip();
        let port = match local.port() {
            0 => self.take_ephemeral().ok_or(NetworkError::AddressInUse(local))?,
            port => {
                let bound = self.bound.get(&port).map_or(&[][..], Vec::as_slice);
                if bound.iter().any(|other| collide(other.address, address)) {
                    return Err(NetworkError::AddressInUse(local));
                }
                let shared = !bound.is_empty();
                if let Some(id) = ephemeral_id(port)
                    && !self.ephemeral().claim(id)
                    && !shared
                {
                    return Err(NetworkError::AddressInUse(local));
                }
                port
            }
        };
        self.bound.entry(port).or_default().push(Bound { address, target: None });
        self.count += 1;
        Ok(SocketAddr::new(address, port))
    }

    /// Sets who gets what arrives at an address bound before.
    pub(crate) fn set_target(&mut self, local: SocketAddr, target: Weak<T>) {
        let bound = self.bound.get_mut(&local.port()).into_iter().flatten();
        if let Some(bound) = bound.into_iter().find(|bound| bound.address == local.ip()) {
            bound.target = Some(target);
        }
    }

    /// Frees an address bound before.
    pub(crate) fn unbind(&mut self, local: SocketAddr) {
        let Some(bound) = self.bound.get_mut(&local.port()) else { return };
        let Some(at) = bound.iter().position(|bound| bound.address == local.ip()) else { return };
        bound.swap_remove(at);
        self.count -= 1;
        if bound.is_empty() {
            self.bound.remove(&local.port());
            self.release_ephemeral(local.port());
        }
    }

    /// Picks a port for an outgoing connection.
    pub(crate) fn take_ephemeral(&mut self) -> Option<u16> {
        let id = self.ephemeral().take()?;
        Some(EPHEMERAL_FIRST + u16::try_from(id).expect("fewer than 28,232"))
    }

    /// Gives back what [`Ports::take_ephemeral`] gave.
    pub(crate) fn release_ephemeral(&mut self, port: u16) {
        if let Some(id) = ephemeral_id(port)
            && let Some(ephemeral) = &mut self.ephemeral
        {
            ephemeral.release(id);
        }
    }

    /// Who gets what arrives for `to`: the holder of that very address, else of its family's wildcard,
    /// else, for IPv4, of `::` — servers that bind `::` alone expect to be reached by IPv4, too.
    pub(crate) fn find(&self, to: SocketAddr) -> Option<Arc<T>> {
        let bound = self.bound.get(&to.port())?;
        let by = |address: IpAddr| {
            let bound = bound.iter().find(|bound| bound.address == address)?;
            bound.target.as_ref()?.upgrade()
        };
        by(to.ip())
            .or_else(|| by(wildcard(to.ip())))
            .or_else(|| if to.is_ipv4() { by(Ipv6Addr::UNSPECIFIED.into()) } else { None })
    }

    /// Everybody who gets something.
    pub(crate) fn targets(&self) -> Vec<Arc<T>> {
        self.bound.values().flatten().filter_map(|bound| bound.target.as_ref()?.upgrade()).collect()
    }

    fn ephemeral(&mut self) -> &mut IdSet {
        self.ephemeral.get_or_insert_with(|| Box::new(IdSet::new(EPHEMERAL_COUNT)))
    }
}

fn ephemeral_id(port: u16) -> Option<usize> {
    port.checked_sub(EPHEMERAL_FIRST).map(usize::from).filter(|id| *id < EPHEMERAL_COUNT)
}

fn collide(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[track_caller]
    fn check(held: &[&str], wanted: &str, free: bool) {
        let mut ports = Ports::<()>::default();
        for held in held {
            ports.bind(address(held)).expect("the first ones do not collide");
        }
        assert_eq!(ports.bind(address(wanted)).is_ok(), free, "{held:?} then {wanted}");
    }

    #[test]
    fn address_in_use() {
        check(&[], "0.0.0.0:80", true);
        check(&["0.0.0.0:80"], "0.0.0.0:80", false);
        check(&["0.0.0.0:80"], "127.0.0.1:80", false);
        check(&["127.0.0.1:80"], "0.0.0.0:80", false);
        check(&["127.0.0.1:80"], "10.0.0.1:80", true);
        check(&["127.0.0.1:80", "10.0.0.1:80"], "10.0.0.1:80", false);
        check(&["0.0.0.0:80"], "0.0.0.0:81", true);
        check(&["0.0.0.0:80"], "[::]:80", true);
        check(&["0.0.0.0:80", "[::]:80"], "[::1]:80", false);
        check(&["127.0.0.1:40000"], "10.0.0.1:40000", true);
        check(&["127.0.0.1:40000", "10.0.0.1:40000"], "0.0.0.0:40000", false);
    }

    #[test]
    fn explicit_and_ephemeral_ports_keep_apart() {
        let mut ports = Ports::<()>::default();
        let first = ports.take_ephemeral().expect("all are free");
        assert!(ports.bind(SocketAddr::new(address("0.0.0.0:0").ip(), first)).is_err());
        let bound = ports.bind(address(&format!("0.0.0.0:{}", first + 1))).expect("free");
        assert_eq!(ports.take_ephemeral(), Some(first + 2), "a bound port is not given out");
        ports.unbind(bound);
        ports.release_ephemeral(first);
        let mut seen = std::collections::BTreeSet::new();
        while let Some(port) = ports.take_ephemeral() {
            assert!(seen.insert(port));
        }
        assert_eq!(seen.len(), EPHEMERAL_COUNT - 1);
    }

    #[test]
    fn the_most_specific_holder_gets_it() {
        let mut ports = Ports::<u8>::default();
        let holders: Vec<_> = ["[::]:80", "0.0.0.0:80", "[::]:81", "10.0.0.1:82", "[::]:82"]
            .iter()
            .zip(0u8..)
            .map(|(local, id)| {
                let target = Arc::new(id);
                ports.bind(address(local)).expect("free");
                ports.set_target(address(local), Arc::downgrade(&target));
                target
            })
            .collect();
        let find = |to: &str| ports.find(address(to)).map(|id| *id);
        assert_eq!(find("10.0.0.1:80"), Some(1));
        assert_eq!(find("[::1]:80"), Some(0));
        assert_eq!(find("127.0.0.1:81"), Some(2));
        assert_eq!(find("10.0.0.1:82"), Some(3));
        assert_eq!(find("127.0.0.1:82"), Some(4));
        assert_eq!(find("127.0.0.1:83"), None);
        drop(holders);
        assert_eq!(find("10.0.0.1:80"), None, "a target that is gone receives nothing");
    }
}
