//! The running operator: starts the parts in the order in which they need each other, and stops them in the reverse.

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
use sidecarset::core::registration::{Endpoint, Params};
use sidecarset::runtime::args::RunArgs;
use sidecarset::runtime::client::{self, Clients};
use sidecarset::runtime::events::Events;
use sidecarset::runtime::health::{self, Readiness};
use sidecarset::runtime::leader::{self, LeaseParams};
use sidecarset::runtime::metrics::Metrics;
use sidecarset::runtime::namespaces::Namespaces;
use sidecarset::runtime::{probe, shutdown};
use sidecarset::webhook::pod::Pods;
use sidecarset::webhook::registration::{IN_CLUSTER, LOCAL, Registration, unregister};
use sidecarset::webhook::server::{self, Drain};
use sidecarset::webhook::tls::{self, CertificateSource, SelfSigned};
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
pub(crate) enum Error {
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
pub(crate) async fn run(args: &RunArgs) -> Result<(), Error> {
    let signal = shutdown::on_signals()?;
    let (parts_trigger, parts) = shutdown::channel();
    let (last_trigger, last) = shutdown::channel();
    let concurrency = usize::from(args.write_concurrency);
    let clients = Clients::infer(concurrency + OTHER_CALLS).await?;
    if args.local {
        install(&clients.call, &args.namespace).await?;
    }
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let (identity, names) = (args.identity(), if args.local { LOCAL } else { IN_CLUSTER });
    let (lease_duration, renew_deadline, retry_period) = args.lease_times();
    let lease = LeaseParams {
        lease_duration,
        renew_deadline,
        retry_period,
        ..LeaseParams::new(&args.namespace, LEASE, &identity)
    };
    let source = certificates(args, &clients.call);
    let expiry = metrics.webhook_certificate_expiry.clone();
    let (tls, _tls_task) = source.start(expiry, parts.clone()).await?;
    let (leadership, mut lease_task) = leader::spawn(clients.lease.clone(), lease, last.clone());
    let events = Events::start(clients.call.clone(), identity, parts.clone());
    let allowed = Allowed {
        metadata_keys: AllowedKeys::new(args.pod_metadata_keys.clone()),
        pod_level_resources: probe::pod_level_resources(&clients.call, &args.namespace).await,
    };
    let (namespaces, (registered, registered_version)) = (Namespaces::default(), watch::channel(0));
    let (cache, served) = Cache::new(allowed, namespaces.clone(), registered_version);
    let excluded: Arc<[String]> = args.exclude_namespaces.iter().cloned().chain([args.namespace.clone()]).collect();

    let pods = Pods {
        served: served.clone(),
        namespaces,
        excluded: Arc::clone(&excluded),
        client: clients.call.clone(),
        metrics: metrics.clone(),
        events: events.clone(),
    };
    let router = webhook::router(pods, served.clone());
    let serving = readiness.gate("shutdown");
    let delay = if args.local { Duration::ZERO } else { Drain::default().delay };
    let drain = Drain { gate: Some(serving.clone()), delay, ..Drain::default() };
    let address = args.webhook_address();
    let (address, mut server_task) = server::serve(router, tls.rustls_config, address, drain, parts.clone()).await?;
    serving.open();

    let settings = Settings {
        namespace: args.namespace.clone(),
        excluded: Arc::clone(&excluded),
        write_concurrency: concurrency,
        can_resize: probe::resize(&clients.call).await,
    };
    let context = Context::new(clients.clone(), settings, leadership.clone(), cache, metrics.clone(), events);
    let endpoint = if args.local {
        Endpoint::Url(format!("https://127.0.0.1:{}", address.port()))
    } else {
        Endpoint::Service { namespace: args.namespace.clone(), name: args.webhook_service.clone() }
    };
    let owner = if args.local { None } else { Some(owner(&clients.call, &args.namespace).await?) };
    let params = Params { name: String::new(), endpoint, ca_bundle: Vec::new(), excluded: excluded.to_vec(), owner };
    let (client, ca_bundle) = (clients.call.clone(), tls.ca_bundle);
    let registration = Registration { client, params, names, ca_bundle, served, leadership, registered };
    let mut registration = tokio::spawn(registration.run(parts.clone()));
    let mut controller = {
        let gates = controller::Gates::new(&readiness);
        tokio::spawn(controller::run(context, gates, parts.clone()))
    };
    let (health, mut health_task) = health::serve(args.health_address(), readiness.clone(), metrics, last).await?;
    tracing::info!(webhook = %address, %health, local = args.local, "serving");
    tokio::spawn(announce(readiness, parts));

    let ended = tokio::select! {
        () = signal.requested() => None,
        _ = &mut lease_task => Some("the leader election"),
        _ = &mut server_task => Some("the webhook server"),
        _ = &mut registration => Some("the registration"),
        _ = &mut controller => Some("the controller"),
        _ = &mut health_task => Some("the health server"),
    };
    // Writers first; then the lease is given back and a successor starts at once.
    parts_trigger.fire();
    finish(registration).await;
    finish(controller).await;
    if args.local {
        unregister(&clients.call, names).await;
    }
    finish(server_task).await;
    last_trigger.fire();
    finish(lease_task).await;
    finish(health_task).await;
    tracing::info!("stopped");
    ended.map_or(Ok(()), |part| Err(Error::Ended(part)))
}

/// Waits for a part that was told to stop, or has ended already.
async fn finish<T>(part: JoinHandle<T>) {
    if !part.is_finished() {
        let _ = part.await;
    }
}

/// Logs one line when everything that readiness waits for is there.
async fn announce(readiness: Readiness, shutdown: shutdown::Shutdown) {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    while !readiness.waiting().is_empty() {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = every.tick() => {}
        }
    }
    tracing::info!("operator is ready");
}

fn certificates(args: &RunArgs, client: &Client) -> CertificateSource {
    if let Some(directory) = &args.tls_dir {
        return CertificateSource::Files(directory.clone());
    }
    let names = SelfSigned::names_of_service(&args.webhook_service, &args.namespace);
    CertificateSource::SelfSigned(Box::new(SelfSigned::new(client.clone(), &args.namespace, TLS_SECRET, names)))
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
