//! Every bound of the virtual network, and why it is that number.

use std::time::Duration;

/// Backlog of a listener that asks for none (what Rust's and Go's libraries ask for on Linux).
pub const BACKLOG_DEFAULT: usize = 128;

/// The most a listener may ask for; more is silently cut, as Linux cuts at `somaxconn` (4096 there).
/// A queued connection costs about half a kilobyte, so one listener holds 512 KiB at most.
pub const BACKLOG_MAX: usize = 1024;

/// Dials that wait for room in one full backlog. Linux makes the caller retry its SYN; here it waits in
/// line. Beyond this the dial is refused, so that a guest that never accepts cannot park the cluster.
pub const BACKLOG_WAITERS: usize = 1024;

/// How long a dial waits: for room in a backlog, or for an outside host to answer. Clients of today give
/// up at about this time themselves; Linux would go on for two minutes.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes one direction of a connection buffers before its writer must wait. Linux's loopback starts at a
/// few hundred kilobytes, and programs that write a whole page before they read expect as much.
pub const STREAM_WINDOW: usize = 256 << 10;

/// The part of a window that is paid with the connection: it is there even if the pod can pay for nothing
/// more, so that whoever waits for the other side to say something small never waits for ever.
pub const STREAM_WINDOW_MIN: usize = 2 << 10;

/// What each end of a connection costs its pod's memory: the free part of its window in both directions (the
/// node writes into a pod's connections at the pod's cost), which is more than the 0.7 kB of an idle one.
pub const CONNECTION_COST: usize = 2 * STREAM_WINDOW_MIN;

/// The most that the sockets of one pod hold altogether: [`CONNECTIONS_PER_POD`] that are idle, and 16 MiB that
/// wait in streams and datagram queues. Who writes pays; what comes from outside the reader pays.
pub const POD_SOCKET_BYTES: usize = 48 << 20;

/// The part of a pod's memory limit that its sockets may take, if that is less than [`POD_SOCKET_BYTES`]: others
/// decide how much they send, so they must never be able to take a pod's memory away from its modules.
pub const POD_SOCKET_SHARE: u64 = 4;

/// What a datagram costs in a queue besides its payload, so that empty ones are not free.
pub const DATAGRAM_COST: usize = 128;

/// The most one write call takes, whatever the window: bounds the single copy made under the lock.
pub const WRITE_MAX: usize = 64 << 10;

/// Writes shorter than this are gathered into shared chunks, longer ones are queued without a copy. The
/// bookkeeping of a queued buffer is some 100 bytes, so this bounds the overhead to a tenth.
pub const COALESCE_BELOW: usize = 1 << 10;

/// How large a chunk of gathered writes grows before the next one is begun: one page.
pub const CHUNK: usize = 4 << 10;

/// TCP connections of one pod, both directions and those waiting in backlogs included. An idle one costs
/// about half a kilobyte; Docker and many distributions give a process 1,024 to 1,048,576 descriptors.
pub const CONNECTIONS_PER_POD: usize = 8192;

/// Bound TCP addresses of one pod that listen or are about to.
pub const LISTENERS_PER_POD: usize = 256;

/// How long a pod with a limit of its bandwidth may talk at full speed after a silence. The shorter, the
/// smoother; timers are as fine as a millisecond.
pub const BURST: Duration = Duration::from_millis(50);

/// The least it may say at once then: a page, so that slow pods do not send byte by byte.
pub const BURST_BYTES_MIN: u64 = 4 << 10;

/// UDP sockets of one pod.
pub const UDP_SOCKETS_PER_POD: usize = 256;

/// Datagrams waiting in one UDP socket; the next is dropped, as UDP may.
pub const UDP_QUEUE_DATAGRAMS: usize = 256;

/// Bytes waiting in one UDP socket (Linux's default receive buffer is 208 KiB).
pub const UDP_QUEUE_BYTES: usize = 208 << 10;

/// The largest payload of a UDP datagram over IPv4.
pub const DATAGRAM_MAX: usize = 65_507;

/// Service flows one UDP socket remembers, so that answers of a backend carry the service's address.
pub const UDP_FLOWS: usize = 64;

/// Clients of one UDP port of the host whose backend is remembered, and that one socket can answer.
pub const UDP_VISITORS: usize = 4096;

/// Hosts outside that one UDP socket talks to at a time: only those it has sent to are heard.
pub const UDP_PEERS: usize = 256;

/// How long a UDP client or host outside is remembered in silence (Linux's `nf_conntrack_udp_timeout_stream`).
pub const UDP_IDLE: Duration = Duration::from_secs(120);

/// Sockets of the kernel that guests of this node hold to the outside at one time: this part of the descriptors that
/// the process may have, and at most so many. Volumes have a half; the rest is the node's own.
pub const EGRESS_PART: usize = 8;
/// See [`EGRESS_PART`].
pub const EGRESS_CONNECTIONS: usize = 4096;

/// The same for connections of guests to the API server, which are not to be used up by those to the outside.
pub const HOME_PART: usize = 32;
/// See [`HOME_PART`].
pub const HOME_CONNECTIONS: usize = 1024;

/// The same for connections that come in through all ports of the host together.
pub const DOORS_PART: usize = 5;
/// See [`DOORS_PART`].
pub const DOOR_CONNECTIONS: usize = 65_536;

/// The same for one pod.
pub const EGRESS_CONNECTIONS_PER_POD: usize = 512;

/// Connections one NodePort carries at a time. Beyond it new ones wait, all but one in the kernel's backlog.
pub const NODE_PORT_CONNECTIONS: usize = 2048;

/// The longest pause between two tries to open a NodePort that somebody else holds.
pub const NODE_PORT_RETRY_MAX: Duration = Duration::from_secs(30);

/// How long a connection that its guest has closed may wait for the outside to close, too (Linux's
/// `tcp_fin_timeout`).
pub const ORPHAN_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes read at once from the kernel for a guest.
pub const KERNEL_READ: usize = 32 << 10;

/// Lookups that run in the host's resolver at one time; each may block a thread.
pub const LOOKUPS: usize = 16;

/// How long a pod that has its part of them waits until it looks for a place again.
pub const LOOKUP_PAUSE: Duration = Duration::from_millis(20);

/// Lookups of one pod under way at one time.
pub const LOOKUPS_PER_POD: usize = 8;

/// Questions a second that the node asks the name servers which one pod names itself, in the long run: they are asked
/// on the node's threads, not on the pod's. Programs that need more speak DNS themselves.
pub const QUESTIONS_PER_SECOND: u32 = 100;

/// Questions that a pod may ask at once after a silence.
pub const QUESTIONS_AT_ONCE: u32 = 200;

/// How long a guest waits for the host's resolver (what `resolv.conf` waits for one server).
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one look-up may take with all that its search list makes of the name.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a server that a pod's `dnsConfig` names has to answer one query.
pub const NAMESERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// For how long the host's resolver is not asked again for a name that it knew.
pub const NAME_KEPT: Duration = Duration::from_secs(30);

/// The same for a name that nobody has: it may be about to be made.
pub const NO_NAME_KEPT: Duration = Duration::from_secs(5);

/// Names of the world that a node keeps. One costs some 200 bytes.
pub const NAMES_KEPT: usize = 4096;

/// The longest query that the cluster's DNS server reads. One question has at most 300 bytes.
pub const DNS_QUERY_MAX: usize = 4096;

/// Connections of one pod to the cluster's DNS server.
pub const DNS_CONNECTIONS_PER_POD: usize = 16;

/// Queries of one pod over UDP that wait for the world; the next is lost, as datagrams may be. Programs ask for both
/// families of a few names at a time; without a bound, who asks faster than the node answers would fill its memory.
pub const DNS_WAITING_PER_POD: usize = 64;

/// Queries that one such connection carries.
pub const DNS_QUERIES_PER_CONNECTION: usize = 1024;

/// How long such a connection may be idle.
pub const DNS_CONNECTION_IDLE: Duration = Duration::from_secs(10);

/// Addresses one name may resolve to; DNS over UDP carries about that many.
pub const ADDRESSES_PER_NAME: usize = 256;

/// Names that one pod's `coracle.dev/egress-hosts` lists; the rest is ignored.
pub const EGRESS_HOSTS: usize = 64;

/// Addresses that such names have allowed to one pod at a time.
pub const HOST_BINDINGS: usize = 1024;

/// For how long a look-up allows the addresses it answered. Longer than programs keep an answer without a time to
/// live of its own, shorter than a cloud takes to give an address to somebody else.
pub const HOST_BINDING: Duration = Duration::from_secs(300);

/// Partners of one pod whose verdict is remembered. All are asked anew when there are more.
pub const VERDICTS_PER_POD: usize = 256;

/// How long a datagram that policy let through may be answered, after it or after the last answer (Linux's
/// `nf_conntrack_udp_timeout`).
pub const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Datagrams of different senders to one pod that may be answered at a time.
pub const FLOWS_PER_POD: usize = 4096;

/// Clients whose backend one service port with `sessionAffinity: ClientIP` remembers.
pub const AFFINITY_CLIENTS: usize = 10_000;

/// Wakers one side of a stream keeps. A guest is one task, so there is usually one; the oldest is woken
/// for nothing when there are more, which is allowed and bounds the list.
pub const WAITERS: usize = 8;
