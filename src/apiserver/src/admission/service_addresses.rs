//! Cluster IPs and node ports of services: each has one owner, explicit ones are honoured or refused.
//!
//! The pools live in memory and are filled from the stored services at start; the store is the truth.
//! They serve one API server. Several servers on one store will need the ranges in the store itself.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use coracle_api::{
    FieldCause,
    field::{self, Path},
    status::Status,
};
use coracle_store::{ListOptions, Store};
use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::{
    Attributes, Operation,
    pool::{Hold, Pool, Refusal},
};
use crate::{core::random, object};

/// Addresses at the low end of the range that are only given to those who ask for one, as Kubernetes
/// keeps them: a sixteenth of the range, at least 16 and at most 256.
fn static_band(size: u32) -> u32 {
    (size / 16).clamp(16, 256).min(size)
}

/// The kinds of numbers that a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Number {
    Address(u32),
    /// The last 32 bits of an address of the IPv6 range.
    AddressV6(u32),
    Port(u32),
}

pub(super) struct ServiceAddresses {
    cidr: Ipv4Net,
    cidr_v6: Ipv6Net,
    node_ports: RangeInclusive<u16>,
    addresses: Arc<Pool>,
    addresses_v6: Arc<Pool>,
    ports: Arc<Pool>,
}

impl ServiceAddresses {
    pub(super) fn new(
        cidr: Ipv4Net,
        cidr_v6: Ipv6Net,
        node_ports: RangeInclusive<u16>,
        store: &dyn Store,
    ) -> ServiceAddresses {
        // Neither the network's own address nor the broadcast address is a host.
        let first = u32::from(cidr.network()).saturating_add(1);
        let last = u32::from(cidr.broadcast()).saturating_sub(1).max(first);
        let first_v6 = low_bits(cidr_v6.network()).saturating_add(1);
        let last_v6 = low_bits(cidr_v6.broadcast()).max(first_v6);
        let (low, high) = (u32::from(*node_ports.start()), u32::from(*node_ports.end()));
        let all = ServiceAddresses {
            cidr,
            cidr_v6,
            node_ports,
            addresses: Pool::new(first..=last, first.saturating_add(static_band(last - first))),
            addresses_v6: Pool::new(
                first_v6..=last_v6,
                first_v6.saturating_add(static_band(last_v6 - first_v6)),
            ),
            ports: Pool::new(low..=high, low),
        };
        let stored = store.list("services/", ListOptions::default()).map(|l| l.entries).unwrap_or_default();
        for entry in stored {
            let service = object::parse_stored(entry.value());
            for number in all.numbers(&service) {
                match all.claim(number, object::uid(&service)) {
                    Ok(hold) => hold.keep(),
                    Err(refusal) => {
                        let service = entry.key();
                        tracing::warn!(
                            service,
                            ?number,
                            ?refusal,
                            "a stored service has what is not its own"
                        );
                    }
                }
            }
        }
        all
    }

    /// Fills in what a service that is about to be stored needs, and takes it.
    pub(super) fn allocate(
        &self,
        request: &Attributes<'_>,
        service: &mut Value,
    ) -> Result<Vec<Hold>, Status> {
        if request.operation == Operation::Delete || !request.is_core("services") {
            return Ok(Vec::new());
        }
        let owner = object::uid(service).to_owned();
        let mut taking = Taking { from: self, request, owner: &owner, holds: Vec::new() };
        taking.claim_given(service)?;
        let type_ = object::text(service, "/spec/type").to_owned();
        if matches!(type_.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            taking.fill_addresses(service)?;
        }
        let wants_ports = match type_.as_str() {
            "NodePort" => true,
            "LoadBalancer" => {
                let wants = service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool);
                wants.unwrap_or(true)
            }
            _ => false,
        };
        if wants_ports {
            taking.fill_ports(service)?;
        }
        if type_ == "LoadBalancer" && object::text(service, "/spec/externalTrafficPolicy") == "Local" {
            taking.fill_health_port(service)?;
        }
        Ok(taking.holds)
    }

    /// After a write: what is new in the stored object keeps its claim, what the object had before has one
    /// already, and what it has no more is given back.
    pub(super) fn committed(
        &self,
        request: &Attributes<'_>,
        holds: Vec<Hold>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) {
        let kind = request.call.kind();
        if !kind.group.is_empty() || kind.plural != "services" {
            return;
        }
        let before = old.map(|old| self.numbers(old)).unwrap_or_default();
        let after = new.map(|new| self.numbers(new)).unwrap_or_default();
        for hold in holds {
            if after.difference(&before).any(|number| self.is(&hold, *number)) {
                hold.keep();
            }
        }
        let owner = old.map(object::uid).unwrap_or_default();
        for number in before.difference(&after) {
            match *number {
                Number::Address(number) => self.addresses.release(number, owner),
                Number::AddressV6(number) => self.addresses_v6.release(number, owner),
                Number::Port(number) => self.ports.release(number, owner),
            }
        }
    }

    fn claim(&self, number: Number, owner: &str) -> Result<Hold, Refusal> {
        match number {
            Number::Address(number) => self.addresses.claim(number, owner),
            Number::AddressV6(number) => self.addresses_v6.claim(number, owner),
            Number::Port(number) => self.ports.claim(number, owner),
        }
    }

    fn is(&self, hold: &Hold, number: Number) -> bool {
        match number {
            Number::Address(number) => hold.is(&self.addresses, number),
            Number::AddressV6(number) => hold.is(&self.addresses_v6, number),
            Number::Port(number) => hold.is(&self.ports, number),
        }
    }
}

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";

/// The last 32 bits: all that addresses of a service range differ in.
fn low_bits(address: Ipv6Addr) -> u32 {
    u32::try_from(u128::from(address) & u128::from(u32::MAX)).expect("masked")
}

impl ServiceAddresses {
    /// The address with this number.
    fn v6(&self, number: u32) -> Ipv6Addr {
        let high = u128::from(self.cidr_v6.network()) & !u128::from(u32::MAX);
        Ipv6Addr::from(high | u128::from(number))
    }

    /// The number of an address; `None` if it is no address, or one of IPv6 from elsewhere.
    fn address(&self, ip: &str) -> Option<Number> {
        match ip.parse().ok()? {
            IpAddr::V4(v4) => Some(Number::Address(v4.into())),
            IpAddr::V6(v6) => self.cidr_v6.contains(&v6).then(|| Number::AddressV6(low_bits(v6))),
        }
    }

    /// The range that an address of its family should be from.
    fn range_of(&self, ip: &str) -> String {
        if ip.parse::<Ipv6Addr>().is_ok() { self.cidr_v6.to_string() } else { self.cidr.to_string() }
    }

    /// Every number that a service has.
    fn numbers(&self, service: &Value) -> BTreeSet<Number> {
        let ips = cluster_ips(service).into_iter().filter_map(|ip| self.address(ip));
        let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
        let node_ports = ports.filter_map(|port| port.get("nodePort").and_then(Value::as_u64));
        let health = service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
        let ports = node_ports.chain(health).filter_map(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        ips.chain(ports.map(Number::Port)).collect()
    }
}

/// One service taking what it needs.
struct Taking<'a> {
    from: &'a ServiceAddresses,
    request: &'a Attributes<'a>,
    owner: &'a str,
    holds: Vec<Hold>,
}

impl Taking<'_> {
    /// Takes what the service names itself, or refuses it in Kubernetes' words.
    fn claim_given(&mut self, service: &Value) -> Result<(), Status> {
        let path = Path::new("spec");
        let given = cluster_ips(service);
        for ip in given.iter().filter(|ip| **ip != "None") {
            let claimed = match self.from.address(ip) {
                Some(number) => self.claim(number),
                None => Err(Refusal::OutOfRange),
            };
            claimed.map_err(|refusal| {
                let why = match refusal {
                    Refusal::Taken => "provided IP is already allocated".to_owned(),
                    Refusal::OutOfRange | Refusal::Full => format!(
                        "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                        self.from.range_of(ip)
                    ),
                };
                let why = format!("failed to allocate IP {ip}: {why}");
                self.invalid(field::invalid(&path.child("clusterIPs"), &json!(given), &why))
            })?;
        }
        let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
        for (index, port) in ports.enumerate() {
            let list = path.child("ports");
            let item = list.index(index);
            self.claim_port(&item.child("nodePort"), port.get("nodePort"))?;
        }
        self.claim_port(&path.child("healthCheckNodePort"), service.pointer("/spec/healthCheckNodePort"))
    }

    fn claim_port(&mut self, path: &Path<'_>, port: Option<&Value>) -> Result<(), Status> {
        let port = port.and_then(Value::as_i64).unwrap_or(0);
        if port == 0 {
            return Ok(());
        }
        let number = Number::Port(u32::try_from(port).unwrap_or(0));
        self.claim(number).map_err(|refusal| {
            let range = &self.from.node_ports;
            let why = match refusal {
                Refusal::Taken => "provided port is already allocated".to_owned(),
                Refusal::OutOfRange | Refusal::Full => format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                ),
            };
            self.invalid(field::invalid(path, port, &why))
        })
    }

    /// One claim per number, however often the service names it.
    fn claim(&mut self, number: Number) -> Result<(), Refusal> {
        if !self.holds.iter().any(|hold| self.from.is(hold, number)) {
            self.holds.push(self.from.claim(number, self.owner)?);
        }
        Ok(())
    }

    /// One address of each family that the service is to have.
    fn fill_addresses(&mut self, service: &mut Value) -> Result<(), Status> {
        let policy = object::text(service, "/spec/ipFamilyPolicy").to_owned();
        let mut ips: Vec<String> = cluster_ips(service).into_iter().map(str::to_owned).collect();
        let given = service.pointer("/spec/ipFamilies").and_then(Value::as_array);
        let mut families: Vec<String> =
            given.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        if families.is_empty() {
            let v6 = ips.first().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
            families.push(if v6 { IPV6 } else { IPV4 }.to_owned());
        }
        // Whoever goes back to one family keeps the first.
        if policy == "SingleStack" && self.request.operation == Operation::Update {
            ips.truncate(1);
            families.truncate(1);
        }
        if matches!(policy.as_str(), "PreferDualStack" | "RequireDualStack") && families.len() == 1 {
            families.push(if families[0] == IPV4 { IPV6 } else { IPV4 }.to_owned());
        }
        let headless = ips.first().is_some_and(|ip| ip == "None");
        if !headless {
            for family in families.iter().skip(ips.len()) {
                ips.push(self.take_address(family)?.to_string());
            }
        }
        let spec = object::child_mut(service, "spec");
        spec.insert("clusterIP".into(), json!(ips.first()));
        spec.insert("clusterIPs".into(), json!(ips));
        spec.insert("ipFamilies".into(), json!(families));
        spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
        Ok(())
    }

    fn take_address(&mut self, family: &str) -> Result<IpAddr, Status> {
        let v6 = family == IPV6;
        let pool = if v6 { &self.from.addresses_v6 } else { &self.from.addresses };
        let hold = pool.take(self.owner, random());
        let hold =
            hold.map_err(|_| Status::internal_error("failed to allocate a serviceIP: range is full"))?;
        let number = hold.number();
        self.holds.push(hold);
        Ok(if v6 { self.from.v6(number).into() } else { Ipv4Addr::from(number).into() })
    }

    fn fill_ports(&mut self, service: &mut Value) -> Result<(), Status> {
        let Some(ports) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        for index in 0..ports.len() {
            if ports[index].get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
                continue;
            }
            let node_port = match sibling(ports, index) {
                Some(shared) => shared,
                None => i64::from(self.take_port()?),
            };
            if let Some(port) = ports[index].as_object_mut() {
                port.insert("nodePort".into(), json!(node_port));
            }
        }
        Ok(())
    }

    fn fill_health_port(&mut self, service: &mut Value) -> Result<(), Status> {
        if object::integer(service, "/spec/healthCheckNodePort").unwrap_or(0) == 0 {
            let port = self.take_port()?;
            object::child_mut(service, "spec").insert("healthCheckNodePort".into(), json!(port));
        }
        Ok(())
    }

    fn take_port(&mut self) -> Result<u32, Status> {
        let hold = self.from.ports.take(self.owner, random());
        let hold =
            hold.map_err(|_| Status::internal_error("failed to allocate a nodePort: range is full"))?;
        let port = hold.number();
        self.holds.push(hold);
        Ok(port)
    }

    fn invalid(&self, cause: FieldCause) -> Status {
        Status::invalid(self.request.call.kind(), &self.request.call.name, vec![cause])
    }
}

/// The node port of another entry of the same port number and another protocol, such as DNS over UDP and
/// TCP: they share one.
fn sibling(ports: &[Value], index: usize) -> Option<i64> {
    let number = |port: &Value| port.get("port").and_then(Value::as_i64);
    let protocol = |port: &Value| port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
    let mine = &ports[index];
    ports
        .iter()
        .filter(|port| number(port) == number(mine) && protocol(port) != protocol(mine))
        .filter_map(|port| port.get("nodePort").and_then(Value::as_i64))
        .find(|node_port| *node_port != 0)
}

/// `spec.clusterIPs`, or the one of `spec.clusterIP`.
fn cluster_ips(service: &Value) -> Vec<&str> {
    let list = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let list: Vec<&str> =
        list.into_iter().flatten().filter_map(Value::as_str).filter(|ip| !ip.is_empty()).collect();
    match object::text(service, "/spec/clusterIP") {
        single if list.is_empty() && !single.is_empty() => vec![single],
        _ => list,
    }
}
