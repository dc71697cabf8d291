//! The webhook's certificates: where they come from, and how a new one is taken into use without a restart.

use std::path::PathBuf;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::runtime::metrics::SecondsGauge;

pub mod ca;
mod files;
mod secret;
mod x509;

pub use secret::SelfSigned;

/// How often the Secret or the files are read again; also the bound on how long replicas differ.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_mins(1);

/// Why there is no certificate to serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mounted file is missing or unreadable.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Certificate and key do not make a TLS configuration, for example because they do not belong together.
    #[error("certificate from {origin} cannot be served: {source}")]
    Unusable {
        /// The Secret or the directory.
        origin: String,
        /// What rustls said.
        source: std::io::Error,
    },
    /// A certificate cannot be parsed.
    #[error("certificate from {origin} is malformed")]
    Malformed {
        /// The Secret or the directory.
        origin: String,
    },
    /// No new certificate could be made.
    #[error("cannot issue a certificate for {names:?}: {source}")]
    Issue {
        /// The names it was for.
        names: Vec<String>,
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// The Secret could not be read or written.
    #[error("cannot {verb} secret {secret}: {source}")]
    Api {
        /// `read` or `write`.
        verb: &'static str,
        /// Namespace and name.
        secret: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("cannot {verb} secret {secret}: no answer in time")]
    Timeout {
        /// `read` or `write`.
        verb: &'static str,
        /// Namespace and name.
        secret: String,
    },
    /// Other replicas kept writing first.
    #[error("secret {secret} kept changing while it was read")]
    Contended {
        /// Namespace and name.
        secret: String,
    },
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
        let origin = self.origin();
        let (material, mut next) = self.load().await?;
        let mut publisher = Publisher::new(origin, material, expiry).await?;
        let state = publisher.state();
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
        Ok((state, task))
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
            Self::Files(directory) => Ok((files::read(directory).await?, POLL_INTERVAL)),
        }
    }
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
            .map_err(|source| Error::Unusable { origin: origin.clone(), source })?;
        let (ca_bundle, _) = watch::channel(material.bundle.clone());
        let publisher = Self { origin, current: material, rustls_config, ca_bundle, expiry };
        publisher.report(end, "serving the webhook certificate");
        Ok(publisher)
    }

    fn state(&self) -> TlsState {
        TlsState { rustls_config: self.rustls_config.clone(), ca_bundle: self.ca_bundle.subscribe() }
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
            .map_err(|source| Error::Unusable { origin: self.origin.clone(), source })?;
        self.ca_bundle.send_if_modified(|bundle| {
            let changed = *bundle != material.bundle;
            bundle.clone_from(&material.bundle);
            changed
        });
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
    let malformed = || Error::Malformed { origin: origin.to_owned() };
    if x509::certificates(&material.bundle).is_empty() {
        return Err(malformed());
    }
    x509::certificates(&material.certificate)
        .first()
        .and_then(|der| x509::Facts::of(der))
        .map(|facts| facts.not_after)
        .ok_or_else(malformed)
}

#[cfg(test)]
pub(crate) mod tests;
