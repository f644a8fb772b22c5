//! Cluster IPs and node ports of services: each has one owner, explicit ones are honoured or refused.
//!
//! The pools live in memory and are filled from the stored services at start; the store is the truth.
//! They serve one API server. Several servers on one store will need the ranges in the store itself.

use std::{collections::BTreeSet, net::Ipv4Addr, ops::RangeInclusive, sync::Arc};

use coracle_api::{
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

pub(super) struct ServiceAddresses {
    cidr: Ipv4Net,
    ports: RangeInclusive<u16>,
    address_pool: Arc<Pool>,
    port_pool: Arc<Pool>,
}

impl ServiceAddresses {
    pub(super) fn new(cidr: Ipv4Net, ports: RangeInclusive<u16>, store: &dyn Store) -> ServiceAddresses {
        // Neither the network's own address nor the broadcast address is a host.
        let first = u32::from(cidr.network()).saturating_add(1);
        let last = u32::from(cidr.broadcast()).saturating_sub(1).max(first);
        let addresses = ServiceAddresses {
            cidr,
            address_pool: Pool::new(first..=last, first.saturating_add(static_band(last - first))),
            port_pool: Pool::new(
                u32::from(*ports.start())..=u32::from(*ports.end()),
                u32::from(*ports.start()),
            ),
            ports,
        };
        let stored = store.list("services/", ListOptions::default()).map(|l| l.entries).unwrap_or_default();
        for entry in stored {
            let service = object::parse_stored(entry.value());
            let owner = object::uid(&service);
            for (pool, number) in addresses.of(&service) {
                match pool.claim(number, owner) {
                    Ok(Some(hold)) => hold.keep(),
                    Ok(None) => {}
                    Err(refusal) => {
                        tracing::warn!(
                            service = entry.key(),
                            number,
                            ?refusal,
                            "a stored service has an address that is not its own"
                        );
                    }
                }
            }
        }
        addresses
    }

    /// Fills in what a service that is about to be stored needs, and takes it.
    pub(super) fn allocate(
        &self,
        request: &Attributes<'_>,
        service: &mut Value,
        _old: Option<&Value>,
    ) -> Result<Vec<Hold>, Status> {
        let mut holds = Vec::new();
        if request.operation == Operation::Delete || !request.is_core("services") {
            return Ok(holds);
        }
        let owner = object::uid(service).to_owned();
        let type_ = object::text(service, "/spec/type").to_owned();
        if matches!(type_.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            self.allocate_address(request, service, &owner, &mut holds)?;
        }
        let wants_ports = match type_.as_str() {
            "NodePort" => true,
            "LoadBalancer" => service
                .pointer("/spec/allocateLoadBalancerNodePorts")
                .and_then(Value::as_bool)
                .unwrap_or(true),
            _ => false,
        };
        self.allocate_ports(request, service, &owner, wants_ports, &mut holds)?;
        let local = object::text(service, "/spec/externalTrafficPolicy") == "Local";
        if type_ == "LoadBalancer" && local {
            self.allocate_health_port(request, service, &owner, &mut holds)?;
        }
        Ok(holds)
    }

    /// Gives back what the old version had and the new one has not.
    pub(super) fn committed(&self, request: &Attributes<'_>, old: Option<&Value>, new: Option<&Value>) {
        let kind = request.call.kind();
        let Some(old) = old.filter(|_| kind.group.is_empty() && kind.plural == "services") else { return };
        let numbers = |of: Vec<(&Arc<Pool>, u32)>| -> BTreeSet<(bool, u32)> {
            of.into_iter().map(|(pool, number)| (Arc::ptr_eq(pool, &self.port_pool), number)).collect()
        };
        let kept = new.map(|new| numbers(self.of(new))).unwrap_or_default();
        for (is_port, number) in numbers(self.of(old)).difference(&kept) {
            let pool = if *is_port { &self.port_pool } else { &self.address_pool };
            pool.release(*number, object::uid(old));
        }
    }

    /// Every number that a service has, with its pool.
    fn of(&self, service: &Value) -> Vec<(&Arc<Pool>, u32)> {
        let mut numbers = Vec::new();
        for ip in cluster_ips(service) {
            if let Ok(ip) = ip.parse::<Ipv4Addr>() {
                numbers.push((&self.address_pool, u32::from(ip)));
            }
        }
        let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
        let node_ports = ports.filter_map(|port| port.get("nodePort").and_then(Value::as_u64));
        let health = service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
        for number in node_ports.chain(health).filter_map(|n| u32::try_from(n).ok()).filter(|n| *n > 0) {
            numbers.push((&self.port_pool, number));
        }
        numbers
    }

    fn allocate_address(
        &self,
        request: &Attributes<'_>,
        service: &mut Value,
        owner: &str,
        holds: &mut Vec<Hold>,
    ) -> Result<(), Status> {
        let given = cluster_ips(service);
        if given.first() == Some(&"None") {
            return Ok(());
        }
        if given.is_empty() {
            let (number, hold) = self
                .address_pool
                .take(owner, random())
                .map_err(|_| Status::internal_error("failed to allocate a serviceIP: range is full"))?;
            holds.push(hold);
            let ip = Ipv4Addr::from(number).to_string();
            let spec = object::child_mut(service, "spec");
            spec.insert("clusterIP".into(), json!(ip));
            spec.insert("clusterIPs".into(), json!([ip]));
            for (field, value) in [("ipFamilies", json!(["IPv4"])), ("ipFamilyPolicy", json!("SingleStack"))]
            {
                spec.entry(field.to_owned()).or_insert(value);
            }
            return Ok(());
        }
        for ip in &given {
            let refusal = match ip.parse::<Ipv4Addr>() {
                Ok(address) => self.address_pool.claim(u32::from(address), owner),
                Err(_) => Err(Refusal::OutOfRange),
            };
            match refusal {
                Ok(hold) => holds.extend(hold),
                Err(refusal) => {
                    let why = match refusal {
                        Refusal::Taken => "provided IP is already allocated".to_owned(),
                        _ => format!(
                            "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                            self.cidr
                        ),
                    };
                    let path = Path::new("spec");
                    let why = format!("failed to allocate IP {ip}: {why}");
                    let cause = field::invalid(&path.child("clusterIPs"), &json!(given), &why);
                    return Err(Status::invalid(request.call.kind(), &request.call.name, vec![cause]));
                }
            }
        }
        Ok(())
    }

    fn allocate_ports(
        &self,
        request: &Attributes<'_>,
        service: &mut Value,
        owner: &str,
        wanted: bool,
        holds: &mut Vec<Hold>,
    ) -> Result<(), Status> {
        let Some(ports) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        for (index, port) in ports.iter().enumerate() {
            let given = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
            if given != 0 {
                let spec = Path::new("spec");
                let list = spec.child("ports");
                let item = list.index(index);
                holds.extend(self.claim_port(request, &item.child("nodePort"), given, owner)?);
            }
        }
        if !wanted {
            return Ok(());
        }
        for index in 0..ports.len() {
            if ports[index].get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
                continue;
            }
            let node_port = match sibling(ports, index) {
                Some(shared) => shared,
                None => i64::from(self.take_port(owner, holds)?),
            };
            if let Some(port) = ports[index].as_object_mut() {
                port.insert("nodePort".into(), json!(node_port));
            }
        }
        Ok(())
    }

    fn allocate_health_port(
        &self,
        request: &Attributes<'_>,
        service: &mut Value,
        owner: &str,
        holds: &mut Vec<Hold>,
    ) -> Result<(), Status> {
        let given = object::integer(service, "/spec/healthCheckNodePort").unwrap_or(0);
        if given != 0 {
            let path = Path::new("spec");
            holds.extend(self.claim_port(request, &path.child("healthCheckNodePort"), given, owner)?);
        } else {
            let port = self.take_port(owner, holds)?;
            object::child_mut(service, "spec").insert("healthCheckNodePort".into(), json!(port));
        }
        Ok(())
    }

    fn claim_port(
        &self,
        request: &Attributes<'_>,
        path: &Path<'_>,
        port: i64,
        owner: &str,
    ) -> Result<Option<Hold>, Status> {
        let number = u32::try_from(port).unwrap_or(0);
        self.port_pool.claim(number, owner).map_err(|refusal| {
            let why = match refusal {
                Refusal::Taken => "provided port is already allocated".to_owned(),
                _ => format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    self.ports.start(),
                    self.ports.end()
                ),
            };
            let cause = field::invalid(path, port, &why);
            Status::invalid(request.call.kind(), &request.call.name, vec![cause])
        })
    }

    fn take_port(&self, owner: &str, holds: &mut Vec<Hold>) -> Result<u32, Status> {
        let (port, hold) = self
            .port_pool
            .take(owner, random())
            .map_err(|_| Status::internal_error("failed to allocate a nodePort: range is full"))?;
        holds.push(hold);
        Ok(port)
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
