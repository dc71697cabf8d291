use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::tls::ca::Contents;
use super::tls::tests::{client_contents, contents, server_config};
use super::*;
use crate::runtime::health::Readiness;
use crate::runtime::http::{Error, Service, Tls};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn serve(
    router: Router,
    tls: Tls,
    address: SocketAddr,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(SocketAddr, JoinHandle<()>), Error> {
    Service { purpose: "test", router, tls: Some(tls), stop, drain: Duration::from_secs(10) }.serve(address).await
}

fn config(contents: &Contents) -> watch::Sender<Arc<ServerConfig>> {
    watch::Sender::new(server_config(contents, None))
}

fn connector(trusted: &[&Contents]) -> TlsConnector {
    connector_as(trusted, None)
}

/// With the certificate of `client`.
fn connector_as(trusted: &[&Contents], client: Option<&Contents>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for contents in trusted {
        for der in CertificateDer::pem_slice_iter(&contents.ca_bundle) {
            roots.add(der.unwrap()).unwrap();
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match client {
        Some(client) => {
            let key = PrivateKeyDer::from_pem_slice(&client.tls_key).unwrap();
            let chain = vec![CertificateDer::from_pem_slice(&client.tls_crt).unwrap()];
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
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
    let tls = config(&old);
    let router = Router::new().route("/", get(async || "ok"));
    let (address, _task) = serve(router, tls.subscribe(), ANY, pending()).await.unwrap();
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
    tls.send_replace(server_config(&new, None));
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
    let (address, task) = serve(router, config(&contents).subscribe(), ANY, stop).await.unwrap();
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
    task.await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_an_error_at_once() {
    let contents = contents();
    let tls = config(&contents);
    let (address, _task) = serve(Router::new(), tls.subscribe(), ANY, pending()).await.unwrap();
    assert!(matches!(serve(Router::new(), tls.subscribe(), address, pending()).await, Err(Error::Bind { .. })));
}

/// Time passes whenever nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_connection_that_sends_no_request_ends_after_5_seconds_and_an_idle_one_outlives_the_api_servers() {
    let contents = contents();
    let router = Router::new().route("/", get(async || "ok"));
    let tls = config(&contents);
    let (address, _task) = serve(router, tls.subscribe(), ANY, pending()).await.unwrap();

    let started = Instant::now();
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(started.elapsed().as_secs(), 5);

    let started = Instant::now();
    let mut shy = connect(&connector(&[&contents]), address).await.unwrap();
    shy.write_all(b"G").await.unwrap();
    assert!(shy.read(&mut [0]).await.is_err(), "no close_notify");
    assert_eq!(started.elapsed().as_secs(), 5);

    let mut used = connect(&connector(&[&contents]), address).await.unwrap();
    send(&mut used, "/").await;
    answer(&mut used).await;
    let started = Instant::now();
    assert!(used.read(&mut [0]).await.is_err());
    assert!(started.elapsed() > Duration::from_secs(100), "{:?}", started.elapsed());
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_ca_are_answered_where_one_is_named() {
    let (server, client, other) = (contents(), client_contents(), client_contents());
    let router = Router::new().route("/", get(async || "ok"));
    let tls = watch::Sender::new(server_config(&server, Some(&client)));
    let (address, _task) = serve(router, tls.subscribe(), ANY, pending()).await.unwrap();
    for (certificate, is_answered) in [(None, false), (Some(&other), false), (Some(&client), true)] {
        let connector = connector_as(&[&server], certificate);
        let answered = async {
            let mut stream = connect(&connector, address).await.ok()?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            text.starts_with("HTTP/1.1 200").then_some(())
        };
        assert_eq!(answered.await.is_some(), is_answered);
    }
}
