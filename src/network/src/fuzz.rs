//! Where `tests/fuzz` comes in: what pods say to the DNS server. Not for anybody else.

use std::sync::Arc;

use hickory_proto::op::Message;

use crate::Fabric;
use crate::dns::{Reply, Transport, reply};
use crate::limits::DNS_QUERY_MAX;

/// Answers bytes as the DNS server would, over UDP and TCP. What it says can be read, and is no longer than what was
/// asked for.
///
/// # Panics
/// If that is not so.
pub fn dns(fabric: &Arc<Fabric>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(DNS_QUERY_MAX)];
    for (transport, most) in [(Transport::Udp, 4096), (Transport::Tcp, usize::from(u16::MAX))] {
        if let Reply::Now(answer) = reply(fabric, bytes, transport) {
            assert!(answer.len() <= most, "{transport:?}: {} bytes", answer.len());
            assert!(Message::from_vec(&answer).is_ok(), "{transport:?}: nobody can read it");
        }
    }
}
