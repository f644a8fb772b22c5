//! Cluster IPs and node ports of services: each has one owner, explicit ones are honoured or refused.
//!
//! The pools live in memory and are filled from the stored services at start; the store is the truth.
//! They serve one API server. Several servers on one store will need the ranges in the store itself.

use std::{collections::BTreeSet, net::Ipv4Addr, ops::RangeInclusive, sync::Arc};

use coracle_api::{
    FieldCause,
    field::{self, Path},
    status::Status,
};
use coracle_store::{ListOptions, Store};
use ipnet::Ipv4Net;
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

/// The two kinds of numbers that a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Number {
    Address(u32),
    Port(u32),
}

pub(super) struct ServiceAddresses {
    cidr: Ipv4Net,
    node_ports: RangeInclusive<u16>,
    addresses: Arc<Pool>,
    ports: Arc<Pool>,
}

impl ServiceAddresses {
    pub(super) fn new(cidr: Ipv4Net, node_ports: RangeInclusive<u16>, store: &dyn Store) -> ServiceAddresses {
        // Neither the network's own address nor the broadcast address is a host.
        let first = u32::from(cidr.network()).saturating_add(1);
        let last = u32::from(cidr.broadcast()).saturating_sub(1).max(first);
        let (low, high) = (u32::from(*node_ports.start()), u32::from(*node_ports.end()));
        let all = ServiceAddresses {
            cidr,
            node_ports,
            addresses: Pool::new(first..=last, first.saturating_add(static_band(last - first))),
            ports: Pool::new(low..=high, low),
        };
        let stored = store.list("services/", ListOptions::default()).map(|l| l.entries).unwrap_or_default();
        for entry in stored {
            let service = object::parse_stored(entry.value());
            for number in numbers(&service) {
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
            taking.fill_address(service)?;
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
        let before = old.map(numbers).unwrap_or_default();
        let after = new.map(numbers).unwrap_or_default();
        for hold in holds {
            if after.difference(&before).any(|number| self.is(&hold, *number)) {
                hold.keep();
            }
        }
        let owner = old.map(object::uid).unwrap_or_default();
        for number in before.difference(&after) {
            match *number {
                Number::Address(number) => self.addresses.release(number, owner),
                Number::Port(number) => self.ports.release(number, owner),
            }
        }
    }

    fn claim(&self, number: Number, owner: &str) -> Result<Hold, Refusal> {
        match number {
            Number::Address(number) => self.addresses.claim(number, owner),
            Number::Port(number) => self.ports.claim(number, owner),
        }
    }

    fn is(&self, hold: &Hold, number: Number) -> bool {
        match number {
            Number::Address(number) => hold.is(&self.addresses, number),
            Number::Port(number) => hold.is(&self.ports, number),
        }
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
            let claimed = match ip.parse::<Ipv4Addr>() {
                Ok(address) => self.claim(Number::Address(address.into())),
                Err(_) => Err(Refusal::OutOfRange),
            };
            claimed.map_err(|refusal| {
                let why = match refusal {
                    Refusal::Taken => "provided IP is already allocated".to_owned(),
                    Refusal::OutOfRange | Refusal::Full => format!(
                        "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                        self.from.cidr
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

    fn fill_address(&mut self, service: &mut Value) -> Result<(), Status> {
        if !cluster_ips(service).is_empty() {
            return Ok(());
        }
        let hold = self.from.addresses.take(self.owner, random());
        let hold =
            hold.map_err(|_| Status::internal_error("failed to allocate a serviceIP: range is full"))?;
        let ip = Ipv4Addr::from(hold.number()).to_string();
        self.holds.push(hold);
        let spec = object::child_mut(service, "spec");
        spec.insert("clusterIP".into(), json!(ip));
        spec.insert("clusterIPs".into(), json!([ip]));
        spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
        Ok(())
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

/// Every number that a service has.
fn numbers(service: &Value) -> BTreeSet<Number> {
    let ips = cluster_ips(service).into_iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok());
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let node_ports = ports.filter_map(|port| port.get("nodePort").and_then(Value::as_u64));
    let health = service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
    let ports = node_ports.chain(health).filter_map(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    ips.map(|ip| Number::Address(ip.into())).chain(ports.map(Number::Port)).collect()
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
