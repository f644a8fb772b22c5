//! How queries reach the DNS server: it has an address and port 53 in the virtual network, and no stack behind it.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Reply, Transport, reply};
use crate::limits::{DNS_CONNECTION_IDLE, DNS_QUERIES_PER_CONNECTION, DNS_QUERY_MAX};
use crate::stack::Stack;
use crate::stream::{End, Stream};
use crate::udp::Mailbox;
use crate::{Fabric, NetworkError};

/// Answers a datagram of a pod. `to` is the address that it was sent to, `answers` where the answer goes.
pub(crate) fn datagram(
    fabric: &Arc<Fabric>,
    stack: &Arc<Stack>,
    query: &[u8],
    to: SocketAddr,
    answers: &Arc<Mailbox>,
) {
    if query.len() > DNS_QUERY_MAX {
        return;
    }
    match reply(fabric, query, Transport::Udp) {
        Reply::Nothing => {}
        Reply::Now(answer) => answers.deliver(Bytes::from(answer), to),
        Reply::After(pending) => {
            let Ok(place) = Arc::clone(&stack.dns_waiting).try_acquire_owned() else { return };
            let (task, stack, answers) = (Arc::clone(fabric), Arc::clone(stack), Arc::downgrade(answers));
            fabric.spawn_detached(async move {
                let stop = task.stop().clone();
                let answer = stop.run_until_cancelled(pending.finish(&task, &stack)).await;
                if let (Some(answer), Some(answers)) = (answer, Weak::upgrade(&answers)) {
                    answers.deliver(Bytes::from(answer), to);
                }
                drop(place);
            });
        }
    }
}

/// Takes a connection of a pod.
pub(crate) fn connect(fabric: &Arc<Fabric>, stack: &Arc<Stack>, caller: End) -> Result<Stream, NetworkError> {
    let place = Arc::clone(&stack.dns_connections).try_acquire_owned();
    let place = place.map_err(|_| NetworkError::Limit("connections to the DNS server"))?;
    let far = End { local: caller.peer, peer: caller.local, guard: None };
    let (ours, theirs) = Stream::pair(caller, far).ok_or(NetworkError::Closed)?;
    let (task, stack) = (Arc::clone(fabric), Arc::clone(stack));
    fabric.spawn_detached(async move {
        let stop = task.stop().clone();
        // What went wrong on the connection is the guest's to know.
        let _ = stop.run_until_cancelled(converse(&task, &stack, theirs)).await;
        drop(place);
    });
    Ok(ours)
}

/// Answers one query after the other until the pod has no more, or says nothing for a while.
async fn converse(fabric: &Arc<Fabric>, stack: &Arc<Stack>, mut stream: Stream) -> std::io::Result<()> {
    for _ in 0..DNS_QUERIES_PER_CONNECTION {
        let read = tokio::time::timeout(DNS_CONNECTION_IDLE, query(&mut stream)).await;
        let Ok(Ok(Some(query))) = read else { break };
        let answer = match reply(fabric, &query, Transport::Tcp) {
            Reply::Nothing => break,
            Reply::Now(answer) => answer,
            Reply::After(pending) => pending.finish(fabric, stack).await,
        };
        let length = u16::try_from(answer.len()).unwrap_or(0).to_be_bytes();
        let write = async {
            stream.write_all(&length).await?;
            stream.write_all(&answer).await
        };
        tokio::time::timeout(DNS_CONNECTION_IDLE, write).await??;
    }
    stream.shutdown(std::net::Shutdown::Write);
    Ok(())
}

/// The next query; `None` at the end, and for one that is too long.
async fn query(stream: &mut Stream) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > DNS_QUERY_MAX {
        return Ok(None);
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(Some(query))
}
