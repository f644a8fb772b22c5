//! How a pod resolves names: what its `dnsPolicy`, `dnsConfig` and `hostAliases` come to, and the two files that
//! say so to programs that read them. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// `ndots` of a pod whose names are looked for in the cluster first.
const NDOTS_CLUSTER: usize = 5;
/// `ndots` where nobody says: that of `resolv.conf`.
const NDOTS_DEFAULT: usize = 1;
/// The most that `ndots` may be: that of `resolv.conf`.
const NDOTS_MAX: usize = 15;
/// Servers that a pod asks: Kubernetes' bound.
const SERVERS_MAX: usize = 3;
/// Search domains of a pod: Kubernetes' bound.
const SEARCHES_MAX: usize = 32;
/// Addresses that `hostAliases` give one name.
const ALIASES_MAX: usize = 1024;

/// What the names of a cluster end in, and who answers for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNames {
    /// `cluster.local`.
    pub domain: String,
    /// Where the cluster's DNS server is.
    pub server: IpAddr,
}

/// How one pod resolves names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Who is asked, in this order.
    pub servers: Vec<Server>,
    /// Where names that are not complete are looked for, in this order.
    pub searches: Vec<String>,
    /// A name with as many dots is first looked for as it is.
    pub ndots: usize,
    /// Options as `resolv.conf` has them.
    options: Vec<(String, Option<String>)>,
}

/// One who is asked for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The cluster's own, at this address: it also knows what the host's resolver knows.
    Cluster(IpAddr),
    /// The host's resolver.
    Host,
    /// A server that the pod reaches over its own network.
    Address(IpAddr),
}

impl DnsConfig {
    /// What a pod with `dnsPolicy: ClusterFirst` and no `dnsConfig` has.
    #[must_use]
    pub fn cluster_first(namespace: &str, cluster: &ClusterNames) -> DnsConfig {
        let domain = &cluster.domain;
        DnsConfig {
            servers: vec![Server::Cluster(cluster.server)],
            searches: vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()],
            ndots: NDOTS_CLUSTER,
            options: vec![("ndots".to_owned(), Some(NDOTS_CLUSTER.to_string()))],
        }
    }

    /// What a pod's spec asks for.
    #[must_use]
    pub fn of_pod(pod: &Pod, cluster: &ClusterNames) -> DnsConfig {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        // The pods of a node have no host network, so the two ways to ask the cluster first are one.
        let mut config = match spec.dns_policy.as_deref() {
            Some("None") => DnsConfig { servers: Vec::new(), ..DnsConfig::of_host() },
            Some("Default") => DnsConfig::of_host(),
            _ => DnsConfig::cluster_first(namespace, cluster),
        };
        let Some(given) = &spec.dns_config else { return config };
        for server in given.nameservers.iter().flatten().filter_map(|text| text.parse().ok()) {
            let server =
                if server == cluster.server { Server::Cluster(server) } else { Server::Address(server) };
            if !config.servers.contains(&server) {
                config.servers.push(server);
            }
        }
        config.servers.truncate(SERVERS_MAX);
        for search in given.searches.iter().flatten() {
            let search = search.trim_end_matches('.').to_ascii_lowercase();
            if !search.is_empty() && !config.searches.contains(&search) {
                config.searches.push(search);
            }
        }
        config.searches.truncate(SEARCHES_MAX);
        for option in given.options.iter().flatten() {
            let Some(name) = option.name.clone() else { continue };
            config.options.retain(|(known, _)| *known != name);
            if name == "ndots" {
                let ndots = option.value.as_deref().and_then(|value| value.parse().ok());
                config.ndots = ndots.map_or(NDOTS_DEFAULT, |ndots: usize| ndots.min(NDOTS_MAX));
            }
            config.options.push((name, option.value.clone()));
        }
        config
    }

    fn of_host() -> DnsConfig {
        DnsConfig {
            servers: vec![Server::Host],
            searches: Vec::new(),
            ndots: NDOTS_DEFAULT,
            options: Vec::new(),
        }
    }

    /// The names that are looked up for one that a program asks for, in this order.
    pub(crate) fn candidates<'a>(
        &'a self,
        name: &'a str,
        absolute: bool,
    ) -> impl Iterator<Item = String> + 'a {
        let searches: &[String] = if absolute { &[] } else { &self.searches };
        let first = absolute || name.matches('.').count() >= self.ndots;
        let before = first.then(|| name.to_owned());
        let after = (!first).then(|| name.to_owned());
        let searched = searches.iter().map(move |search| format!("{name}.{search}"));
        // What the search list makes too long is no name.
        before.into_iter().chain(searched).chain(after).filter(|name| name.len() <= 253)
    }

    /// `/etc/resolv.conf`. The host's resolver is reached through the cluster's server, wherever the pod may not know
    /// the host's own.
    #[must_use]
    pub fn resolv_conf(&self, cluster: &ClusterNames) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.servers {
            let address = match server {
                Server::Cluster(address) | Server::Address(address) => *address,
                Server::Host => cluster.server,
            };
            let _ = writeln!(text, "nameserver {address}");
        }
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
            let _ = writeln!(text, "options {}", options.collect::<Vec<_>>().join(" "));
        }
        text
    }
}

/// The names that a pod knows without asking anybody: its own, and its `hostAliases`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNames {
    /// The pod's own names, the longest first: `hostname.subdomain.namespace.svc.domain` if it has a subdomain.
    own: Vec<String>,
    aliases: Vec<(IpAddr, Vec<String>)>,
}

impl HostNames {
    /// What a pod with this host name knows.
    #[must_use]
    pub fn of_pod(pod: &Pod, hostname: &str, cluster: &ClusterNames) -> HostNames {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
        let full = subdomain.map(|name| format!("{hostname}.{name}.{namespace}.svc.{}", cluster.domain));
        let aliases = spec.and_then(|spec| spec.host_aliases.as_ref()).into_iter().flatten();
        let aliases = aliases.filter_map(|alias| {
            let names = alias.hostnames.iter().flatten().map(|name| name.to_ascii_lowercase());
            Some((alias.ip.parse().ok()?, names.collect()))
        });
        HostNames {
            own: full.into_iter().chain([hostname.to_owned()]).collect(),
            aliases: aliases.take(ALIASES_MAX).collect(),
        }
    }

    /// The name of the pod that says most: with its domain, if it has one.
    #[must_use]
    pub fn full(&self) -> &str {
        self.own.first().map_or("", String::as_str)
    }

    /// A pod with one name and no aliases.
    pub(crate) fn simple(hostname: &str) -> HostNames {
        HostNames { own: vec![hostname.to_owned()], aliases: Vec::new() }
    }

    /// The addresses of a name (lower case) that needs no server; `own` are the pod's.
    pub(crate) fn find(&self, name: &str, own: impl Iterator<Item = IpAddr>) -> Option<Vec<IpAddr>> {
        let is_own = self.own.iter().any(|known| known.eq_ignore_ascii_case(name));
        let mut found: Vec<IpAddr> = if is_own { own.collect() } else { Vec::new() };
        let aliased = self.aliases.iter().filter(|(_, names)| names.iter().any(|known| known == name));
        found.extend(aliased.map(|(address, _)| *address));
        (!found.is_empty()).then_some(found)
    }

    /// `/etc/hosts`, as the kubelet writes it.
    #[must_use]
    pub fn hosts_file(&self, own: &[IpAddr]) -> String {
        let mut text = "# Kubernetes-managed hosts file.\n".to_owned();
        let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        let _ = writeln!(text, "{v4}\tlocalhost\n{v6}\tlocalhost ip6-localhost ip6-loopback");
        text += "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
        for address in own {
            let _ = writeln!(text, "{address}\t{}", self.own.join("\t"));
        }
        if !self.aliases.is_empty() {
            text += "\n# Entries added by HostAliases.\n";
            for (address, names) in &self.aliases {
                let _ = writeln!(text, "{address}\t{}", names.join("\t"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cluster() -> ClusterNames {
        ClusterNames { domain: "cluster.local".to_owned(), server: Ipv4Addr::new(10, 96, 0, 10).into() }
    }

    fn pod(spec: &Value) -> Pod {
        let object = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        serde_json::from_value(object).expect("a pod")
    }

    #[track_caller]
    fn check(mut spec: Value, expected: &str) {
        spec["containers"] = json!([]);
        assert_eq!(DnsConfig::of_pod(&pod(&spec), &cluster()).resolv_conf(&cluster()), expected);
    }

    #[test]
    fn resolv_conf_by_policy() {
        let first = "search ns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        check(json!({}), first);
        check(json!({"dnsPolicy": "ClusterFirst"}), first);
        check(json!({"dnsPolicy": "ClusterFirstWithHostNet"}), first);
        check(json!({"dnsPolicy": "Default"}), "nameserver 10.96.0.10\n");
        let given = json!({
            "nameservers": ["192.0.2.53", "10.96.0.10", "nonsense"],
            "searches": ["Example.org.", "svc.cluster.local"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        });
        check(
            json!({"dnsPolicy": "None", "dnsConfig": given}),
            "search example.org svc.cluster.local\nnameserver 192.0.2.53\nnameserver 10.96.0.10\noptions ndots:2 edns0\n",
        );
        check(
            json!({"dnsConfig": given}),
            "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\nnameserver \
             192.0.2.53\noptions ndots:2 edns0\n",
        );
    }

    #[test]
    fn candidates() {
        #[track_caller]
        fn check(options: &Value, name: &str, absolute: bool, expected: &[&str]) {
            let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
                "nameservers": ["192.0.2.53"], "searches": ["a", "b"], "options": options,
            }});
            let config = DnsConfig::of_pod(&pod(&spec), &cluster());
            assert_eq!(config.candidates(name, absolute).collect::<Vec<_>>(), expected, "{name}");
        }
        let ndots = |value: &str| json!([{"name": "ndots", "value": value}]);
        check(&json!([]), "x", false, &["x.a", "x.b", "x"]);
        check(&json!([]), "x", true, &["x"]);
        check(&json!([]), "x.y", false, &["x.y", "x.y.a", "x.y.b"]);
        check(&ndots("2"), "x.y", false, &["x.y.a", "x.y.b", "x.y"]);
        check(&ndots("0"), "x", false, &["x", "x.a", "x.b"]);
        let long = ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60), "e".repeat(8)].join(".");
        check(&json!([]), &long, false, &[&long]);
    }

    #[test]
    fn hosts() {
        let spec = json!({"containers": [], "subdomain": "db", "hostAliases": [
            {"ip": "192.0.2.1", "hostnames": ["Foo.example.org", "foo"]}, {"ip": "nonsense", "hostnames": ["x"]},
        ]});
        let names = HostNames::of_pod(&pod(&spec), "db-0", &cluster());
        let own = [IpAddr::V4(Ipv4Addr::new(10, 128, 0, 2))];
        let file = names.hosts_file(&own);
        assert!(file.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{file}");
        assert!(file.contains("\n10.128.0.2\tdb-0.db.ns.svc.cluster.local\tdb-0\n"), "{file}");
        assert!(
            file.ends_with("\n# Entries added by HostAliases.\n192.0.2.1\tfoo.example.org\tfoo\n"),
            "{file}"
        );
        let alias = Some(vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))]);
        assert_eq!(names.find("foo", own.into_iter()), alias);
        assert_eq!(names.find("db-0", own.into_iter()), Some(own.to_vec()));
        assert_eq!(names.find("x", own.into_iter()), None);
    }
}
