//! The operator's command line.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::telemetry::LogArgs;

/// Port of the webhook in its container.
const WEBHOOK_PORT: u16 = 9443;
/// Port of health and metrics.
const HEALTH_PORT: u16 = 8081;

/// Injects sidecars into pods and upgrades them in place.
#[derive(Debug, clap::Parser)]
#[command(name = "sidecarset-operator", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// See [`Args`].
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run the operator.
    Run(Box<RunArgs>),
    /// Print the `CustomResourceDefinition`.
    Crd,
}

/// Arguments of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Run outside the cluster: apply the CRD, register the webhooks by URL on 127.0.0.1, and unregister them at the end
    #[arg(long)]
    pub local: bool,
    /// Namespace of the operator's own objects
    #[arg(long, env = "POD_NAMESPACE", default_value = "sidecarset-system")]
    pub namespace: String,
    /// Name of this replica; by default the host name
    #[arg(long, env = "POD_NAME")]
    pub(crate) identity: Option<String>,
    /// Service through which the apiserver reaches the webhook
    #[arg(long, default_value = "sidecarset-webhook")]
    pub webhook_service: String,
    /// Address of the webhook; by default port 9443 of every interface, with --local of 127.0.0.1
    #[arg(long)]
    pub(crate) webhook_address: Option<SocketAddr>,
    /// Address of /healthz, /readyz and /metrics; by default port 8081 of every interface, with --local of 127.0.0.1
    #[arg(long)]
    pub(crate) health_address: Option<SocketAddr>,
    /// Directory with tls.crt, tls.key and ca.crt, as cert-manager mounts them, instead of the operator's own CA
    #[arg(long)]
    pub tls_dir: Option<PathBuf>,
    /// Further namespaces that no set reaches
    #[arg(long = "exclude-namespace", env = "SIDECARSET_EXCLUDE_NAMESPACES", value_delimiter = ',')]
    pub exclude_namespaces: Vec<String>,
    /// Label and annotation keys that patchPodMetadata may set, such as `example.com/*`; by default all that are not Kubernetes' or the operator's own
    #[arg(long, env = "SIDECARSET_POD_METADATA_KEYS", value_delimiter = ',')]
    pub pod_metadata_keys: Vec<String>,
    /// Pods that are patched at the same time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub write_concurrency: u16,
    /// Seconds after which another replica takes over from one that is silent
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=300))]
    pub(crate) lease_duration_seconds: u64,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl RunArgs {
    /// Where the webhook listens.
    pub fn webhook_address(&self) -> SocketAddr {
        self.webhook_address.unwrap_or_else(|| self.address(WEBHOOK_PORT))
    }

    /// Where health and metrics are served.
    pub fn health_address(&self) -> SocketAddr {
        self.health_address.unwrap_or_else(|| self.address(HEALTH_PORT))
    }

    /// Name of this process in the Lease and in events: that of the replica and a random part. A container that is
    /// started again is not the one before, whose last requests may still be on the way.
    pub fn identity(&self) -> String {
        let host = || std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
        let name = self.identity.clone().filter(|name| !name.is_empty()).unwrap_or_else(host);
        let random = RandomState::new().build_hasher().finish();
        format!("{name}_{random:016x}")
    }

    /// Lease duration, renew deadline and retry period in client-go's proportions of 15 : 10 : 2.
    pub fn lease_times(&self) -> (Duration, Duration, Duration) {
        let duration = Duration::from_secs(self.lease_duration_seconds);
        (duration, duration * 2 / 3, duration * 2 / 15)
    }

    fn address(&self, port: u16) -> SocketAddr {
        let ip = if self.local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        SocketAddr::new(IpAddr::V4(ip), port)
    }
}
