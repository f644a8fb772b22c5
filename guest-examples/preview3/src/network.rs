//! Sockets on the pod's own loopback.

use futures_util::{StreamExt, join, stream::FuturesUnordered};
use wasip3::sockets::types::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket};

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

pub(crate) async fn datagram(port: u16, text: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4).map_err(failed)?;
    socket.connect(loopback(port)).map_err(failed)?;
    socket.send(text, None).await.map_err(failed)?;
    let (answer, _) = socket.receive().await.map_err(failed)?;
    Ok(answer)
}
