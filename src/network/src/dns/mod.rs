//! The cluster's DNS server, for guests that speak DNS themselves: what it says to a query. Who asks over what stands
//! in [`serve`].
//!
//! For the cluster's own domain it answers as an authority, from the same table as look-ups; for the world it passes
//! on what the host's resolver knows, which is addresses only: other types of names outside have no records here. A
//! pod is refused the names that it may not look up.
//!
//! A query costs the pod that asks: it is answered by the pod's own thread, in its own time, and what must wait is
//! counted against the pod's look-ups. Nothing is queued between pods.

pub(crate) mod serve;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::names::zone::{self, Found, Service};
use crate::names::{Asked, outside};
use crate::stack::Stack;
use crate::{Fabric, ResolveError};

/// How long answers may be kept, in seconds: as long as CoreDNS says unless told otherwise. Endpoints come and go.
const TTL: u32 = 5;

/// The same for what the host's resolver said, which does not say for how long it holds.
const TTL_OUTSIDE: u32 = 30;

/// The largest answer over UDP that the server sends to those who can take it. Nothing is fragmented here, so it need
/// not fit a packet of the world's.
const UDP_MAX: u16 = 4096;

/// The largest answer over UDP to those who say nothing.
const UDP_PLAIN: u16 = 512;

/// The largest answer over TCP.
const TCP_MAX: u16 = u16::MAX;

/// Aliases that are followed for one query.
const ALIASES: usize = 4;

/// Over what a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What is said to a query.
pub(crate) enum Reply {
    /// This, at once.
    Now(Vec<u8>),
    /// This name of the world must be asked for first.
    After(Box<Pending>),
    /// Nothing: it was no query.
    Nothing,
}

/// A query that waits for the world.
pub(crate) struct Pending {
    answer: Answer,
    name: String,
}

/// An answer in the making.
struct Answer {
    message: Message,
    /// Who owns the next record: the name asked for, or what it stands for.
    owner: Name,
    type_: RecordType,
    limit: u16,
}

/// Answers a query of a pod as far as nobody else must be asked.
pub(crate) fn reply(fabric: &Arc<Fabric>, query: &[u8], transport: Transport) -> Reply {
    let query = match Message::from_vec(query) {
        Ok(query) if query.metadata.message_type == MessageType::Query => query,
        Ok(_) => return Reply::Nothing,
        // A header that says "query" is worth a word; 12 bytes, the first two of which are its number.
        Err(_) if query.len() >= 12 && query[2] & 0x80 == 0 => {
            let id = u16::from_be_bytes([query[0], query[1]]);
            return finished(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), UDP_PLAIN);
        }
        Err(_) => return Reply::Nothing,
    };
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata = Metadata::response_from_request(&query.metadata);
    message.metadata.recursion_available = true;
    message.add_queries(query.queries.iter().take(1).cloned());
    let mut limit = if transport == Transport::Tcp { TCP_MAX } else { UDP_PLAIN };
    if let Some(theirs) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        edns.set_version(0);
        if theirs.version() > 0 {
            edns.set_rcode_high(ResponseCode::BADVERS.high());
            message.metadata.response_code = ResponseCode::BADVERS;
        }
        if transport == Transport::Udp {
            limit = theirs.max_payload().clamp(UDP_PLAIN, UDP_MAX);
        }
        message.set_edns(edns);
    }
    let refusal = match (query.metadata.op_code, &query.queries[..]) {
        _ if message.metadata.response_code == ResponseCode::BADVERS => Some(ResponseCode::BADVERS),
        (OpCode::Query, [one]) => match (one.query_class(), one.query_type()) {
            (_, RecordType::ANY) => Some(ResponseCode::NotImp),
            (_, RecordType::AXFR | RecordType::IXFR) => Some(ResponseCode::Refused),
            (DNSClass::IN, _) => None,
            _ => Some(ResponseCode::Refused),
        },
        (OpCode::Query, _) => Some(ResponseCode::FormErr),
        _ => Some(ResponseCode::NotImp),
    };
    if let Some(code) = refusal {
        message.metadata.response_code = code;
        return finished(&message, limit);
    }
    let (owner, type_) = (query.queries[0].name().clone(), query.queries[0].query_type());
    Answer { message, owner, type_, limit }.begin(fabric)
}

impl Pending {
    /// Asks the world for a pod and finishes the answer.
    pub(crate) async fn finish(self, fabric: &Arc<Fabric>, stack: &Arc<Stack>) -> Vec<u8> {
        let Pending { mut answer, name } = self;
        match outside::resolve(fabric, stack, &name).await {
            Ok(addresses) => answer.add_addresses(&addresses, TTL_OUTSIDE),
            Err(error) => answer.message.metadata.response_code = code_of(&error),
        }
        encoded(&answer.message, answer.limit)
    }
}

fn code_of(error: &ResolveError) -> ResponseCode {
    match error {
        ResolveError::Invalid(_) | ResolveError::NotFound(_) => ResponseCode::NXDomain,
        ResolveError::Denied(_) => ResponseCode::Refused,
        ResolveError::Temporary(_) => ResponseCode::ServFail,
    }
}

impl Answer {
    fn begin(mut self, fabric: &Arc<Fabric>) -> Reply {
        if let Ok(net) = self.owner.parse_arpa_name() {
            self.reverse(fabric, net.addr(), net.prefix_len() == net.max_prefix_len());
            return finished(&self.message, self.limit);
        }
        for _ in 0..ALIASES {
            let Some(asked) = Asked::parse(&self.owner.to_ascii()) else {
                return self.refuse(fabric, ResponseCode::NXDomain);
            };
            if asked.is_localhost() {
                self.message.metadata.authoritative = true;
                self.add_addresses(&[[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()], TTL);
                return finished(&self.message, self.limit);
            }
            if !zone::is_ours(fabric, &asked.name) {
                return self.outside(fabric, asked.name);
            }
            self.message.metadata.authoritative = true;
            match zone::find(fabric, &asked.name) {
                None => return self.refuse(fabric, ResponseCode::NXDomain),
                Some(Found::Alias(alias)) => {
                    let Ok(target) = Name::from_ascii(format!("{}.", alias.trim_end_matches('.'))) else {
                        return self.refuse(fabric, ResponseCode::ServFail);
                    };
                    self.add(TTL, RData::CNAME(CNAME(target.clone())));
                    if self.type_ == RecordType::CNAME {
                        return finished(&self.message, self.limit);
                    }
                    self.owner = target;
                }
                Some(found) => {
                    self.add_found(fabric, &asked.name, found);
                    if self.message.answers.is_empty() {
                        self.add_authority(fabric);
                    }
                    return finished(&self.message, self.limit);
                }
            }
        }
        self.refuse(fabric, ResponseCode::ServFail)
    }

    /// A name of the world.
    fn outside(mut self, fabric: &Fabric, name: String) -> Reply {
        if !outside::is_public(fabric, &name) {
            return self.refuse(fabric, ResponseCode::NXDomain);
        }
        if matches!(self.type_, RecordType::A | RecordType::AAAA) {
            return Reply::After(Box::new(Pending { answer: self, name }));
        }
        self.message.metadata.authoritative = false;
        finished(&self.message, self.limit)
    }

    /// The name of an address; only those of the cluster are known here.
    fn reverse(&mut self, fabric: &Fabric, address: IpAddr, is_whole: bool) {
        self.message.metadata.authoritative = true;
        let names = if is_whole { zone::names_of(fabric, address) } else { Vec::new() };
        if names.is_empty() && is_whole {
            self.message.metadata.response_code = ResponseCode::NXDomain;
        }
        if self.type_ == RecordType::PTR {
            for name in names.iter().filter_map(|name| Name::from_ascii(format!("{name}.")).ok()) {
                self.add(TTL, RData::PTR(PTR(name)));
            }
        }
        if self.message.answers.is_empty() {
            self.add_authority(fabric);
        }
    }

    fn add_found(&mut self, fabric: &Fabric, name: &str, found: Found) {
        let is_apex = name == fabric.config().cluster_domain;
        match (self.type_, found) {
            (RecordType::A | RecordType::AAAA, Found::Records { addresses, .. }) => {
                self.add_addresses(&addresses, TTL);
            }
            (RecordType::SRV, Found::Records { services, .. }) => self.add_services(&services),
            (RecordType::TXT, Found::Text(text)) => {
                self.add(TTL, RData::TXT(TXT::new(vec![text.to_owned()])));
            }
            (RecordType::SOA, _) if is_apex => {
                let soa = soa(fabric);
                self.message.answers.extend(soa);
            }
            (RecordType::NS, _) if is_apex => {
                if let Ok(name) = Name::from_ascii(format!("ns.dns.{}.", fabric.config().cluster_domain)) {
                    self.add(TTL, RData::NS(NS(name)));
                }
            }
            _ => {}
        }
    }

    fn add_services(&mut self, services: &[Service]) {
        // Kubernetes shares the weight evenly, and never gives none.
        let weight = 100 / u16::try_from(services.len()).unwrap_or(u16::MAX).clamp(1, 100);
        let mut told = HashSet::new();
        for service in services {
            let Ok(target) = Name::from_ascii(format!("{}.", service.target)) else { continue };
            self.add(TTL, RData::SRV(SRV::new(0, weight, service.port, target.clone())));
            let new = service.addresses.iter().filter(|address| told.insert((&service.target, **address)));
            let addresses = new.map(|address| record(&target, TTL, data_of(*address)));
            self.message.additionals.extend(addresses);
        }
    }

    fn add_addresses(&mut self, addresses: &[IpAddr], ttl: u32) {
        for address in addresses {
            let wanted = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
            if self.type_ == wanted {
                self.add(ttl, data_of(*address));
            }
        }
    }

    fn add(&mut self, ttl: u32, data: RData) {
        self.message.answers.push(record(&self.owner, ttl, data));
    }

    fn add_authority(&mut self, fabric: &Fabric) {
        self.message.authorities.extend(soa(fabric));
    }

    fn refuse(mut self, fabric: &Fabric, code: ResponseCode) -> Reply {
        self.message.metadata.response_code = code;
        if self.message.metadata.authoritative {
            self.add_authority(fabric);
        }
        finished(&self.message, self.limit)
    }
}

fn data_of(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn record(owner: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(owner.clone(), ttl, data)
}

/// The authority's own record, by which "no such name" is kept for a moment.
fn soa(fabric: &Fabric) -> Option<Record> {
    let domain = &fabric.config().cluster_domain;
    let name = |prefix: &str| Name::from_ascii(format!("{prefix}{domain}.")).ok();
    // Nobody transfers the zone, so its number means nothing.
    let data = SOA::new(name("ns.dns.")?, name("hostmaster.")?, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(name("")?, TTL, RData::SOA(data)))
}

fn finished(message: &Message, limit: u16) -> Reply {
    Reply::Now(encoded(message, limit))
}

/// The message as bytes, or what is left of it if it is too long: who asks over TCP gets it whole.
fn encoded(message: &Message, limit: u16) -> Vec<u8> {
    let whole = message.to_vec().ok().filter(|bytes| bytes.len() <= usize::from(limit));
    // A question alone always fits: a name has at most 255 bytes.
    whole.or_else(|| message.truncate().to_vec().ok()).unwrap_or_default()
}
