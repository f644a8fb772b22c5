//! Random operations on the stacks of two pods: nothing panics, bytes arrive in order, nothing is held for ever.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use coracle_budget::Budget;
use coracle_network::limits::POD_SOCKET_SHARE;
use coracle_network::{
    Bandwidth, Fabric, NetworkUsage, PodConfig, PodStack, Stream, TcpConnecting, TcpListener, UdpSocket,
};
use proptest::prelude::*;

use crate::support::{at, config};

/// Of the pod whose memory is small.
const MEMORY: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Listen { pod: usize, wildcard: bool, port: u16, backlog: usize },
    Unlisten(usize),
    Connect { pod: usize, to: usize, port: u16 },
    Settle,
    Accept(usize),
    Write(usize, usize),
    HandOver(usize, usize),
    Read(usize, usize),
    Shutdown(usize, Shutdown),
    Abort(usize),
    Drop(usize),
    Bind { pod: usize, port: u16 },
    Unbind(usize),
    Send { from: usize, to: usize, port: u16, size: usize },
    Receive(usize),
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (pod, port, which) = (0usize..2, 1u16..5, 0usize..8);
    let size = prop_oneof![0usize..10, 0usize..5000, 0usize..100_000];
    let how = prop_oneof![Just(Shutdown::Read), Just(Shutdown::Write), Just(Shutdown::Both)];
    let step = prop_oneof![
        4 => (pod.clone(), any::<bool>(), port.clone(), 1usize..4)
            .prop_map(|(pod, wildcard, port, backlog)| Step::Listen { pod, wildcard, port, backlog }),
        1 => which.clone().prop_map(Step::Unlisten),
        8 => (pod.clone(), 0usize..6, port.clone()).prop_map(|(pod, to, port)| Step::Connect { pod, to, port }),
        4 => Just(Step::Settle),
        6 => which.clone().prop_map(Step::Accept),
        12 => (which.clone(), size.clone()).prop_map(|(at, size)| Step::Write(at, size)),
        6 => (which.clone(), size.clone()).prop_map(|(at, size)| Step::HandOver(at, size)),
        12 => (which.clone(), size.clone()).prop_map(|(at, size)| Step::Read(at, size)),
        2 => (which.clone(), how).prop_map(|(at, how)| Step::Shutdown(at, how)),
        1 => which.clone().prop_map(Step::Abort),
        2 => which.clone().prop_map(Step::Drop),
        3 => (pod.clone(), port.clone()).prop_map(|(pod, port)| Step::Bind { pod, port }),
        1 => which.clone().prop_map(Step::Unbind),
        6 => (which.clone(), 0usize..6, port, size)
            .prop_map(|(from, to, port, size)| Step::Send { from, to, port, size }),
        4 => which.prop_map(Step::Receive),
        1 => pod.prop_map(Step::Close),
    ];
    prop::collection::vec(step, 1..120)
}

/// The same from any bytes, four for each step: how `tests/fuzz` says what is done.
pub(crate) fn steps_of(bytes: &[u8]) -> Vec<Step> {
    let step = |word: &[u8; 4]| {
        let [kind, a, b, c] = word.map(usize::from);
        let (pod, which, to, port) = (a % 2, a % 8, b % 6, (c % 4 + 1) as u16);
        let size = [c % 10, c * 20, c * 400][b % 3];
        match kind % 16 {
            0 => Step::Listen { pod, wildcard: a > 127, port, backlog: b % 3 + 1 },
            1 => Step::Unlisten(which),
            2 | 3 => Step::Connect { pod, to, port },
            4 => Step::Settle,
            5 => Step::Accept(which),
            6 => Step::Write(which, size),
            7 => Step::HandOver(which, size),
            8 => Step::Read(which, size),
            9 => Step::Shutdown(which, [Shutdown::Read, Shutdown::Write, Shutdown::Both][b % 3]),
            10 => Step::Abort(which),
            11 => Step::Drop(which),
            12 => Step::Bind { pod, port },
            13 => {
                if c > 200 {
                    Step::Close(pod)
                } else {
                    Step::Unbind(which)
                }
            }
            14 => Step::Send { from: which, to, port, size },
            _ => Step::Receive(which),
        }
    };
    bytes.as_chunks().0.iter().take(MOST_STEPS).map(step).collect()
}

/// Steps of one run; more would say nothing new and take long.
const MOST_STEPS: usize = 200;

/// One end of a connection, and how far each of its directions has come: byte `n` of any direction is `n`.
struct End {
    stream: Stream,
    written: usize,
    read: usize,
}

fn pattern(from: usize, size: usize) -> Vec<u8> {
    (from..from + size).map(|n| (n % 251) as u8).collect()
}

struct World {
    pods: [PodStack; 2],
    budgets: [Arc<Budget>; 2],
    listeners: Vec<TcpListener>,
    dials: Vec<TcpConnecting>,
    ends: Vec<End>,
    sockets: Vec<UdpSocket>,
}

impl World {
    fn new(fabric: &Arc<Fabric>) -> World {
        let budgets = [Budget::new(Some(MEMORY)), Budget::new(None)];
        let limits = [None, Some(1_000_000_000)];
        let pods = [0, 1].map(|at| {
            let bandwidth = Bandwidth { ingress: limits[at], egress: limits[at] };
            let budget = Some(Arc::clone(&budgets[at]));
            fabric
                .add_pod(PodConfig { budget, bandwidth, ..PodConfig::default() })
                .expect("an address is free")
        });
        World { pods, budgets, listeners: vec![], dials: vec![], ends: vec![], sockets: vec![] }
    }

    fn address(&self, to: usize) -> IpAddr {
        let v6 = |pod: usize| self.pods[pod].ip6().expect("two families").into();
        match to {
            0 | 1 => self.pods[to].ip().into(),
            2 | 3 => v6(to - 2),
            4 => Ipv4Addr::LOCALHOST.into(),
            _ => Ipv6Addr::LOCALHOST.into(),
        }
    }

    fn settle(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let ends = &mut self.ends;
        self.dials.retain_mut(|dial| match Pin::new(dial).poll(&mut cx) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                ends.extend(result.map(|stream| End { stream, written: 0, read: 0 }));
                false
            }
        });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Listen { pod, wildcard, port, backlog } => {
                let ip = if wildcard { Ipv6Addr::UNSPECIFIED.into() } else { self.address(pod) };
                self.listeners.extend(self.pods[pod].listen(at(ip, port), backlog));
            }
            Step::Unlisten(which) => remove(&mut self.listeners, which),
            Step::Connect { pod, to, port } => {
                let to = SocketAddr::new(self.address(to), port);
                self.dials.push(self.pods[pod].start_connect(to, None));
                self.settle();
            }
            Step::Settle => self.settle(),
            Step::Accept(which) => {
                let accepted =
                    pick(&mut self.listeners, which).and_then(|listener| listener.try_accept().ok());
                self.ends.extend(accepted.map(|stream| End { stream, written: 0, read: 0 }));
            }
            Step::Write(which, size) => {
                if let Some(end) = pick(&mut self.ends, which) {
                    end.written += end.stream.try_write(&pattern(end.written, size)).unwrap_or(0);
                }
            }
            Step::HandOver(which, size) => {
                if let Some(end) = pick(&mut self.ends, which)
                    && let Ok(room) = end.stream.write_capacity()
                {
                    let size = size.min(room);
                    let data = pattern(end.written, size);
                    // A direction that the reader has shut takes all and keeps nothing.
                    end.stream.try_write_bytes(Bytes::from(data)).expect("what was promised");
                    end.written += size;
                }
            }
            Step::Read(which, size) => {
                let mut buffer = vec![0; size];
                if let Some(end) = pick(&mut self.ends, which)
                    && let Ok(read) = end.stream.try_read(&mut buffer)
                {
                    assert_eq!(buffer[..read], pattern(end.read, read), "in order");
                    end.read += read;
                }
            }
            Step::Shutdown(which, how) => {
                if let Some(end) = pick(&mut self.ends, which) {
                    end.stream.shutdown(how);
                }
            }
            Step::Abort(which) => {
                if let Some(end) = pick(&mut self.ends, which) {
                    end.stream.abort();
                }
            }
            Step::Drop(which) => remove(&mut self.ends, which),
            Step::Bind { pod, port } => {
                self.sockets.extend(self.pods[pod].bind_udp(at(Ipv6Addr::UNSPECIFIED, port)));
                self.sockets.extend(self.pods[pod].bind_udp(at(Ipv4Addr::UNSPECIFIED, 0)));
            }
            Step::Unbind(which) => remove(&mut self.sockets, which),
            Step::Send { from, to, port, size } => {
                let to = SocketAddr::new(self.address(to), port);
                if let Some(socket) = pick(&mut self.sockets, from) {
                    // The wrong family, or a closed pod.
                    let _ = socket.send(pattern(0, size.min(60_000)).into(), Some(to));
                }
            }
            Step::Receive(which) => {
                let received = pick(&mut self.sockets, which).and_then(|socket| socket.try_recv().ok());
                if let Some((data, _)) = received {
                    assert_eq!(data, pattern(0, data.len()), "whole");
                }
            }
            Step::Close(pod) => self.pods[pod].close(),
        }
        let [small, _] = &self.budgets;
        assert!(small.used() <= MEMORY / POD_SOCKET_SHARE, "{}", small.used());
    }
}

fn pick<T>(list: &mut [T], which: usize) -> Option<&mut T> {
    let count = list.len().max(1);
    list.get_mut(which % count)
}

fn remove<T>(list: &mut Vec<T>, which: usize) {
    if !list.is_empty() {
        list.swap_remove(which % list.len());
    }
}

/// Does these steps on a network of its own, and looks whether all is given back at the end.
pub(crate) fn run(steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let fabric = Fabric::build(config());
        let mut world = World::new(&fabric);
        for step in steps {
            world.step(step);
            // Dials that wait for a backlog are tasks.
            tokio::task::yield_now().await;
        }
        let World { pods, budgets, listeners, dials, ends, sockets } = world;
        drop((ends, sockets, dials, listeners));
        fabric.shutdown().await;
        for (pod, budget) in pods.iter().zip(&budgets) {
            let usage = pod.usage();
            let NetworkUsage { sent, received, denied, dropped, .. } = usage;
            assert_eq!(usage, NetworkUsage { sent, received, denied, dropped, ..NetworkUsage::default() });
            assert_eq!(budget.used(), 0);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_is_held_for_ever(steps in steps()) {
        run(steps);
    }

    #[test]
    fn any_bytes_are_steps(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        run(steps_of(&bytes));
    }
}
