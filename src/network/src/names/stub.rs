//! Asks a server that the pod's `dnsConfig` names, over the pod's own network, as a resolver in the pod would: over
//! UDP, and over TCP where that does not do.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::outside::{self, NameError};
use crate::limits::{NAMESERVER_TIMEOUT, QUESTIONS_AT_ONCE, QUESTIONS_PER_SECOND};
use crate::policy::wildcard;
use crate::stack::Stack;
use crate::{Fabric, NetworkError, PodStack, ResolveError};

/// How often a server is asked over UDP.
const ATTEMPTS: usize = 2;

/// The addresses of a complete name, as a server at `address` knows them.
pub(super) async fn resolve(
    fabric: &Arc<Fabric>,
    stack: &Arc<Stack>,
    address: IpAddr,
    name: &str,
) -> Result<Vec<IpAddr>, ResolveError> {
    let is_public = outside::is_public(fabric, name);
    if is_public {
        outside::admit(fabric, stack, name)?;
    }
    let temporary = || ResolveError::Temporary(name.to_owned());
    let _permit = Arc::clone(&stack.lookups).try_acquire_owned().map_err(|_| temporary())?;
    stack.questions.turn().await;
    let pod = PodStack::new(Arc::clone(stack));
    let server = SocketAddr::new(address, 53);
    let Ok(asked) = Name::from_ascii(format!("{name}.")) else {
        return Err(ResolveError::NotFound(name.to_owned()));
    };
    let (v4, v6) =
        tokio::join!(ask(&pod, server, &asked, RecordType::A), ask(&pod, server, &asked, RecordType::AAAA));
    let found = match (v4, v6) {
        (Ok(v4), Ok(v6)) => v4.into_iter().chain(v6).collect(),
        (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => found,
        (Err(NameError::NotFound), _) | (_, Err(NameError::NotFound)) => Vec::new(),
        _ => return Err(temporary()),
    };
    outside::judged(fabric, stack, name, found)
}

/// When the next question may be asked.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Waits for this question's turn. Who goes away before has taken none.
    async fn turn(&self) {
        while let Err(until) = self.take() {
            sleep_until(until).await;
        }
    }

    /// Takes a turn, or says when there may be one.
    fn take(&self) -> Result<(), Instant> {
        let interval = Duration::from_secs(1) / QUESTIONS_PER_SECOND;
        let mut next = self.0.lock();
        let now = Instant::now();
        let due = next.filter(|due| *due > now).unwrap_or(now);
        // What is due later than a burst from now waits for the rest.
        match due.checked_sub(interval * QUESTIONS_AT_ONCE) {
            Some(until) if until > now => Err(until),
            _ => {
                *next = Some(due + interval);
                Ok(())
            }
        }
    }
}

async fn ask(
    pod: &PodStack,
    server: SocketAddr,
    name: &Name,
    type_: RecordType,
) -> Result<Vec<IpAddr>, NameError> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), type_));
    let bytes = query.to_vec().map_err(|_| NameError::NotFound)?;
    let answer = match over_udp(pod, server, &query, &bytes).await {
        Some(answer) if !answer.metadata.truncation => Some(answer),
        _ => timeout(NAMESERVER_TIMEOUT, over_tcp(pod, server, &query, &bytes)).await.ok().flatten(),
    };
    let answer = answer.ok_or(NameError::Temporary)?;
    match answer.metadata.response_code {
        ResponseCode::NoError => {
            Ok(answer.answers.iter().filter_map(|record| address_of(&record.data)).collect())
        }
        ResponseCode::NXDomain => Err(NameError::NotFound),
        _ => Err(NameError::Temporary),
    }
}

fn address_of(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(aaaa.0.into()),
        _ => None,
    }
}

/// Whether a message answers the query, and not another one.
fn is_answer(answer: &Message, query: &Message) -> bool {
    let same = |answer: &Query, query: &Query| {
        answer.query_type() == query.query_type() && answer.name().eq_ignore_root(query.name())
    };
    answer.metadata.id == query.metadata.id
        && answer.metadata.op_code == OpCode::Query
        && matches!((&answer.queries[..], &query.queries[..]), ([answer], [query]) if same(answer, query))
}

async fn over_udp(pod: &PodStack, server: SocketAddr, query: &Message, bytes: &[u8]) -> Option<Message> {
    let socket = pod.bind_udp(SocketAddr::new(wildcard(server.ip()), 0)).ok()?;
    for _ in 0..ATTEMPTS {
        socket.send(Bytes::copy_from_slice(bytes), Some(server)).ok()?;
        let answered = timeout(NAMESERVER_TIMEOUT, async {
            loop {
                match socket.recv().await {
                    Ok((data, from)) if from == server => match Message::from_vec(&data) {
                        Ok(answer) if is_answer(&answer, query) => return Ok(answer),
                        _ => {}
                    },
                    Ok(_) => {}
                    Err(error) => return Err::<_, NetworkError>(error),
                }
            }
        });
        if let Ok(answer) = answered.await {
            return answer.ok();
        }
    }
    None
}

async fn over_tcp(pod: &PodStack, server: SocketAddr, query: &Message, bytes: &[u8]) -> Option<Message> {
    let mut stream = pod.connect(server).await.ok()?;
    let length = u16::try_from(bytes.len()).ok()?.to_be_bytes();
    stream.write_all(&length).await.ok()?;
    stream.write_all(bytes).await.ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.ok()?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).await.ok()?;
    Message::from_vec(&answer).ok().filter(|answer| is_answer(answer, query))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn questions_are_asked_at_a_pace() {
        let (pace, began) = (&Pace::default(), Instant::now());
        let asked = |count: u32| async move {
            for _ in 0..count {
                pace.turn().await;
            }
        };
        asked(QUESTIONS_AT_ONCE).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        // However many go away while they wait, the others are not later for it.
        let mut cx = Context::from_waker(Waker::noop());
        let at_once = (0..1_000).filter(|_| pin!(pace.turn()).poll(&mut cx).is_ready());
        assert_eq!(at_once.count(), 1, "the burst's last");
        asked(3 * QUESTIONS_PER_SECOND).await;
        let took = began.elapsed();
        assert!((2_900..=3_100).contains(&took.as_millis()), "{took:?}");
    }
}
