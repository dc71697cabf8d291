//! The plain-HTTP port of kubelet and Prometheus: `/healthz`, `/readyz`, `/metrics`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::http::{Error, Service};
use super::metrics::{CONTENT_TYPE, Metrics};

/// How long a running scrape may take after the order to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// What is waited for, by name. Nothing is left: ready. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(Arc<watch::Sender<Vec<&'static str>>>);

impl Readiness {
    pub(crate) fn new(waiting: &[&'static str]) -> Self {
        Self(Arc::new(watch::Sender::new(waiting.to_vec())))
    }

    /// What was waited for is here.
    pub(crate) fn open(&self, name: &str) {
        self.0.send_modify(|waiting| waiting.retain(|other| *other != name));
    }

    /// It is gone again, or the replica is about to stop.
    pub(crate) fn close(&self, name: &'static str) {
        self.open(name);
        self.0.send_modify(|waiting| waiting.push(name));
    }

    pub(crate) fn waiting(&self) -> Vec<&'static str> {
        self.0.borrow().clone()
    }

    /// Unready from the order to stop on. Ends when endpoints have had time to send their connections elsewhere.
    pub(crate) async fn stop(self, order: CancellationToken, delay: Duration) {
        order.cancelled().await;
        self.close("shutdown");
        tokio::time::sleep(delay).await;
    }

    pub(crate) async fn ready(&self) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(Vec::is_empty).await;
    }
}

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
}

/// Serves until `last`, which comes when all else has stopped: `/readyz` must say 503 while others drain.
pub(crate) async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
    last: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>), Error> {
    let (router, stop) = (router(readiness, metrics), last.cancelled_owned());
    Service { purpose: "health", router, tls: None, stop, drain: DRAIN }.serve(address).await
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

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_lists_what_it_waits_for() {
        let readiness = Readiness::new(&["pods", "certificate"]);
        let router = router(readiness.clone(), Metrics::new());
        let unready = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(get(&router, "/readyz").await, (unready, "waiting: pods\nwaiting: certificate\n".into()));
        readiness.open("pods");
        assert_eq!(get(&router, "/readyz").await, (unready, "waiting: certificate\n".into()));
        readiness.open("certificate");
        assert_eq!(get(&router, "/readyz").await, (StatusCode::OK, "ok\n".into()));
        readiness.close("certificate");
        assert_eq!(get(&router, "/readyz").await.0, unready);
        assert_eq!(get(&router, "/healthz").await.0, StatusCode::OK);
        assert!(get(&router, "/metrics").await.1.contains("sidecarset_build_info"));
    }

    #[tokio::test]
    async fn serves_on_the_returned_address_until_told_to_stop() {
        let stop = CancellationToken::new();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, task) = serve(any, Readiness::new(&[]), Metrics::new(), stop.clone()).await.unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        stop.cancel();
        task.await.unwrap();
    }
}
