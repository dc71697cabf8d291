//! The operator's command line.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::telemetry::LogArgs;

const WEBHOOK_PORT: u16 = 9443;
const HEALTH_PORT: u16 = 8081;

/// Injects sidecars into pods and upgrades them in place.
#[derive(Debug, clap::Parser)]
#[command(name = "sidecarset-operator", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run the operator.
    Run(Box<RunArgs>),
    /// Print the `CustomResourceDefinition`.
    Crd,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Run outside the cluster: apply the CRD, register the webhooks by URL on 127.0.0.1, and unregister them at the end
    #[arg(long)]
    pub(crate) local: bool,
    /// Namespace of the operator's own objects
    #[arg(long, env = "POD_NAMESPACE", default_value = "sidecarset-system")]
    pub(crate) namespace: String,
    /// Name of this replica; by default the host name
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Service through which the apiserver reaches the webhook
    #[arg(long, default_value = "sidecarset-webhook")]
    pub(crate) webhook_service: String,
    /// Address of the webhook; by default port 9443 of every interface, with --local of 127.0.0.1
    #[arg(long)]
    webhook_address: Option<SocketAddr>,
    /// Address of /healthz, /readyz and /metrics; by default port 8081 of every interface, with --local of 127.0.0.1
    #[arg(long)]
    health_address: Option<SocketAddr>,
    /// Directory with tls.crt, tls.key and ca.crt, as cert-manager mounts them, instead of the operator's own CA
    #[arg(long)]
    pub(crate) tls_dir: Option<PathBuf>,
    /// PEM file of CAs: the webhook answers only clients with a certificate of one of them (see docs/webhook.md)
    #[arg(long)]
    pub(crate) webhook_client_ca: Option<PathBuf>,
    /// Further namespaces that no set reaches
    #[arg(long = "exclude-namespace", env = "SIDECARSET_EXCLUDE_NAMESPACES", value_delimiter = ',')]
    pub(crate) exclude_namespaces: Vec<String>,
    /// Label and annotation keys that patchPodMetadata may set, such as `example.com/*`; by default all that are not Kubernetes' or the operator's own
    #[arg(long, env = "SIDECARSET_POD_METADATA_KEYS", value_delimiter = ',')]
    pub(crate) pod_metadata_keys: Vec<String>,
    /// Pods that are patched at the same time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) write_concurrency: u16,
    /// Seconds after which another replica takes over from one that is silent
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=300))]
    lease_duration_seconds: u64,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

impl RunArgs {
    pub(crate) fn webhook_address(&self) -> SocketAddr {
        self.webhook_address.unwrap_or_else(|| self.address(WEBHOOK_PORT))
    }

    pub(crate) fn health_address(&self) -> SocketAddr {
        self.health_address.unwrap_or_else(|| self.address(HEALTH_PORT))
    }

    /// Name of this process in the Lease and in events: that of the replica and a random part. A container that is
    /// started again is not the one before, whose last requests may still be on the way.
    pub(crate) fn identity(&self) -> String {
        let host = || std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
        let name = self.identity.clone().filter(|name| !name.is_empty()).unwrap_or_else(host);
        let random = RandomState::new().build_hasher().finish();
        format!("{name}_{random:016x}")
    }

    pub(crate) fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease_duration_seconds)
    }

    fn address(&self, port: u16) -> SocketAddr {
        let ip = if self.local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        SocketAddr::new(IpAddr::V4(ip), port)
    }
}
