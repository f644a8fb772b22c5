//! What `wasi:http` keeps on the host for a guest, charged like its own memory: bodies that nobody reads yet, and
//! what requests, responses and fields are made of.
//!
//! A body is charged with all that can wait in it, for as long as it lives, which may be longer than its guest. For
//! the rest the functions that let it grow are replaced by ones that count: growth is added up, and now and then what
//! is really there is looked through. Until then a guest pays for a little more than it has. What an instance keeps of
//! its requests when they are over is looked through before it gets another.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceTable};
use wasmtime_wasi_http::p2::bindings::http::types as types2;
use wasmtime_wasi_http::p2::body::{HostFutureTrailers, HostIncomingBody};
use wasmtime_wasi_http::p2::types::{
    HostIncomingRequest, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::p3::bindings::http::types as types3;
use wasmtime_wasi_http::{Error, FieldMap, WasiBody, p3};

use super::charge::held_by;
use super::config::{H2_SEND_BYTES, READ_BYTES};
use crate::limiter::{Held, Limiter};
use crate::state::State;

/// Bytes that a guest writes into a body at once: an HTTP/2 frame. Two of them wait for whoever reads it.
pub(super) const BODY_CHUNK: usize = 16 << 10;

/// What a body may hold, and is charged with: what waits in it, and what waits for a slow client behind it.
pub(crate) const BODY_BYTES: u64 = (2 * BODY_CHUNK + H2_SEND_BYTES) as u64;

/// Bytes of an instance's heads that nobody counts: those of a few ordinary requests, so that most instances are
/// never looked through.
const FREE: u64 = 64 << 10;

/// What a request, a response or a set of fields takes beside its texts.
const ENTRY_BYTES: u64 = 256;

/// What a field takes beside its texts: its places in the map, which is up to twice as large as what is in it.
const FIELD_BYTES: u64 = 192;

/// The interfaces as the bindings define them. If they define another version some day, the functions here are those
/// of an interface without the rest, which no handler can be linked to.
const TYPES_2: &str = "wasi:http/types@0.2.12";
const TYPES_3: &str = "wasi:http/types@0.3.0";

/// How much the heads that an instance made take.
#[derive(Default)]
pub(super) struct Heads {
    /// Since they were last looked through.
    grown: u64,
    /// How far they may grow until they are looked through again; more than [`FREE`] is charged.
    room: u64,
    held: Option<Held>,
    /// For what is kept of earlier requests.
    kept: Option<Held>,
}

impl Heads {
    /// Something of so many bytes comes without being asked for.
    pub(super) fn comes(&mut self, bytes: u64) {
        self.grown = self.grown.saturating_add(bytes);
    }

    /// They are about to grow.
    ///
    /// # Errors
    /// If that is more than the container or its pod may hold.
    pub(super) fn grow(
        &mut self,
        bytes: u64,
        table: &mut ResourceTable,
        limiter: &mut Limiter,
    ) -> wasmtime::Result<()> {
        self.comes(bytes);
        if self.grown <= self.room.max(FREE) {
            return Ok(());
        }
        let all = table.iter_mut().map(|entry| head_bytes(entry)).sum::<u64>().saturating_add(bytes);
        // In proportion, so that looking costs each byte the same.
        self.room = FREE.max(all / 4);
        self.grown = 0;
        let held = match &mut self.held {
            Some(held) => held,
            None => self.held.insert(limiter.lend(0)?),
        };
        limiter.resize(held, all.saturating_add(self.room))
    }

    /// A request is over, and another may come: what is still there of it, and of answers to the guest's own, is from
    /// now on paid for like the buffers of the connections that it came in, which it keeps.
    ///
    /// # Errors
    /// If that is more than the container or its pod may hold.
    pub(super) fn settle(
        &mut self,
        table: &mut ResourceTable,
        limiter: &mut Limiter,
    ) -> wasmtime::Result<()> {
        let kept = table.iter_mut().map(|entry| u64::from(has_come(entry))).sum::<u64>() * READ_BYTES;
        match &mut self.kept {
            None if kept == 0 => Ok(()),
            None => limiter.resize(self.kept.insert(limiter.lend(0)?), kept),
            Some(held) => limiter.resize(held, kept),
        }
    }
}

/// Whether an entry of the resource table may hold what came on a connection.
fn has_come(entry: &(dyn Any + Send)) -> bool {
    entry.is::<HostIncomingRequest>()
        || entry.is::<HostIncomingResponse>()
        || entry.is::<HostIncomingBody>()
        || entry.is::<HostFutureTrailers>()
        || entry.is::<FieldMap>()
        || entry.is::<p3::Request>()
        || entry.is::<p3::Response>()
}

/// What an entry of the resource table takes for its head.
fn head_bytes(entry: &(dyn Any + Send)) -> u64 {
    let (fields, texts) = if let Some(fields) = entry.downcast_ref::<FieldMap>() {
        (fields, 0)
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let method = match &request.method {
            types2::Method::Other(name) => name.len(),
            _ => 0,
        };
        (&request.headers, method + length(&request.authority) + length(&request.path_with_query))
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        (&response.headers, 0)
    } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
        (&response.headers, 0)
    } else if let Some(request) = entry.downcast_ref::<p3::Request>() {
        let authority = request.authority.as_ref().map_or(0, |authority| authority.as_str().len());
        let path = request.path_with_query.as_ref().map_or(0, |path| path.as_str().len());
        (&request.headers, request.method.as_str().len() + authority + path)
    } else if let Some(response) = entry.downcast_ref::<p3::Response>() {
        (&response.headers, 0)
    } else {
        return 0;
    };
    fields_bytes(fields) + texts as u64
}

/// What fields take.
pub(super) fn fields_bytes(fields: &HeaderMap) -> u64 {
    let fields = fields.iter().map(|(name, value)| field_bytes(name.as_str(), value.as_bytes()));
    fields.fold(ENTRY_BYTES, u64::saturating_add)
}

fn field_bytes(name: &str, value: &[u8]) -> u64 {
    (name.len() + value.len()) as u64 + FIELD_BYTES
}

/// Values as they come are parts of the buffer of their connection, which is larger than what is counted for them: who
/// keeps one would keep all of that. From now on each is its own.
pub(super) fn let_go_of_buffer(fields: &mut HeaderMap) {
    for value in fields.values_mut() {
        if let Ok(own) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = own;
        }
    }
}

/// Puts functions that count in place of those that do not.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, wasi_p3: bool) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES_2)?;
    heads_2(&mut types)?;
    bodies_2(&mut types)?;
    if wasi_p3 {
        heads_3(&mut linker.instance(TYPES_3)?)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// The same functions in both versions.
macro_rules! heads {
    ($name:ident, $types:ident, $trait:ident, $request:ident, $resource:literal) => {
        fn $name(instance: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
            use $types::{HeaderError, Host, HostFields, Method, $request, $trait};
            type Store<'a> = StoreContextMut<'a, State>;
            type Told = (Result<(), HeaderError>,);

            instance.func_wrap("[constructor]fields", |mut store: Store<'_>, (): ()| {
                let mut http = store.data_mut().http_grows(ENTRY_BYTES)?;
                Ok((HostFields::new(&mut http)?,))
            })?;
            instance.func_wrap(
                "[static]fields.from-list",
                |mut store: Store<'_>, (list,): (Vec<(String, Vec<u8>)>,)| {
                    let bytes = list.iter().map(|(name, value)| field_bytes(name, value));
                    let bytes = bytes.fold(ENTRY_BYTES, u64::saturating_add);
                    let mut http = store.data_mut().http_grows(bytes)?;
                    Ok((match HostFields::from_list(&mut http, list) {
                        Ok(fields) => Ok(fields),
                        Err(error) => Err(Host::convert_header_error(&mut http, error)?),
                    },))
                },
            )?;
            instance.func_wrap(
                "[method]fields.append",
                |mut store: Store<'_>,
                 (fields, name, value): (Resource<FieldMap>, String, Vec<u8>)|
                 -> wasmtime::Result<Told> {
                    let mut http = store.data_mut().http_grows(field_bytes(&name, &value))?;
                    Ok((match HostFields::append(&mut http, fields, name, value) {
                        Ok(()) => Ok(()),
                        Err(error) => Err(Host::convert_header_error(&mut http, error)?),
                    },))
                },
            )?;
            instance.func_wrap(
                "[method]fields.set",
                |mut store: Store<'_>,
                 (fields, name, values): (Resource<FieldMap>, String, Vec<Vec<u8>>)|
                 -> wasmtime::Result<Told> {
                    let bytes = values.iter().map(|value| field_bytes(&name, value));
                    let bytes = bytes.fold(0, u64::saturating_add);
                    let mut http = store.data_mut().http_grows(bytes)?;
                    Ok((match HostFields::set(&mut http, fields, name, values) {
                        Ok(()) => Ok(()),
                        Err(error) => Err(Host::convert_header_error(&mut http, error)?),
                    },))
                },
            )?;
            // They are shared until one of them changes.
            instance.func_wrap(
                "[method]fields.clone",
                |mut store: Store<'_>, (fields,): (Resource<FieldMap>,)| {
                    let bytes = fields_bytes(store.data_mut().table.get(&fields)?);
                    let mut http = store.data_mut().http_grows(bytes)?;
                    Ok((HostFields::clone(&mut http, fields)?,))
                },
            )?;
            instance.func_wrap(
                concat!("[method]", $resource, ".set-method"),
                |mut store: Store<'_>, (request, method): (Resource<$request>, Method)| {
                    let bytes = match &method {
                        Method::Other(name) => name.len() as u64,
                        _ => 0,
                    };
                    let mut http = store.data_mut().http_grows(bytes)?;
                    Ok(($trait::set_method(&mut http, request, method)?,))
                },
            )?;
            instance.func_wrap(
                concat!("[method]", $resource, ".set-path-with-query"),
                |mut store: Store<'_>, (request, path): (Resource<$request>, Option<String>)| {
                    let bytes = path.as_ref().map_or(0, |path| path.len() as u64);
                    let mut http = store.data_mut().http_grows(bytes)?;
                    Ok(($trait::set_path_with_query(&mut http, request, path)?,))
                },
            )?;
            instance.func_wrap(
                concat!("[method]", $resource, ".set-authority"),
                |mut store: Store<'_>, (request, authority): (Resource<$request>, Option<String>)| {
                    let bytes = authority.as_ref().map_or(0, |authority| authority.len() as u64);
                    let mut http = store.data_mut().http_grows(bytes)?;
                    Ok(($trait::set_authority(&mut http, request, authority)?,))
                },
            )
        }
    };
}

heads!(heads_2, types2, HostOutgoingRequest, OutgoingRequest, "outgoing-request");
heads!(heads_3, types3, HostRequest, Request, "request");

/// Bodies of 0.2: made before anybody reads them, if anybody does. Those of 0.3 stay with the guest until then.
fn bodies_2(types: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    types.func_wrap(
        "[method]outgoing-request.body",
        |mut store: StoreContextMut<'_, State>, (request,): (Resource<HostOutgoingRequest>,)| {
            let state = store.data_mut();
            let body = Resource::<HostOutgoingRequest>::new_borrow(request.rep());
            let made = types2::HostOutgoingRequest::body(&mut state.http_grows(0)?, request)?;
            if made.is_ok() {
                let held = state.limiter.lend(BODY_BYTES)?;
                charge(&mut state.table.get_mut(&body)?.body, held);
            }
            Ok((made,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-response.body",
        |mut store: StoreContextMut<'_, State>, (response,): (Resource<HostOutgoingResponse>,)| {
            let state = store.data_mut();
            let body = Resource::<HostOutgoingResponse>::new_borrow(response.rep());
            let made = types2::HostOutgoingResponse::body(&mut state.http_grows(0)?, response)?;
            if made.is_ok() {
                let held = state.limiter.lend(BODY_BYTES)?;
                charge(&mut state.table.get_mut(&body)?.body, held);
            }
            Ok((made,))
        },
    )
}

fn charge(body: &mut Option<WasiBody>, held: Held) {
    *body = body.take().map(|body| charged(body, held));
}

/// A body that holds what it is charged with until it and all of its pieces are gone.
pub(super) fn charged(body: WasiBody, held: Held) -> WasiBody {
    Charged { body, held: Arc::new(held) }.boxed_unsync()
}

struct Charged {
    body: WasiBody,
    held: Arc<Held>,
}

impl Body for Charged {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // A piece may wait to be sent when the body is gone.
        let piece = |bytes: Bytes| held_by(bytes, Arc::clone(&self.held));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_fields_keeps_no_buffer() {
        let buffer = Bytes::from(b"a: one\r\na: two\r\n".to_vec());
        let values = [3..6, 11..14].map(|at| HeaderValue::from_maybe_shared(buffer.slice(at)).unwrap());
        let mut fields: HeaderMap = values.map(|value| (http::header::ACCEPT, value)).into_iter().collect();
        assert!(!buffer.is_unique());
        let_go_of_buffer(&mut fields);
        assert!(buffer.is_unique());
        assert_eq!(fields.get_all(http::header::ACCEPT).iter().collect::<Vec<_>>(), ["one", "two"]);
    }
}
