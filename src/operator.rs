//! The running operator: starts the parts in the order in which they need each other, and stops them in the reverse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use sidecarset::api::validate::{Allowed, AllowedKeys};
use sidecarset::api::{crd, keys};
use sidecarset::controller::cache::Cache;
use sidecarset::controller::context::{Context, Settings};
use sidecarset::core::inject::Served;
use sidecarset::core::registration::{Endpoint, Params};
use sidecarset::runtime::args::RunArgs;
use sidecarset::runtime::client::{self, Clients};
use sidecarset::runtime::events::Events;
use sidecarset::runtime::health::{self, Readiness};
use sidecarset::runtime::leader::{self, Leadership, LeaseParams};
use sidecarset::runtime::metrics::Metrics;
use sidecarset::runtime::namespaces::Namespaces;
use sidecarset::runtime::probe;
use sidecarset::runtime::shutdown::{self, Shutdown};
use sidecarset::webhook::pod::Pods;
use sidecarset::webhook::registration::{IN_CLUSTER, LOCAL, Registration, unregister};
use sidecarset::webhook::server::{self, Drain};
use sidecarset::webhook::tls::{self, CertificateSource, SelfSigned, TlsState};
use sidecarset::{controller, webhook};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the apiserver may take to serve a CRD that was applied.
const CRD_TIMEOUT: Duration = Duration::from_secs(30);

/// Secret with the webhook's CA and certificate.
const TLS_SECRET: &str = "sidecarset-webhook-tls";

/// Lease that the leader holds.
const LEASE: &str = "sidecarset-operator";

/// Calls besides those for pods: status, revisions, events.
const OTHER_CALLS: usize = 16;

/// Why the operator does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cluster.
    #[error("cannot find a cluster: {0}")]
    Client(#[from] client::Error),
    /// Signals.
    #[error(transparent)]
    Shutdown(#[from] shutdown::Error),
    /// Health port.
    #[error(transparent)]
    Health(#[from] health::Error),
    /// Webhook port.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// Certificate.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Lease.
    #[error(transparent)]
    Leader(#[from] leader::Error),
    /// Something this program cannot run without.
    #[error("cannot {action}: {reason}")]
    Setup {
        /// For example `apply the CRD`.
        action: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// A part that must not end has ended.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

fn setup<E: std::fmt::Display>(action: &'static str) -> impl FnOnce(E) -> Error {
    move |error| Error::Setup { action, reason: error.to_string() }
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: &RunArgs) -> Result<(), Error> {
    let signal = shutdown::on_signals()?;
    let (stop_parts, parts) = shutdown::channel();
    let (stop_last, last) = shutdown::channel();
    let operator = Operator::new(args, parts.clone()).await?;
    let Operator { clients, metrics, readiness, .. } = &operator;

    let expiry = metrics.webhook_certificate_expiry.clone();
    let (tls, _tls_task) = operator.certificates().start(expiry, parts.clone()).await?;
    let (leadership, mut election) = leader::spawn(clients.lease.clone(), operator.lease(), last.clone());
    let Sets { cache, served, namespaces, registered } = operator.sets().await;
    let (address, mut server) = operator.serve(&tls, served.clone(), namespaces).await?;
    let registration = operator.registration(address, &tls, served, leadership.clone(), registered).await?;
    let mut registration = tokio::spawn(registration.run(parts.clone()));
    let (context, gates) = (operator.context(cache, leadership).await, controller::Gates::new(readiness));
    let mut controller = tokio::spawn(controller::run(context, gates, parts.clone()));
    let (health, mut health_server) =
        health::serve(args.health_address(), readiness.clone(), metrics.clone(), last).await?;
    tracing::info!(webhook = %address, %health, local = args.local, "serving");
    tokio::spawn(announce(readiness.clone(), parts));

    let ended = tokio::select! {
        () = signal.requested() => None,
        _ = &mut election => Some("the leader election"),
        _ = &mut server => Some("the webhook server"),
        _ = &mut registration => Some("the registration"),
        _ = &mut controller => Some("the controller"),
        _ = &mut health_server => Some("the health server"),
    };

    // Writers first; then the lease is given back and a successor starts at once.
    stop_parts.fire();
    finish(registration).await;
    finish(controller).await;
    if args.local {
        unregister(&clients.call, LOCAL).await;
    }
    finish(server).await;
    stop_last.fire();
    finish(election).await;
    finish(health_server).await;
    tracing::info!("stopped");
    ended.map_or(Ok(()), |part| Err(Error::Ended(part)))
}

/// What all parts are made from.
struct Operator<'a> {
    args: &'a RunArgs,
    clients: Clients,
    metrics: Metrics,
    readiness: Readiness,
    events: Events,
    /// Namespaces that no set reaches.
    excluded: Arc<[String]>,
    /// Stops all but the election and the health server.
    parts: Shutdown,
}

/// What webhook, registration and controller know of the sets.
struct Sets {
    cache: Cache,
    served: watch::Receiver<Arc<Served>>,
    namespaces: Namespaces,
    registered: watch::Sender<u64>,
}

impl<'a> Operator<'a> {
    async fn new(args: &'a RunArgs, parts: Shutdown) -> Result<Self, Error> {
        let clients = Clients::infer(usize::from(args.write_concurrency) + OTHER_CALLS).await?;
        if args.local {
            install(&clients.call, &args.namespace).await?;
        }
        Ok(Self {
            args,
            metrics: Metrics::new(),
            readiness: Readiness::default(),
            events: Events::start(clients.call.clone(), args.identity(), parts.clone()),
            excluded: args.exclude_namespaces.iter().cloned().chain([args.namespace.clone()]).collect(),
            clients,
            parts,
        })
    }

    fn certificates(&self) -> CertificateSource {
        let Self { args, clients, .. } = self;
        if let Some(directory) = &args.tls_dir {
            return CertificateSource::Files(directory.clone());
        }
        let names = SelfSigned::names_of_service(&args.webhook_service, &args.namespace);
        let signed = SelfSigned::new(clients.call.clone(), &args.namespace, TLS_SECRET, names);
        CertificateSource::SelfSigned(Box::new(signed))
    }

    fn lease(&self) -> LeaseParams {
        let (lease_duration, renew_deadline, retry_period) = self.args.lease_times();
        let params = LeaseParams::new(&self.args.namespace, LEASE, self.args.identity());
        LeaseParams { lease_duration, renew_deadline, retry_period, ..params }
    }

    async fn sets(&self) -> Sets {
        let allowed = Allowed {
            metadata_keys: AllowedKeys::new(self.args.pod_metadata_keys.clone()),
            pod_level_resources: probe::pod_level_resources(&self.clients.call, &self.args.namespace).await,
        };
        let (namespaces, (registered, version)) = (Namespaces::default(), watch::channel(0));
        let (cache, served) = Cache::new(allowed, namespaces.clone(), version);
        Sets { cache, served, namespaces, registered }
    }

    /// Starts the webhook server.
    async fn serve(
        &self,
        tls: &TlsState,
        served: watch::Receiver<Arc<Served>>,
        namespaces: Namespaces,
    ) -> Result<(SocketAddr, JoinHandle<Result<(), server::Error>>), Error> {
        let pods = Pods {
            served: served.clone(),
            namespaces,
            excluded: Arc::clone(&self.excluded),
            client: self.clients.call.clone(),
            metrics: self.metrics.clone(),
            events: self.events.clone(),
        };
        let serving = self.readiness.gate("shutdown");
        let delay = if self.args.local { Duration::ZERO } else { Drain::default().delay };
        let drain = Drain { gate: Some(serving.clone()), delay, ..Drain::default() };
        let (router, address) = (webhook::router(pods, served), self.args.webhook_address());
        let started = server::serve(router, tls.rustls_config.clone(), address, drain, self.parts.clone()).await?;
        serving.open();
        Ok(started)
    }

    async fn registration(
        &self,
        address: SocketAddr,
        tls: &TlsState,
        served: watch::Receiver<Arc<Served>>,
        leadership: Leadership,
        registered: watch::Sender<u64>,
    ) -> Result<Registration, Error> {
        let Self { args, clients, .. } = self;
        let service = || Endpoint::Service { namespace: args.namespace.clone(), name: args.webhook_service.clone() };
        let (names, endpoint, owner) = if args.local {
            (LOCAL, Endpoint::Url(format!("https://127.0.0.1:{}", address.port())), None)
        } else {
            (IN_CLUSTER, service(), Some(owner(&clients.call, &args.namespace).await?))
        };
        let excluded = self.excluded.to_vec();
        let params = Params { name: String::new(), endpoint, ca_bundle: Vec::new(), excluded, owner };
        let (client, ca_bundle) = (clients.call.clone(), tls.ca_bundle.clone());
        Ok(Registration { client, params, names, ca_bundle, served, leadership, registered })
    }

    async fn context(&self, cache: Cache, leadership: Leadership) -> Arc<Context> {
        let settings = Settings {
            namespace: self.args.namespace.clone(),
            excluded: Arc::clone(&self.excluded),
            write_concurrency: usize::from(self.args.write_concurrency),
            can_resize: probe::resize(&self.clients.call).await,
        };
        let (clients, metrics, events) = (self.clients.clone(), self.metrics.clone(), self.events.clone());
        Context::new(clients, settings, leadership, cache, metrics, events)
    }
}

/// Waits for a part that was told to stop, or has ended already.
async fn finish<T>(part: JoinHandle<T>) {
    if !part.is_finished() {
        let _ = part.await;
    }
}

/// Logs one line when everything that readiness waits for is there.
async fn announce(readiness: Readiness, shutdown: Shutdown) {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    while !readiness.waiting().is_empty() {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = every.tick() => {}
        }
    }
    tracing::info!("operator is ready");
}

/// What `kubectl apply -k config/default` does for an operator in the cluster.
async fn install(client: &Client, namespace: &str) -> Result<(), Error> {
    let params = PatchParams::apply(keys::MANAGER).force();
    let object = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {keys::INJECT: "false"}}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.patch(namespace, &params, &Patch::Apply(&object)).await.map_err(setup("apply the namespace"))?;
    let definition = crd::crd().map_err(setup("make the CRD"))?;
    let name = definition.name_any();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.patch(&name, &params, &Patch::Apply(&definition)).await.map_err(setup("apply the CRD"))?;
    let established = await_condition(definitions, &name, conditions::is_crd_established());
    timeout(CRD_TIMEOUT, established).await.map_err(setup("wait for the CRD"))?.map_err(setup("wait for the CRD"))?;
    Ok(())
}

/// The Namespace owns what the operator registers: removing it removes the webhooks.
async fn owner(client: &Client, namespace: &str) -> Result<OwnerReference, Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let object = api.get_metadata(namespace).await.map_err(setup("read the operator's namespace"))?;
    Ok(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Namespace".to_owned(),
        name: namespace.to_owned(),
        uid: object.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    })
}
