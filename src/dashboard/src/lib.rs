//! The web page that shows a cluster, and what serves it: one page, read-only, live, without anything
//! from elsewhere.
//!
//! ```text
//!  browser ── access ── routes ─┬─ assets
//!                               └─ View (one per open page) ◀── shared informers
//! ```
//! It must never write to the cluster, and never show anything to someone who was not given the URL:
//! whoever else is on the machine (the loopback is everybody's) or a web page that the user visits.
//! The token in the URL becomes a cookie. Browsers send cookies to every port of an address, so the
//! listen address should be one that the cluster's user does not share with servers of others.
//!
//! Read first: [`Dashboard`], then `view` (what an open page is told) and `access` (who gets in).

mod access;
mod occupancy;
mod routes;
mod rows;
mod serve;
mod sources;
#[cfg(test)]
mod tests;
mod view;
mod workloads;

use std::{io, net::SocketAddr, time::Duration};

use coracle_client::Informers;
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use access::Access;

/// What a dashboard is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, in plain HTTP, hence on a loopback address; port 0 picks a free one.
    pub listen: SocketAddr,
}

/// Why the dashboard could not start.
#[derive(Debug, Error)]
pub enum DashboardError {
    /// The address could not be bound.
    #[error("the dashboard cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running dashboard. It reads nothing from the cluster until somebody looks. Dropping it stops it.
#[derive(Debug)]
pub struct Dashboard {
    url: String,
    server: JoinHandle<()>,
    stop: DropGuard,
}

impl Dashboard {
    /// Listens and serves.
    ///
    /// # Errors
    /// The address is taken or not of this machine.
    pub async fn build(config: Config, informers: &Informers) -> Result<Dashboard, DashboardError> {
        let failed = |source| DashboardError::Listen { address: config.listen, source };
        let socket = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the dashboard speaks plain HTTP beyond the loopback");
        }
        let stop = CancellationToken::new();
        let access = Access::new(address);
        let url = access.url();
        let router = routes::router(access, informers.clone(), stop.clone());
        let server = tokio::spawn(serve::run(socket, router, stop.clone()));
        Ok(Dashboard { url, server, stop: stop.drop_guard() })
    }

    /// Where a browser finds it. Whoever has this URL sees the cluster: it carries the token that was
    /// made for this start.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Ends the open pages' streams, then the connections; those that have not ended by `deadline` are
    /// cut.
    pub async fn shutdown(mut self, deadline: Duration) {
        drop(self.stop);
        if timeout(deadline, &mut self.server).await.is_err() {
            tracing::warn!("some viewers of the dashboard did not end in time");
            self.server.abort();
        }
    }
}
