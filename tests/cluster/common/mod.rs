//! What the tests share: a cluster, an operator, waiting, and the words to talk about sets and pods.

pub mod budget;
pub mod operator;
pub mod raw;
pub mod webhook;
pub mod world;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use devcluster::DevCluster;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use operator::Operator;

/// Longest wait for anything in a test; two cores run many tests at once.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// The shared cluster with its operator, started by the first test that asks.
pub fn shared() -> &'static PathBuf {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| for_all_tests(async || Some(DevCluster::start().await.unwrap())).unwrap())
}

/// Starts a cluster with an operator that live as long as this process; `None` if there is no cluster to be had.
pub fn for_all_tests(start: impl AsyncFnOnce() -> Option<DevCluster> + Send + 'static) -> Option<PathBuf> {
    let (sender, receiver) = std::sync::mpsc::channel();
    // A thread of its own: each test has a runtime that ends with it. The processes end with this process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async move {
            let Some(cluster) = start().await else { return sender.send(None).unwrap() };
            let kubeconfig = cluster.kubeconfig().to_owned();
            let _operator = Operator::start(&kubeconfig, "shared", &[]).await;
            sender.send(Some(kubeconfig)).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv_timeout(Duration::from_mins(15)).expect("the shared cluster starts")
}

/// A client for the runtime of this test.
pub async fn client(kubeconfig: &std::path::Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.read_timeout = Some(Duration::from_secs(30));
    Client::try_from(config).unwrap()
}

/// Polls until `probe` yields `Ok`; its last `Err` is the message of the failure.
pub async fn eventually<T, E: Debug>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(last) if started.elapsed() > DEADLINE => {
                panic!("{what}: not within {DEADLINE:?}; last seen: {last:#?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
