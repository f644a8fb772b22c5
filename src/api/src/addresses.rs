//! The IPv6 ranges of a cluster: unique local ones, so that every cluster has its own without asking anybody.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

/// The /48 of RFC 4193 that belongs to the cluster with this CA: `fd`, then 40 bits that differ between clusters
/// and stay the same as long as the CA does. Nodes get their /64s from its low end.
pub fn cluster_v6(ca_pem: &str) -> Ipv6Net {
    // FNV-1a: nobody has to guess it, two clusters only must not have the same.
    let hash = ca_pem.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let global = u128::from((hash >> 40) ^ (hash & 0xff_ffff_ffff));
    Ipv6Net::new_assert(Ipv6Addr::from((0xfd << 120) | (global << 80)), 48)
}

/// The /112 of services in a cluster's /48: the beginning of its last /64, which no node gets before 65,535 others.
pub fn services_v6(cluster: Ipv6Net) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from(u128::from(cluster.network()) | (0xffff << 64)), 112)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_has_a_range_of_its_own() {
        let [a, b] = ["one", "two"].map(cluster_v6);
        assert_ne!(a, b);
        assert_eq!(a, cluster_v6("one"));
        assert_eq!((a.network().octets()[0], a.prefix_len(), a.trunc()), (0xfd, 48, a));
        let services = services_v6(a);
        assert!(a.contains(&services) && services.prefix_len() == 112 && services.trunc() == services);
    }
}
