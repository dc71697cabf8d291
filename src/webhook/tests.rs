use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::tls::ca::Contents;
use super::tls::tests::contents;
use super::*;
use crate::runtime::health::Readiness;
use crate::runtime::http::{Error, Service};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn serve(
    router: Router,
    tls: RustlsConfig,
    address: SocketAddr,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(SocketAddr, JoinHandle<Result<(), Error>>), Error> {
    Service { purpose: "test", router, tls: Some(tls), stop, drain: Duration::from_secs(10) }.serve(address).await
}

async fn config(contents: &Contents) -> RustlsConfig {
    RustlsConfig::from_pem(contents.tls_crt.clone(), contents.tls_key.clone()).await.unwrap()
}

fn connector(trusted: &[&Contents]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for contents in trusted {
        for der in CertificateDer::pem_slice_iter(&contents.ca_bundle) {
            roots.add(der.unwrap()).unwrap();
        }
    }
    TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

async fn connect(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    connector.connect(ServerName::from(address.ip()), stream).await
}

async fn send(stream: &mut TlsStream<TcpStream>, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// The answer's head and body; all our bodies are `ok`.
async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\nok") {
        let read = stream.read_buf(&mut text).await.unwrap();
        assert_ne!(read, 0, "closed after {:?}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

fn served(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn leaf(contents: &Contents) -> Vec<u8> {
    CertificateDer::from_pem_slice(&contents.tls_crt).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_certificates_rotate() {
    let (old, new) = (contents(), contents());
    let tls = config(&old).await;
    let router = Router::new().route("/", get(async || "ok"));
    let (address, _task) = serve(router, tls.clone(), ANY, pending()).await.unwrap();
    let connector = connector(&[&old, &new]);

    let mut lived_through = connect(&connector, address).await.unwrap();
    send(&mut lived_through, "/").await;
    answer(&mut lived_through).await;

    let (seen, mut certificates) = mpsc::unbounded_channel();
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (connector, seen) = (connector.clone(), seen.clone());
            tokio::spawn(async move {
                let mut requests = 0;
                while !seen.is_closed() {
                    let mut stream = connect(&connector, address).await.unwrap();
                    send(&mut stream, "/").await;
                    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
                    let _ = seen.send(served(&stream));
                    requests += 1;
                }
                requests
            })
        })
        .collect();

    let (old_leaf, new_leaf) = (leaf(&old), leaf(&new));
    for _ in 0..50 {
        assert_eq!(certificates.recv().await.unwrap(), old_leaf);
    }
    tls.reload_from_pem(new.tls_crt.clone(), new.tls_key.clone()).await.unwrap();
    let mut renewed = 0;
    while renewed < 50 {
        renewed += i32::from(certificates.recv().await.unwrap() == new_leaf);
    }
    drop(certificates);
    for task in load {
        assert!(task.await.unwrap() > 0);
    }
    send(&mut lived_through, "/").await;
    answer(&mut lived_through).await;
    assert_eq!(served(&lived_through), old_leaf);
}

#[tokio::test]
async fn a_running_request_ends_and_readiness_goes_before_the_port() {
    let contents = contents();
    let (started, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (on_start, on_finish) = (Arc::clone(&started), Arc::clone(&finish));
    let slow = async move || {
        on_start.notify_one();
        on_finish.notified().await;
        "ok"
    };
    let order = CancellationToken::new();
    let readiness = Readiness::new(&[]);
    let stop = readiness.clone().stop(order.clone(), Duration::ZERO);
    let router = Router::new().route("/slow", get(slow));
    let (address, task) = serve(router, config(&contents).await, ANY, stop).await.unwrap();
    let mut stream = connect(&connector(&[&contents]), address).await.unwrap();
    send(&mut stream, "/slow").await;
    started.notified().await;

    order.cancel();
    // The port is closed once connecting is refused.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(readiness.waiting(), ["shutdown"]);
    assert!(!task.is_finished());
    finish.notify_one();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    drop(stream);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_an_error_at_once() {
    let contents = contents();
    let tls = config(&contents).await;
    let (address, _task) = serve(Router::new(), tls.clone(), ANY, pending()).await.unwrap();
    assert!(matches!(serve(Router::new(), tls, address, pending()).await, Err(Error::Bind { .. })));
}
