//! The HTTPS server: binds first, serves, drains.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::runtime::health::Gate;
use crate::runtime::shutdown::Shutdown;

/// How long running requests may take after the order to stop; above the webhook's own timeout of 5 s.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long endpoints take to stop sending new connections once readiness is lost; they are still served meanwhile.
pub(crate) const DRAIN_DELAY: Duration = Duration::from_secs(5);

/// A client that does not finish its request's head by then is cut off.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A TLS handshake that takes longer serves nobody: the apiserver waits 5 s in all.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pings on an idle HTTP/2 connection, so that one whose peer has vanished is closed.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer to a ping may take.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the webhook does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot listen on webhook address {address}: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The accept loop ended.
    #[error("the webhook server on {address} failed: {source}")]
    Serve {
        /// Where it listened.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// How the server stops.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Closed first, so that readiness is lost before the port is.
    pub gate: Option<Gate>,
    /// Time between that and refusing connections; zero outside a cluster.
    pub delay: Duration,
    /// Time for running requests after that.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { gate: None, delay: DRAIN_DELAY, timeout: DRAIN_TIMEOUT }
    }
}

/// Binds `address` (port 0 = any) and serves HTTP/1.1 and HTTP/2 over TLS until `shutdown`, then drains.
/// Returns the address that was bound: connections succeed from then on.
pub async fn serve(
    router: Router,
    tls: RustlsConfig,
    address: SocketAddr,
    drain: Drain,
    shutdown: Shutdown,
) -> Result<(SocketAddr, JoinHandle<Result<(), Error>>), Error> {
    let bind = |source| Error::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let handle = Handle::<SocketAddr>::new();
    let acceptor = RustlsAcceptor::new(tls).handshake_timeout(HANDSHAKE_TIMEOUT);
    let mut server = axum_server::Server::from_listener(listener).acceptor(acceptor).handle(handle.clone());
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    server
        .http_builder()
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    let task = tokio::spawn(async move {
        let stop = async {
            shutdown.requested().await;
            if let Some(gate) = &drain.gate {
                gate.close();
            }
            tokio::time::sleep(drain.delay).await;
            tracing::info!(connections = handle.connection_count(), "the webhook drains");
            handle.graceful_shutdown(Some(drain.timeout));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = server.serve(router.into_make_service()) => {
                ended.map_err(|source| Error::Serve { address: bound, source })
            }
            () = stop => Ok(()),
        }
    });
    Ok((bound, task))
}

#[cfg(test)]
mod tests;
