//! Serving HTTP/1.1: binds first, serves, drains.

mod connections;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use connections::{Connection, Connections};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// A pause when no connection can be accepted, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot listen on {purpose} address {address}: {source}")]
    Bind { purpose: &'static str, address: SocketAddr, source: std::io::Error },
}

/// What new connections are encrypted with; it changes when a certificate is renewed.
pub(crate) type Tls = watch::Receiver<Arc<ServerConfig>>;

/// What is served, and how it stops.
pub(crate) struct Service<S> {
    /// For logs and errors: `webhook` or `health`.
    pub(crate) purpose: &'static str,
    pub(crate) router: Router,
    /// Plain HTTP without it.
    pub(crate) tls: Option<Tls>,
    /// Connections are refused from its end on.
    pub(crate) stop: S,
    /// How long running requests may take after that.
    pub(crate) drain: Duration,
}

impl<S: Future<Output = ()> + Send + 'static> Service<S> {
    /// Binds `address` (port 0 = any) and serves. Returns the address that was bound: connections succeed from then on.
    pub(crate) async fn serve(self, address: SocketAddr) -> Result<(SocketAddr, JoinHandle<()>), Error> {
        let bind = |source| Error::Bind { purpose: self.purpose, address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok((address, tokio::spawn(self.run(listener))))
    }

    async fn run(self, listener: TcpListener) {
        let Self { purpose, router, tls, stop, drain } = self;
        let (connections, graceful) = (Connections::default(), GracefulShutdown::new());
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let Some(connection) = connections.open() else { continue };
                        tokio::spawn(connect(stream, tls.clone(), router.clone(), connection, graceful.watcher()));
                    }
                    Err(error) => {
                        tracing::warn!(purpose, %error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop => {}
        }
        drop(listener);
        tracing::info!(purpose, connections = connections.count(), "a server drains");
        if timeout(drain, graceful.shutdown()).await.is_err() {
            tracing::warn!(purpose, connections = connections.count(), "requests are broken off");
        }
    }
}

/// Serves one connection until its client ends it, or keeps the server waiting.
async fn connect(stream: TcpStream, tls: Option<Tls>, router: Router, connection: Connection, watcher: Watcher) {
    let router = connection.watched(router);
    let serve = async {
        let Some(tls) = tls else { return respond(stream, router, watcher).await };
        let config = Arc::clone(&tls.borrow());
        // A handshake that fails is the client's affair, and anybody's who connects.
        if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
            respond(stream, router, watcher).await;
        }
    };
    tokio::select! {
        () = serve => {}
        () = connection.overdue() => {}
    }
}

async fn respond(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router, watcher: Watcher) {
    let mut http = http1::Builder::new();
    // It would count for idle connections, too: see `connections`.
    http.timer(TokioTimer::new()).header_read_timeout(None);
    let service = TowerToHyperService::new(router);
    if let Err(error) = watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await {
        tracing::debug!(%error, "a connection broke off");
    }
}
