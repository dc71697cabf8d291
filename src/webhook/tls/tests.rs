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
    let (mut state, _task) = source.start(expiry.clone(), stop).await.unwrap();
    assert_eq!(*state.ca_bundle.borrow_and_update(), first.ca_bundle);
    assert!(expiry.get() > 1.0e9);
    let served = state.rustls_config.get_inner();

    // Half a swap: the key does not fit, what is served stays.
    std::fs::write(directory.0.join("tls.key"), &second.tls_key).unwrap();
    tokio::time::sleep(POLL_INTERVAL * 2).await;
    assert!(std::sync::Arc::ptr_eq(&served, &state.rustls_config.get_inner()));

    write(&directory.0, &second);
    state.ca_bundle.changed().await.unwrap();
    assert_eq!(*state.ca_bundle.borrow(), second.ca_bundle);
    assert!(!std::sync::Arc::ptr_eq(&served, &state.rustls_config.get_inner()));
}

#[tokio::test]
async fn missing_or_foreign_files_are_named() {
    let directory = Directory::new("missing");
    let stop = CancellationToken::new();
    let source = || CertificateSource::Files(directory.0.clone());
    let error = source().start(SecondsGauge::default(), stop.clone()).await.unwrap_err().to_string();
    assert!(error.contains("tls.crt"), "{error}");
    write(&directory.0, &contents());
    std::fs::write(directory.0.join("ca.crt"), "no certificate").unwrap();
    assert!(matches!(source().start(SecondsGauge::default(), stop).await, Err(Error::Malformed(_))));
}
