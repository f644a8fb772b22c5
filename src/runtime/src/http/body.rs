//! Bodies of answers, and the guests that are still writing them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi_http::{Error, WasiBody};

use super::charge::{Leaving, Paid};
use super::factory::{Full, Instance};
use super::io::Busy;
use super::metrics::InFlight;
use super::server::Server;

/// A guest at its request. It runs while it is polled; dropping it ends its instance.
pub(super) struct Run {
    /// For the request, which the guest may have until it returns, however early it answers.
    paid: Option<Arc<Paid>>,
    guest: Pin<Box<dyn Future<Output = wasmtime::Result<Instance>> + Send>>,
    server: Arc<Server>,
    _permit: OwnedSemaphorePermit,
}

/// A guest did not get to the end of its request; for want of memory, if something is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed(pub(super) Option<Full>);

impl Run {
    pub(super) fn new(
        guest: impl Future<Output = wasmtime::Result<Instance>> + Send + 'static,
        server: Arc<Server>,
        (permit, paid): (OwnedSemaphorePermit, Arc<Paid>),
    ) -> Run {
        Run { paid: Some(paid), guest: Box::pin(guest), server, _permit: permit }
    }
}

impl Future for Run {
    type Output = Result<(), Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.guest.as_mut().poll(cx));
        self.paid = None;
        Poll::Ready(self.server.returned(result))
    }
}

/// The body of an answer. The request is in flight as long as it lives; what is paid for it, until it has left.
pub(super) struct AnswerBody {
    content: Content,
    /// What holds `leaving` until the answer has left: a piece of the content or, if it has none, an empty one.
    held: bool,
    /// None if nothing is paid.
    leaving: Option<Arc<Leaving>>,
    _flight: InFlight,
    _busy: Busy,
}

enum Content {
    /// The node's own words.
    Text(Option<Bytes>),
    Guest(GuestBody),
}

impl AnswerBody {
    pub(super) fn text(
        text: &'static str,
        leaving: Option<Arc<Leaving>>,
        flight: InFlight,
        busy: Busy,
    ) -> AnswerBody {
        let text = Some(Bytes::from_static(text.as_bytes())).filter(|text| !text.is_empty());
        AnswerBody::new(Content::Text(text), leaving, flight, busy)
    }

    pub(super) fn guest(body: GuestBody, leaving: Arc<Leaving>, flight: InFlight, busy: Busy) -> AnswerBody {
        AnswerBody::new(Content::Guest(body), Some(leaving), flight, busy)
    }

    fn new(content: Content, leaving: Option<Arc<Leaving>>, flight: InFlight, busy: Busy) -> AnswerBody {
        let held = leaving.as_ref().is_none_or(|leaving| !leaving.is_queued());
        AnswerBody { content, held, leaving, _flight: flight, _busy: busy }
    }

    /// The empty piece, if there is to be one.
    fn last(&mut self) -> Option<Frame<Bytes>> {
        let leaving = self.leaving.as_ref().filter(|_| !self.held)?;
        self.held = true;
        Some(Frame::data(leaving.piece(Bytes::new())))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let me = &mut *self;
        let frame = match &mut me.content {
            Content::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Content::Guest(body) => ready!(body.poll_frame(cx)),
        };
        let nothing = |frame: &Frame<Bytes>| frame.trailers_ref().is_some_and(HeaderMap::is_empty);
        let (frame, leaving) = match (frame, &me.leaving) {
            (Some(Ok(frame)), Some(leaving)) if me.held || !nothing(&frame) => (frame, leaving),
            (None | Some(Ok(_)), Some(_)) => return Poll::Ready(me.last().map(Ok)),
            (frame, _) => return Poll::Ready(frame),
        };
        me.held = true;
        let mut frame = frame.map_data(|bytes| leaving.piece(bytes));
        let paid = frame.trailers_mut().map_or(Ok(()), |trailers| leaving.trailers(trailers));
        // What cannot be paid for is not sent, and the client sees that there was to be more.
        Poll::Ready(Some(paid.map(|()| frame).map_err(|_| Error::HttpProtocolError)))
    }

    fn is_end_stream(&self) -> bool {
        self.held
            && match &self.content {
                Content::Text(text) => text.is_none(),
                Content::Guest(body) => body.is_end(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let empty = match &self.content {
            Content::Text(text) => text.is_none(),
            Content::Guest(body) => body.is_end(),
        };
        match &self.content {
            // Also the length of nothing would be said, which not every answer may do.
            _ if empty => SizeHint::default(),
            Content::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Content::Guest(body) => body.size_hint(),
        }
    }
}

/// What a guest writes, while it runs and after.
pub(super) struct GuestBody {
    body: WasiBody,
    /// What was taken from `body` before anybody asked.
    ahead: VecDeque<Frame<Bytes>>,
    /// `body` has come to its end.
    complete: bool,
    run: Option<Run>,
    failed: bool,
}

impl GuestBody {
    /// `run` is none if the guest has returned.
    pub(super) fn new(body: WasiBody, run: Option<Run>) -> GuestBody {
        GuestBody { body, ahead: VecDeque::new(), complete: false, run, failed: false }
    }

    /// Whether the guest has returned.
    pub(super) fn has_returned(&self) -> bool {
        self.run.is_none()
    }

    /// Looks whether the whole body is there already, so that the client is told its length rather than that there
    /// will be chunks. Most answers are one piece.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        while self.run.is_none() && !self.failed && !self.complete && self.ahead.len() < 2 {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.ahead.push_back(frame),
                Poll::Ready(Some(Err(_))) => self.failed = true,
                Poll::Ready(None) => self.complete = true,
                Poll::Pending => return,
            }
        }
    }

    /// Lets the guest come to its end although nobody reads what it writes: the client wants no body.
    pub(super) fn finish_unread(mut self, server: &Arc<Server>) {
        if self.run.is_none() {
            return;
        }
        let limit = server.config.timeout;
        server.tasks.spawn(async move {
            let all = async { while std::future::poll_fn(|cx| self.poll_frame(cx)).await.is_some() {} };
            let _ = tokio::time::timeout(limit, all).await; // in which case it is ended
        });
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(run) = &mut self.run
            && let Poll::Ready(result) = Pin::new(run).poll(cx)
        {
            self.run = None;
            self.failed = result.is_err();
        }
        if let Some(frame) = self.ahead.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = if self.complete { None } else { ready!(Pin::new(&mut self.body).poll_frame(cx)) };
        match &frame {
            None if self.failed => {
                // The end of what there is is not the end of what there was to be.
                self.failed = false;
                self.complete = true;
                return Poll::Ready(Some(Err(Error::HttpProtocolError)));
            }
            Some(Ok(frame)) if frame.is_data() => {}
            None | Some(_) => self.end(),
        }
        Poll::Ready(frame)
    }

    /// The client has everything: the guest may go on for a while.
    fn end(&mut self) {
        self.complete = true;
        if let Some(run) = self.run.take() {
            let server = Arc::clone(&run.server);
            let limit = server.config.timeout;
            server.tasks.spawn(async move {
                let _ = tokio::time::timeout(limit, run).await; // told by `returned`, or ended
            });
        }
    }

    fn is_end(&self) -> bool {
        self.complete && self.ahead.is_empty() && !self.failed
    }

    fn size_hint(&self) -> SizeHint {
        let known = self.complete && !self.failed && self.ahead.iter().all(Frame::is_data);
        if !known {
            return SizeHint::default();
        }
        let length: usize = self.ahead.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
        SizeHint::with_exact(length as u64)
    }
}
