//! The Kubernetes clients: one per way of waiting.

use std::time::Duration;

use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{Config, InferConfigError};
use tower::limit::ConcurrencyLimitLayer;

use super::vital::Vital;

/// A connection that is not up by then will not come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence after which a call has failed; the apiserver itself gives a webhook at most 30 s, ours at most 5 s.
const CALL_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A request whose bytes the peer does not take.
const CALL_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Namespaces that are read at once because a review names them and the cache does not know them.
const REVIEW_CONCURRENCY: usize = 4;

/// Above kube-runtime's own 295 s idle limit of a watch: it frees lists, which have no such limit, from a dead peer.
const WATCH_READ_TIMEOUT: Duration = Duration::from_mins(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no cluster configuration: {0}")]
    Infer(#[from] InferConfigError),
    #[error("cannot build the {0} client: {1}")]
    Build(&'static str, Box<kube::Error>),
}

/// The clients of one cluster; cheap to clone. HTTP/1.1 only: n parallel calls are n connections.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For watches and the lists they begin with: silence up to 300 s is normal, 429/503/504 are retried.
    pub(crate) watch: Client,
    /// For single calls: short timeouts, no retry (the caller decides), at most `call_concurrency` at once.
    pub(crate) call: Client,
    /// For what a review needs: as `call`, but few at once, as anybody may ask for reviews.
    pub(crate) review: Client,
    /// For the Lease alone: as `call` without the limit, so that a renewal never queues behind slow writes.
    pub(crate) lease: Client,
}

impl Clients {
    /// Clients of the cluster that `$KUBECONFIG`, `~/.kube/config` or the pod's service account names.
    pub(crate) async fn infer(call_concurrency: usize, vital: &Vital) -> Result<Self, Error> {
        Self::new(&Config::infer().await?, call_concurrency, vital)
    }

    /// Clients of a given cluster; `call_concurrency` (at least 1) bounds the `call` client's requests in flight.
    fn new(config: &Config, call_concurrency: usize, vital: &Vital) -> Result<Self, Error> {
        let call = call_config(config);
        let error = |purpose| move |source| Error::Build(purpose, Box::new(source));
        let limited = |purpose, limit: usize| {
            let limit = ConcurrencyLimitLayer::new(limit);
            let builder = ClientBuilder::try_from(call.clone()).map_err(error(purpose))?;
            Ok::<_, Error>(builder.with_layer(&limit).build())
        };
        let lease = {
            // A client works where it is made.
            let _there = vital.enter();
            ClientBuilder::try_from(call.clone()).map_err(error("lease"))?.build()
        };
        Ok(Self {
            watch: ClientBuilder::try_from(watch_config(config)).map_err(error("watch"))?.build(),
            call: limited("call", call_concurrency.max(1))?,
            review: limited("review", REVIEW_CONCURRENCY)?,
            lease,
        })
    }
}

fn watch_config(config: &Config) -> Config {
    let mut config = config.clone();
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(WATCH_READ_TIMEOUT);
    // Time that a pooled connection sat idle must not count against the next response.
    config.reset_reader_on_write = true;
    config.default_retry = true;
    config
}

fn call_config(config: &Config) -> Config {
    let mut config = config.clone();
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(CALL_READ_TIMEOUT);
    config.write_timeout = Some(CALL_WRITE_TIMEOUT);
    config.reset_reader_on_write = true;
    // kube would repeat POST and PATCH up to 15 times, past any deadline of ours.
    config.default_retry = false;
    config
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

    /// An API server that answers 503, and counts.
    async fn busy_server() -> (Config, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(BUSY).await;
            }
        });
        (config, seen)
    }

    #[tokio::test]
    async fn a_call_is_sent_once() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (config, seen) = busy_server().await;
        let clients = Clients::new(&config, 1, &Vital::start().unwrap()).unwrap();
        let api = Api::<ConfigMap>::namespaced(clients.call, "default");
        assert!(api.get("x").await.is_err());
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn calls_have_short_timeouts_and_watches_outlast_their_idle_limit() {
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let (call, watch) = (call_config(&config), watch_config(&config));
        assert!(!call.default_retry && watch.default_retry);
        assert!(call.read_timeout < Some(Duration::from_secs(30)));
        assert!(watch.read_timeout > Some(Duration::from_secs(295)));
    }
}
