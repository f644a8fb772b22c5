//! A `wasi:http` component: no socket, no loop, one call a request.
//!
//! Shows the other way to write a server: the node accepts the connection and calls `handle` on an
//! instance of its own per request, so that an idle handler holds no memory at all. It answers with
//! the request's method and path and the name of its pod.

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam},
};

wasip2::http::proxy::export!(Handler);

struct Handler;

impl Guest for Handler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_else(|| "/".to_owned());
        let pod = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
        let text = format!("{:?} {path} handled by {pod}\n", request.method());

        let response = OutgoingResponse::new(Fields::new());
        // Both are fresh resources: the body and its stream can be taken once, and this is the once.
        let Ok(body) = response.body() else { return };
        let Ok(stream) = body.write() else { return };
        ResponseOutparam::set(out, Ok(response));
        let written = stream.blocking_write_and_flush(text.as_bytes());
        drop(stream);
        if written.is_ok() {
            // The client may be gone by now; there is nobody left to tell.
            let _ = OutgoingBody::finish(body, None);
        }
    }
}
