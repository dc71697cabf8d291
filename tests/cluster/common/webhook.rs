//! A webhook of somebody else.

use std::net::SocketAddr;

use axum::Router;
use axum_server::Server;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use k8s_openapi::ByteString;
use tokio::net::TcpListener;

/// Serves it as long as the test's runtime lives. Returns its URL, `https://127.0.0.1:1234`, and its `caBundle`.
pub async fn serve(router: Router) -> (String, ByteString) {
    let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (pem, key) = (certificate.cert.pem().into_bytes(), certificate.signing_key.serialize_pem().into_bytes());
    let tls = RustlsConfig::from_pem(pem.clone(), key).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::<SocketAddr>::from_listener(listener).acceptor(RustlsAcceptor::new(tls));
    tokio::spawn(server.serve(router.into_make_service()));
    (format!("https://{address}"), ByteString(pem))
}
