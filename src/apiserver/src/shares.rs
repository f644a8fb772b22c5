//! How much of the server one service account may hold at once.
//!
//! A share is a long-running request: a watch, a log, a stream, a proxied request. It lasts until its answer has
//! been sent or dropped, or, when the connection was turned into a stream, until that ends.

use std::{
    collections::{HashMap, hash_map::Entry},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use coracle_api::status::Status;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

use crate::{auth::User, authorize::account_namespace};

/// Long-running requests of one service account at once.
///
/// An account is all pods that run as it. An operator watches some tens of kinds, once per replica, and a log
/// collector follows a log per container of its node; 256 leaves room for those. It is a small part of the
/// connections and streams that the server has for everybody, so that no account, and nobody who took a token
/// from a pod, can keep the others out.
const ACCOUNT_LONG_REQUESTS: usize = 256;

/// Seconds after which a client that was refused may ask again.
///
/// A share comes free when a request ends, which nobody can foretell; a second is what a refusal for lack of
/// places says elsewhere in this server and in Kubernetes.
const RETRY_AFTER: u32 = 1;

/// What the accounts hold. An account that holds nothing is not in here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shares(Arc<Mutex<HashMap<String, usize>>>);

impl Shares {
    /// Begins a long-running request. Who is no service account is not counted.
    pub(crate) fn begin(&self, user: &User) -> Result<Share, Status> {
        if account_namespace(user).is_none() {
            return Ok(Share::default());
        }
        let mut held = self.0.lock();
        let count = held.entry(user.name.clone()).or_default();
        if *count >= ACCOUNT_LONG_REQUESTS {
            let why = "Too many requests, please try again later.";
            return Err(Status::too_many_requests(why, RETRY_AFTER));
        }
        *count += 1;
        Ok(Share(Some(Arc::new(Held { shares: self.clone(), name: user.name.clone() }))))
    }
}

/// One long-running request, for as long as the last clone lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share(Option<Arc<Held>>);

#[derive(Debug)]
struct Held {
    shares: Shares,
    name: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.shares.0.lock().entry(std::mem::take(&mut self.name)) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

impl Share {
    /// A body that holds the share until it was sent or dropped.
    pub(crate) fn hold(self, body: Body) -> Body {
        match self.0 {
            Some(_) => Body::new(Holding { body, _share: self }),
            None => body,
        }
    }
}

struct Holding {
    body: Body,
    _share: Share,
}

impl HttpBody for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
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
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_account_has_its_share_and_nothing_is_left_of_it() {
        let shares = Shares::default();
        let robot = User::account("ns", "robot", "u", BTreeMap::new());
        let mut held: Vec<Share> =
            (0..ACCOUNT_LONG_REQUESTS).map(|_| shares.begin(&robot).unwrap()).collect();
        let refused = shares.begin(&robot).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after_seconds()), (429, Some(RETRY_AFTER)));
        for other in [User::account("ns", "other", "v", BTreeMap::new()), User::new("admin", &[])] {
            shares.begin(&other).unwrap();
        }

        let body = held.pop().unwrap().hold(Body::empty());
        assert!(shares.begin(&robot).is_err(), "the body holds it");
        drop(body);
        held.push(shares.begin(&robot).unwrap());
        drop(held);
        assert!(shares.0.lock().is_empty());
    }
}
