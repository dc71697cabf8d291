//! The plain-HTTP port of kubelet and Prometheus: `/healthz`, `/readyz`, `/metrics`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::Handle;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::metrics::{CONTENT_TYPE, Metrics};
use super::shutdown::Shutdown;

/// A client that does not finish its request's head by then is cut off.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a running scrape may take after the order to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the health port does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot listen on health address {address}: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The accept loop ended.
    #[error("the health server on {address} failed: {source}")]
    Serve {
        /// Where it listened.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
}

#[derive(Debug)]
struct Named {
    name: String,
    open: bool,
}

/// Whether this replica may get traffic: all gates are open. Clones share the gates.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Vec<Named>>>);

/// One thing that readiness waits for. Dropping it leaves it as it is.
#[derive(Clone, Debug)]
pub struct Gate {
    readiness: Readiness,
    index: usize,
}

impl Readiness {
    /// Adds a gate, closed. All gates are made before [`serve`], or readiness shows too early.
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let index = self.with(|gates| {
            gates.push(Named { name: name.into(), open: false });
            gates.len() - 1
        });
        Gate { readiness: self.clone(), index }
    }

    /// Names of the gates that are closed; empty means ready.
    pub fn waiting(&self) -> Vec<String> {
        self.with(|gates| gates.iter().filter(|gate| !gate.open).map(|gate| gate.name.clone()).collect())
    }

    /// A list of bools is whole after any panic, so poisoning is no reason to stop.
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Named>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gate {
    /// What was waited for is here.
    pub fn open(&self) {
        self.set(true);
    }

    /// It is gone again, or the replica is about to stop.
    pub(crate) fn close(&self) {
        self.set(false);
    }

    fn set(&self, open: bool) {
        self.readiness.with(|gates| {
            if let Some(gate) = gates.get_mut(self.index) {
                gate.open = open;
            }
        });
    }
}

/// The routes alone, for tests and for other servers.
pub fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
}

/// Binds `address` (port 0 = any) and serves until `shutdown`, which fires last: `/readyz` must say 503 while others drain.
/// Returns the address that was bound.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<(SocketAddr, JoinHandle<Result<(), Error>>), Error> {
    let bind = |source| Error::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let handle = Handle::<SocketAddr>::new();
    let mut server = axum_server::Server::from_listener(listener).handle(handle.clone());
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    let service = router(readiness, metrics).into_make_service();
    let task = tokio::spawn(async move {
        let stop = async {
            shutdown.requested().await;
            handle.graceful_shutdown(Some(DRAIN_TIMEOUT));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = server.serve(service) => ended.map_err(|source| Error::Serve { address: bound, source }),
            () = stop => Ok(()),
        }
    });
    Ok((bound, task))
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let waiting = readiness.waiting();
    if waiting.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let body = waiting.iter().fold(String::new(), |mut body, name| {
        // Writing to a String cannot fail.
        let _ = writeln!(body, "waiting: {name}");
        body
    });
    (StatusCode::SERVICE_UNAVAILABLE, body)
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tower::ServiceExt as _;

    use super::*;
    use crate::runtime::shutdown;

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_lists_what_it_waits_for() {
        let readiness = Readiness::default();
        let (pods, tls) = (readiness.gate("pods cache"), readiness.gate("certificate"));
        let router = router(readiness, Metrics::new());
        let unready = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(get(&router, "/readyz").await, (unready, "waiting: pods cache\nwaiting: certificate\n".into()));
        pods.open();
        assert_eq!(get(&router, "/readyz").await, (unready, "waiting: certificate\n".into()));
        tls.open();
        assert_eq!(get(&router, "/readyz").await, (StatusCode::OK, "ok\n".into()));
        tls.close();
        assert_eq!(get(&router, "/readyz").await.0, unready);
        assert_eq!(get(&router, "/healthz").await.0, StatusCode::OK);
        assert!(get(&router, "/metrics").await.1.contains("sidecarset_build_info"));
    }

    #[tokio::test]
    async fn serves_on_the_returned_address_until_told_to_stop() {
        let (trigger, stop) = shutdown::channel();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, task) = serve(any, Readiness::default(), Metrics::new(), stop).await.unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        trigger.fire();
        task.await.unwrap().unwrap();
    }
}
