//! Where a guest's traffic may go, by address alone. Pure.
//!
//! The default is Kubernetes' own, everything is allowed, with what would break out of the sandbox taken
//! away: the node's addresses and loopback, link-local and metadata addresses, multicast. Names are
//! judged by what they resolve to, at the moment of the connection, so rebinding gains nothing. Who may
//! go there beyond that is for [`admit`](crate::admit) to say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds that do not live in the link-local range: Alibaba, Azure's wire server,
/// Oracle (classic), AWS over IPv6.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// What kind of place an address outside the cluster's ranges is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The pod's own loopback.
    Loopback,
    /// Nobody's address: dialling it is a mistake.
    Unspecified,
    /// An ordinary host, if it is not the node itself.
    Outside,
    /// Never reachable by a guest.
    Forbidden,
}

/// The address an IPv6 spelling of an IPv4 address really means, so that no spelling slips past.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        // IPv4-mapped and the deprecated IPv4-compatible form (but :: and ::1 are themselves).
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => embedded(high, low),
        // NAT64 and 6to4 lead to the embedded IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        _ => address,
    }
}

fn embedded(high: u16, low: u16) -> IpAddr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d).into()
}

/// The address that stands for all of this one's family.
pub(crate) fn wildcard(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Judges a [`canonical`] address.
pub(crate) fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            if v4.is_loopback() {
                Place::Loopback
            } else if v4.is_unspecified() {
                Place::Unspecified
            } else if first == 0 || first >= 224 || v4.is_link_local() || METADATA_V4.contains(&v4) {
                Place::Forbidden
            } else {
                Place::Outside
            }
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            if v6.is_loopback() {
                Place::Loopback
            } else if v6.is_unspecified() {
                Place::Unspecified
            } else if v6.is_multicast()
                || (0xfe80..=0xfeff).contains(&first)
                || v6 == METADATA_V6
                || first == 0
            {
                Place::Forbidden
            } else {
                Place::Outside
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expected: Place) {
        assert_eq!(place(canonical(address.parse().expect("an address"))), expected, "{address}");
    }

    #[test]
    fn places() {
        for address in
            ["127.0.0.1", "127.255.0.3", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1"]
        {
            check(address, Place::Loopback);
        }
        for address in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            check(address, Place::Unspecified);
        }
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "169.254.0.1",
            "224.0.0.1",
            "239.1.2.3",
            "255.255.255.255",
            "240.0.0.1",
            "0.1.2.3",
            "100.100.100.200",
            "168.63.129.16",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            check(address, Place::Forbidden);
        }
        for address in ["1.1.1.1", "192.168.1.1", "10.1.2.3", "172.16.0.1", "2606:4700::1111", "fd00::1"] {
            check(address, Place::Outside);
        }
    }
}
