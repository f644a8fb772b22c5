//! `wasi:sockets/ip-name-lookup`.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host, HostResolveAddressStream, ResolveAddressStream as Theirs,
};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketResult, subscribe};

use super::errors::resolve_error_code;
use super::{NetView, ours, ours_owned, theirs};

type Found = Result<std::vec::IntoIter<IpAddr>, ErrorCode>;

/// A look-up: services and the pod's own names are answered at once, others when the host's resolver does.
enum Lookup {
    Under(Pin<Box<dyn Future<Output = Found> + Send>>),
    Done(Found),
}

impl Lookup {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&mut Found> {
        if let Lookup::Under(lookup) = self
            && let Poll::Ready(found) = lookup.as_mut().poll(cx)
        {
            *self = Lookup::Done(found);
        }
        match self {
            Lookup::Under(_) => Poll::Pending,
            Lookup::Done(found) => Poll::Ready(found),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll(cx).map(drop)).await;
    }
}

impl Host for NetView<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<Theirs>> {
        self.check_capability(&network)?;
        let stack = self.sockets.stack.clone();
        let lookup = async move {
            let found = stack.resolve(&name).await;
            found.map(Vec::into_iter).map_err(|error| resolve_error_code(&error))
        };
        let mut lookup = Lookup::Under(Box::pin(lookup));
        if let Poll::Ready(Err(error)) = lookup.poll(&mut Context::from_waker(Waker::noop())) {
            return Err((*error).into());
        }
        Ok(theirs(&self.push(lookup)?))
    }
}

impl HostResolveAddressStream for NetView<'_> {
    fn resolve_next_address(&mut self, this: Resource<Theirs>) -> SocketResult<Option<IpAddress>> {
        let lookup: &mut Lookup = self.table.get_mut(&ours(&this))?;
        match lookup.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Err(ErrorCode::WouldBlock.into()),
            Poll::Ready(Ok(found)) => Ok(found.next().map(IpAddress::from)),
            Poll::Ready(Err(error)) => Err((*error).into()),
        }
    }

    fn subscribe(&mut self, this: Resource<Theirs>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<Lookup, _>(&this))
    }

    fn drop(&mut self, this: Resource<Theirs>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<Lookup, _>(&this))?;
        Ok(())
    }
}
