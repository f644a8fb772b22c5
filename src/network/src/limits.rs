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

/// The window once the writing pod has used up [`POD_BUFFER_BUDGET`]: still enough to make progress.
pub const STREAM_WINDOW_MIN: usize = 8 << 10;

/// Bytes a pod may have in flight (written and not yet read by the other side) before its windows
/// shrink. The writer is charged, so that a pod can only make its own connections slower.
pub const POD_BUFFER_BUDGET: usize = 16 << 20;

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

/// Kernel TCP connections that guests of this node hold to the outside at one time. Each is a descriptor
/// of the node's process.
pub const EGRESS_CONNECTIONS: usize = 4096;

/// The same for one pod, so that no pod uses up the node's share.
pub const EGRESS_CONNECTIONS_PER_POD: usize = 512;

/// Connections one NodePort carries at a time. Beyond it new ones wait in the kernel's backlog.
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

/// Lookups of one pod under way at one time.
pub const LOOKUPS_PER_POD: usize = 8;

/// How long a guest waits for the host's resolver (what `resolv.conf` waits for one server).
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

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

/// How long a datagram that policy let through may be answered (Linux's `nf_conntrack_udp_timeout`).
pub const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Datagrams of different senders to one pod that may be answered at a time.
pub const FLOWS_PER_POD: usize = 4096;

/// Clients whose backend one service port with `sessionAffinity: ClientIP` remembers.
pub const AFFINITY_CLIENTS: usize = 10_000;

/// Wakers one side of a stream keeps. A guest is one task, so there is usually one; the oldest is woken
/// for nothing when there are more, which is allowed and bounds the list.
pub const WAITERS: usize = 8;
