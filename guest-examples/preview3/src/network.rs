//! Sockets on the pod's own loopback.

use futures_util::{StreamExt, join, stream::FuturesUnordered};
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket, UdpSocket,
};

use crate::{Failure, failed};

fn loopback(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (127, 0, 0, 1) })
}

/// Sends `text`, and gives everything that comes back.
pub(crate) async fn fetch(port: u16, text: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
    socket.connect(loopback(port)).await.map_err(failed)?;
    let (mut writer, reader) = wasip3::wit_stream::new();
    let sent = socket.send(reader);
    let (stream, received) = socket.receive();
    let ((), answer) = join!(
        async {
            writer.write_all(text).await;
            drop(writer);
        },
        stream.collect(),
    );
    sent.await.map_err(failed)?;
    received.await.map_err(failed)?;
    Ok(answer)
}

/// Sends back what each connection sends, many at a time.
pub(crate) async fn serve(port: u16, count: usize) -> Result<(), Failure> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
    socket.bind(loopback(port)).map_err(failed)?;
    let mut connections = socket.listen().map_err(failed)?;
    crate::print(b"listening\n".to_vec()).await;
    let mut answering = FuturesUnordered::new();
    let mut accepted = 0;
    while count == 0 || accepted < count {
        let Some(connection) = connections.next().await else { break };
        accepted += 1;
        // What comes in goes out again inside the host, from now on; only its end is waited for.
        let (stream, received) = connection.receive();
        let sent = connection.send(stream);
        answering.push(async move { join!(sent.into_future(), received.into_future()) });
        if answering.len() >= 16 {
            answering.next().await;
        }
    }
    while answering.next().await.is_some() {}
    Ok(())
}

/// Sends a datagram from a socket that talks to nobody else, and gives the answer.
pub(crate) async fn datagram(port: u16, text: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
    socket.connect(loopback(port)).map_err(failed)?;
    socket.send(text, None).await.map_err(failed)?;
    let (answer, from) = socket.receive().await.map_err(failed)?;
    if same(from, loopback(port)) { Ok(answer) } else { Err(format!("{from:?} answered")) }
}

/// Sends so many datagrams back to where they came from, whichever family that is of.
pub(crate) async fn datagrams(port: u16, count: usize) -> Result<(), Failure> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv6).map_err(failed)?;
    let any = Ipv6SocketAddress { port, flow_info: 0, address: (0, 0, 0, 0, 0, 0, 0, 0), scope_id: 0 };
    socket.bind(IpSocketAddress::Ipv6(any)).map_err(failed)?;
    crate::print(b"bound\n".to_vec()).await;
    for _ in 0..count {
        let (data, from) = socket.receive().await.map_err(failed)?;
        socket.send(data, Some(from)).await.map_err(failed)?;
    }
    Ok(())
}

/// What the rules of UDP answer, a line each.
pub(crate) async fn rules() -> Result<Vec<String>, Failure> {
    let mut said = Vec::new();
    let mut say = |what: &str, result: Result<(), ErrorCode>| {
        let result = result.map_or_else(|error| format!("{error:?}"), |()| "ok".to_owned());
        said.push(format!("{what}: {}", result.trim_start_matches("ErrorCode::")));
    };
    let new = || UdpSocket::create(IpAddressFamily::Ipv4).map_err(failed);
    let ipv6 = IpSocketAddress::Ipv6(Ipv6SocketAddress {
        port: 9,
        flow_info: 0,
        address: (0, 0, 0, 0, 0, 0, 0, 1),
        scope_id: 0,
    });
    let ipv4 =
        |first, last, port| IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (first, 0, 0, last) });

    let socket = new()?;
    say("receive before it is bound", socket.receive().await.map(drop));
    say("where it is before it is bound", socket.get_local_address().map(drop));
    say("send to nobody", socket.send(b"x".to_vec(), None).await);
    say("send to port 0", socket.send(b"x".to_vec(), Some(loopback(0))).await);
    say("send to no host", socket.send(b"x".to_vec(), Some(ipv4(0, 0, 9))).await);
    say("send to another family", socket.send(b"x".to_vec(), Some(ipv6)).await);
    say("send to many", socket.send(b"x".to_vec(), Some(ipv4(224, 1, 9))).await);
    say("send where nobody listens", socket.send(b"x".to_vec(), Some(loopback(9))).await);
    say("send too much", socket.send(vec![0; 65_508], Some(loopback(9))).await);
    say("bind what is bound", socket.bind(loopback(0)));
    say("where it is", socket.get_local_address().map(drop));
    say("disconnect what is not connected", socket.disconnect());
    say("whom it talks to", socket.get_remote_address().map(drop));
    say("connect to another family", socket.connect(ipv6));
    say("connect to port 0", socket.connect(loopback(0)));
    say("connect to no host", socket.connect(ipv4(0, 0, 9)));

    let server = new()?;
    server.bind(loopback(0)).map_err(failed)?;
    let at = server.get_local_address().map_err(failed)?;
    say("bind where another is", new()?.bind(at));
    say("bind where nobody can be", new()?.bind(ipv4(203, 7, 0)));
    say("bind another family", new()?.bind(ipv6));
    say("connect", socket.connect(at));
    let peer = socket.get_remote_address().map_err(failed)?;
    say("whom it talks to now", if same(peer, at) { Ok(()) } else { Err(ErrorCode::InvalidState) });
    say("send to another than it talks to", socket.send(b"x".to_vec(), Some(loopback(9))).await);
    say("send to whom it talks to", socket.send(b"y".to_vec(), Some(at)).await);
    let (data, from) = server.receive().await.map_err(failed)?;
    let stranger = new()?;
    stranger.send(b"from a stranger".to_vec(), Some(from)).await.map_err(failed)?;
    server.send(data, Some(from)).await.map_err(failed)?;
    let heard = socket.receive().await.map_err(failed)?;
    say("hear only whom it talks to", if heard.0 == b"y" { Ok(()) } else { Err(ErrorCode::InvalidState) });
    say("connect where nobody listens", socket.connect(loopback(9)));
    say("send there", socket.send(b"x".to_vec(), None).await);
    say("hear that nobody is there", socket.receive().await.map(drop));
    say("disconnect", socket.disconnect());
    stranger.send(b"again".to_vec(), Some(from)).await.map_err(failed)?;
    say("hear everybody again", socket.receive().await.map(drop));

    say("no hops", socket.set_unicast_hop_limit(0));
    say("no buffer", socket.set_receive_buffer_size(0).and(socket.set_send_buffer_size(0)));
    say("some hops", socket.set_unicast_hop_limit(7));
    let hops = socket.get_unicast_hop_limit().map_err(failed)?;
    say("as many hops as were set", if hops == 7 { Ok(()) } else { Err(ErrorCode::InvalidState) });
    Ok(said)
}

fn same(a: IpSocketAddress, b: IpSocketAddress) -> bool {
    format!("{a:?}") == format!("{b:?}")
}
