//! The webhook's certificates: where they come from, and how a new one is taken into use without a restart.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
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
    /// Certificate and key do not make a TLS configuration, for example because they do not belong together; or the CA of
    /// clients is none.
    #[error("certificate from {0} cannot be served: {1}")]
    Unusable(String, Box<dyn StdError + Send + Sync>),
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
    pub(crate) server_config: watch::Receiver<Arc<ServerConfig>>,
    /// PEM for `caBundle`: current and previous CAs. Never empty.
    pub ca_bundle: watch::Receiver<Vec<u8>>,
}

/// What is served at one time.
#[derive(Clone, PartialEq, Eq)]
struct Material {
    certificate: Vec<u8>,
    key: Vec<u8>,
    bundle: Vec<u8>,
    /// PEM of the CAs one of which must have signed a client's certificate; without it anybody is answered.
    client_ca: Option<Vec<u8>>,
}

impl CertificateSource {
    /// Loads (or makes) the first certificate, then follows the source until `shutdown`. `client_ca` is a PEM file, which is
    /// followed, too. `expiry` is kept at the served certificate's end. A later failure is logged and what is served stays.
    /// The process's crypto provider must be installed.
    pub async fn start(
        self,
        client_ca: Option<PathBuf>,
        expiry: SecondsGauge,
        shutdown: CancellationToken,
    ) -> Result<(TlsState, JoinHandle<()>), Error> {
        let (material, mut next) = self.load(client_ca.as_deref()).await?;
        let mut publisher = Publisher::new(self.origin(), material, expiry)?;
        let (server_config, ca_bundle) = (publisher.server_config.subscribe(), publisher.ca_bundle.subscribe());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(next) => {}
                }
                next = match self.load(client_ca.as_deref()).await {
                    Ok((material, next)) => {
                        if let Err(error) = publisher.publish(material) {
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
        Ok((TlsState { server_config, ca_bundle }, task))
    }

    fn origin(&self) -> String {
        match self {
            Self::SelfSigned(source) => format!("secret {}", source.secret()),
            Self::Files(directory) => directory.display().to_string(),
        }
    }

    /// What to serve now, and how long until the next look.
    async fn load(&self, client_ca: Option<&Path>) -> Result<(Material, Duration), Error> {
        let (mut material, next) = match self {
            Self::SelfSigned(source) => source.load().await?,
            Self::Files(directory) => (files(directory).await?, POLL_INTERVAL),
        };
        if let Some(path) = client_ca {
            material.client_ca = Some(read(path.to_owned()).await?);
        }
        Ok((material, next))
    }
}

async fn read(path: PathBuf) -> Result<Vec<u8>, Error> {
    tokio::fs::read(&path).await.map_err(|source| Error::Read(path, source))
}

/// Reads the three files. A swap of the volume between two of them gives a key that does not fit, which is refused
/// later and read again at the next look.
async fn files(directory: &Path) -> Result<Material, Error> {
    let read = |name: &str| read(directory.join(name));
    let (certificate, key, bundle) = (read("tls.crt").await?, read("tls.key").await?, read("ca.crt").await?);
    Ok(Material { certificate, key, bundle, client_ca: None })
}

/// Hands new material to the server and to the registration.
struct Publisher {
    origin: String,
    current: Material,
    server_config: watch::Sender<Arc<ServerConfig>>,
    ca_bundle: watch::Sender<Vec<u8>>,
    expiry: SecondsGauge,
}

impl Publisher {
    fn new(origin: String, material: Material, expiry: SecondsGauge) -> Result<Self, Error> {
        let end = expires(&origin, &material)?;
        let server_config = watch::Sender::new(Arc::new(material.server_config(&origin)?));
        let ca_bundle = watch::Sender::new(material.bundle.clone());
        let publisher = Self { origin, current: material, server_config, ca_bundle, expiry };
        publisher.report(end, "serving the webhook certificate");
        Ok(publisher)
    }

    /// Uses `material` from now on; on an error all stays as it was and the next look tries again.
    fn publish(&mut self, material: Material) -> Result<(), Error> {
        if material == self.current {
            return Ok(());
        }
        let end = expires(&self.origin, &material)?;
        self.server_config.send_replace(Arc::new(material.server_config(&self.origin)?));
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

impl Material {
    fn server_config(&self, origin: &str) -> Result<ServerConfig, Error> {
        self.try_server_config().map_err(|source| Error::Unusable(origin.to_owned(), source))
    }

    /// HTTP/1.1 alone: the API server speaks nothing else to a Service, and one connection is one request.
    fn try_server_config(&self) -> Result<ServerConfig, Box<dyn StdError + Send + Sync>> {
        let certificates = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)?;
        let builder = match &self.client_ca {
            Some(client_ca) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(client_ca) {
                    roots.add(certificate?)?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
            None => ServerConfig::builder().with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(certificates, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
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
