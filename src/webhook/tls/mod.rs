//! The webhook's certificates: where they come from, and how a new one is taken into use without a restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::runtime::call::CallError;
use crate::runtime::metrics::SecondsGauge;

pub mod ca;
mod secret;

pub use secret::SelfSigned;

/// How often the Secret or the files are read again; also the bound on how long replicas differ.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_mins(1);

/// Why there is no certificate to serve. The first part is the file, Secret, directory or names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mounted file is missing or unreadable.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, std::io::Error),
    /// Certificate and key do not make a TLS configuration, for example because they do not belong together.
    #[error("certificate from {0} cannot be served: {1}")]
    Unusable(String, std::io::Error),
    /// A certificate cannot be parsed.
    #[error("certificate from {0} is malformed")]
    Malformed(String),
    /// No new certificate could be made.
    #[error("cannot issue a certificate for {0:?}: {1}")]
    Issue(Vec<String>, rcgen::Error),
    /// The Secret could not be read or written.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Other replicas kept writing first.
    #[error("secret {0} kept changing while it was read")]
    Contended(String),
}

/// Where certificates come from.
pub enum CertificateSource {
    /// Our own CA, kept in a Secret that all replicas share.
    SelfSigned(Box<SelfSigned>),
    /// A directory with `tls.crt`, `tls.key` and `ca.crt`, as cert-manager's Secrets are mounted.
    Files(PathBuf),
}

/// What the server and the registration use; both follow every rotation.
#[derive(Clone, Debug)]
pub struct TlsState {
    /// For the server; new handshakes use the newest certificate, running connections live on.
    pub(crate) rustls_config: RustlsConfig,
    /// PEM for `caBundle`: current and previous CAs. Never empty.
    pub ca_bundle: watch::Receiver<Vec<u8>>,
}

/// What is served at one time.
#[derive(Clone, PartialEq, Eq)]
struct Material {
    certificate: Vec<u8>,
    key: Vec<u8>,
    bundle: Vec<u8>,
}

impl CertificateSource {
    /// Loads (or makes) the first certificate, then follows the source until `shutdown`. `expiry` is kept at the served
    /// certificate's end. A later failure is logged and what is served stays. The process's crypto provider must be installed.
    pub async fn start(
        self,
        expiry: SecondsGauge,
        shutdown: CancellationToken,
    ) -> Result<(TlsState, JoinHandle<()>), Error> {
        let (material, mut next) = self.load().await?;
        let mut publisher = Publisher::new(self.origin(), material, expiry).await?;
        let (rustls_config, ca_bundle) = (publisher.rustls_config.clone(), publisher.ca_bundle.subscribe());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(next) => {}
                }
                next = match self.load().await {
                    Ok((material, next)) => {
                        if let Err(error) = publisher.publish(material).await {
                            tracing::warn!(%error, "the new webhook certificate is not used");
                        }
                        next
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the webhook certificate cannot be checked");
                        POLL_INTERVAL
                    }
                };
            }
        });
        Ok((TlsState { rustls_config, ca_bundle }, task))
    }

    fn origin(&self) -> String {
        match self {
            Self::SelfSigned(source) => format!("secret {}", source.secret()),
            Self::Files(directory) => directory.display().to_string(),
        }
    }

    /// What to serve now, and how long until the next look.
    async fn load(&self) -> Result<(Material, Duration), Error> {
        match self {
            Self::SelfSigned(source) => source.load().await,
            Self::Files(directory) => Ok((files(directory).await?, POLL_INTERVAL)),
        }
    }
}

/// Reads the three files. A swap of the volume between two of them gives a key that does not fit, which is refused
/// later and read again at the next look.
async fn files(directory: &Path) -> Result<Material, Error> {
    let read = async |name: &str| {
        let path = directory.join(name);
        tokio::fs::read(&path).await.map_err(|source| Error::Read(path, source))
    };
    Ok(Material { certificate: read("tls.crt").await?, key: read("tls.key").await?, bundle: read("ca.crt").await? })
}

/// Hands new material to the server and to the registration.
struct Publisher {
    origin: String,
    current: Material,
    rustls_config: RustlsConfig,
    ca_bundle: watch::Sender<Vec<u8>>,
    expiry: SecondsGauge,
}

impl Publisher {
    async fn new(origin: String, material: Material, expiry: SecondsGauge) -> Result<Self, Error> {
        let end = expires(&origin, &material)?;
        let rustls_config = RustlsConfig::from_pem(material.certificate.clone(), material.key.clone())
            .await
            .map_err(|source| Error::Unusable(origin.clone(), source))?;
        let ca_bundle = watch::Sender::new(material.bundle.clone());
        let publisher = Self { origin, current: material, rustls_config, ca_bundle, expiry };
        publisher.report(end, "serving the webhook certificate");
        Ok(publisher)
    }

    /// Uses `material` from now on; on an error all stays as it was and the next look tries again.
    async fn publish(&mut self, material: Material) -> Result<(), Error> {
        if material == self.current {
            return Ok(());
        }
        let end = expires(&self.origin, &material)?;
        self.rustls_config
            .reload_from_pem(material.certificate.clone(), material.key.clone())
            .await
            .map_err(|source| Error::Unusable(self.origin.clone(), source))?;
        if material.bundle != self.current.bundle {
            self.ca_bundle.send_replace(material.bundle.clone());
        }
        self.current = material;
        self.report(end, "serving a new webhook certificate");
        Ok(())
    }

    fn report(&self, end: Timestamp, what: &str) {
        tracing::info!(origin = self.origin, expires = %end, "{what}");
        // Exact: a date's seconds are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        self.expiry.set(end.as_second() as f64);
    }
}

fn expires(origin: &str, material: &Material) -> Result<Timestamp, Error> {
    let served = ca::certificates(&material.certificate);
    match served.first() {
        Some(served) if !ca::certificates(&material.bundle).is_empty() => Ok(served.not_after),
        _ => Err(Error::Malformed(origin.to_owned())),
    }
}

#[cfg(test)]
pub(crate) mod tests;
