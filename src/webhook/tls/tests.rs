use std::collections::BTreeSet;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::ca::{Contents, Plan, plan};
use super::*;

/// New contents for 127.0.0.1, with a CA of their own.
pub(crate) fn contents() -> Contents {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let names = BTreeSet::from(["127.0.0.1".to_owned()]);
    match plan(&Contents::default(), Timestamp::now(), &names).unwrap() {
        Plan::Rotate { contents, .. } => contents,
        Plan::Keep { .. } => panic!("nothing is no certificate"),
    }
}

/// A CA, and a client's certificate that it signed.
pub(crate) fn client_contents() -> Contents {
    let (ca_key, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let mut client = rcgen::CertificateParams::new(Vec::new()).unwrap();
    client.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let signed = client.signed_by(&key, &rcgen::Issuer::new(ca, &ca_key)).unwrap();
    let (tls_crt, tls_key) = (signed.pem().into_bytes(), key.serialize_pem().into_bytes());
    Contents { tls_crt, tls_key, ca_bundle: ca_pem.into_bytes(), ..Contents::default() }
}

/// As served with these contents, to clients of that CA.
pub(crate) fn server_config(contents: &Contents, client_ca: Option<&Contents>) -> Arc<ServerConfig> {
    let material = Material {
        certificate: contents.tls_crt.clone(),
        key: contents.tls_key.clone(),
        bundle: contents.ca_bundle.clone(),
        client_ca: client_ca.map(|contents| contents.ca_bundle.clone()),
    };
    Arc::new(material.server_config("test").unwrap())
}

fn write(directory: &Path, contents: &Contents) {
    std::fs::write(directory.join("tls.crt"), &contents.tls_crt).unwrap();
    std::fs::write(directory.join("tls.key"), &contents.tls_key).unwrap();
    std::fs::write(directory.join("ca.crt"), &contents.ca_bundle).unwrap();
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sidecarset-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_taken_into_use() {
    let directory = Directory::new("changed");
    let (first, second) = (contents(), contents());
    write(&directory.0, &first);
    let stop = CancellationToken::new();
    let expiry = SecondsGauge::default();
    let source = CertificateSource::Files(directory.0.clone());
    let (mut state, _task) = source.start(None, expiry.clone(), stop).await.unwrap();
    assert_eq!(*state.ca_bundle.borrow_and_update(), first.ca_bundle);
    assert!(expiry.get() > 1.0e9);
    let served = state.server_config.borrow().clone();

    // Half a swap: the key does not fit, what is served stays.
    std::fs::write(directory.0.join("tls.key"), &second.tls_key).unwrap();
    tokio::time::sleep(POLL_INTERVAL * 2).await;
    assert!(Arc::ptr_eq(&served, &state.server_config.borrow()));

    write(&directory.0, &second);
    state.ca_bundle.changed().await.unwrap();
    assert_eq!(*state.ca_bundle.borrow(), second.ca_bundle);
    assert!(!Arc::ptr_eq(&served, &state.server_config.borrow()));
}

#[tokio::test]
async fn missing_or_foreign_files_are_named() {
    let directory = Directory::new("missing");
    let stop = CancellationToken::new();
    let source = || CertificateSource::Files(directory.0.clone());
    let error = source().start(None, SecondsGauge::default(), stop.clone()).await.unwrap_err().to_string();
    assert!(error.contains("tls.crt"), "{error}");
    write(&directory.0, &contents());
    std::fs::write(directory.0.join("ca.crt"), "no certificate").unwrap();
    assert!(matches!(source().start(None, SecondsGauge::default(), stop).await, Err(Error::Malformed(_))));
}
