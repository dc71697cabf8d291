//! Serving HTTP: binds first, serves, drains.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use futures::FutureExt;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A client that does not finish its request's head by then is cut off.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A TLS handshake that takes longer serves nobody: the apiserver waits 5 s in all.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pings on an idle HTTP/2 connection, so that one whose peer has vanished is closed.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer to a ping may take.
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot listen on {purpose} address {address}: {source}")]
    Bind { purpose: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("the {purpose} server on {address} failed: {source}")]
    Serve { purpose: &'static str, address: SocketAddr, source: std::io::Error },
}

/// What is served, and how it stops.
pub(crate) struct Service<S> {
    /// For errors: `webhook` or `health`.
    pub(crate) purpose: &'static str,
    pub(crate) router: Router,
    /// Plain HTTP without it.
    pub(crate) tls: Option<RustlsConfig>,
    /// Connections are refused from its end on.
    pub(crate) stop: S,
    /// How long running requests may take after that.
    pub(crate) drain: Duration,
}

impl<S: Future<Output = ()> + Send + 'static> Service<S> {
    /// Binds `address` (port 0 = any) and serves HTTP/1.1 and HTTP/2. Returns the address that was bound: connections
    /// succeed from then on.
    pub(crate) async fn serve(self, address: SocketAddr) -> Result<(SocketAddr, JoinHandle<Result<(), Error>>), Error> {
        let Self { purpose, router, tls, stop, drain } = self;
        let bind = |source| Error::Bind { purpose, address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let handle = Handle::new();
        let mut server = Server::<SocketAddr>::from_listener(listener).handle(handle.clone());
        let builder = server.http_builder();
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(HTTP2_PING_TIMEOUT);
        let serving = match tls {
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls).handshake_timeout(HANDSHAKE_TIMEOUT);
                server.acceptor(acceptor).serve(router.into_make_service()).boxed()
            }
            None => server.serve(router.into_make_service()).boxed(),
        };
        tokio::spawn(async move {
            stop.await;
            tracing::info!(purpose, connections = handle.connection_count(), "a server drains");
            handle.graceful_shutdown(Some(drain));
        });
        let failed = move |source| Error::Serve { purpose, address, source };
        Ok((address, tokio::spawn(async move { serving.await.map_err(failed) })))
    }
}
