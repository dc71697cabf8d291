//! The running operator: starts the parts in the order in which they need each other, and stops them in the reverse.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api::validate::{Allowed, AllowedKeys};
use crate::api::{crd, keys};
use crate::controller::cache::Cache;
use crate::controller::context::{Context, Settings};
use crate::core::registration::{Endpoint, Params};
use crate::runtime::args::{Args, Command, RunArgs};
use crate::runtime::client::Clients;
use crate::runtime::events::Events;
use crate::runtime::health::{self, Readiness};
use crate::runtime::http::Service;
use crate::runtime::leader::{self, LeaseParams};
use crate::runtime::metrics::Metrics;
use crate::runtime::namespaces::Namespaces;
use crate::runtime::vital::Vital;
use crate::runtime::{probe, telemetry};
use crate::webhook::pod::{Large, Pods};
use crate::webhook::provisional::{self, InVain};
use crate::webhook::registration::{IN_CLUSTER, LOCAL, Registration, unregister};
use crate::webhook::set::Sets;
use crate::webhook::tls::{CertificateSource, SelfSigned};
use crate::{controller, webhook};

/// How long the apiserver may take to serve a CRD that was applied.
const CRD_TIMEOUT: Duration = Duration::from_secs(30);

/// Secret with the webhook's CA and certificate.
const TLS_SECRET: &str = "sidecarset-webhook-tls";

/// Lease that the leader holds.
const LEASE: &str = "sidecarset-operator";

/// Calls besides those for pods: status, revisions, events.
const OTHER_CALLS: usize = 16;

/// How long endpoints take to stop sending new connections once readiness is lost; they are still served meanwhile.
const DRAIN_DELAY: Duration = Duration::from_secs(5);

/// How long running reviews may take after the order to stop; above the webhook's own timeout of 5 s.
const DRAIN: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The whole program.
pub async fn main() -> ExitCode {
    match execute(Args::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> Result<()> {
    match command {
        Command::Crd => Ok(std::io::stdout().write_all(crd::yaml()?.as_bytes())?),
        Command::Run(args) => {
            telemetry::init(&args.log)?;
            let provider = rustls::crypto::ring::default_provider();
            provider.install_default().map_err(|_| "a crypto provider is installed already")?;
            run(&args).await
        }
    }
}

/// Runs until SIGTERM or SIGINT.
async fn run(args: &RunArgs) -> Result<()> {
    let stopped = on_signals()?;
    // Stops all but the election and the health server, which end last.
    let (parts, last) = (CancellationToken::new(), CancellationToken::new());
    let vital = Vital::start().map_err(cannot("start a thread"))?;
    let clients = Clients::infer(usize::from(args.write_concurrency) + OTHER_CALLS, &vital).await?;
    if args.local {
        install(&clients.call, &args.namespace).await?;
    }
    let (identity, metrics) = (args.identity(), Metrics::new());
    let readiness = Readiness::new(&["shutdown", "sidecarsets", "controllerrevisions", "namespaces", "pods"]);
    let events = Events::start(clients.call.clone(), identity.clone(), parts.clone());
    let excluded: Arc<[String]> = args.exclude_namespaces.iter().chain([&args.namespace]).cloned().collect();

    let expiry = metrics.webhook_certificate_expiry.clone();
    let (tls, _tls_task) =
        certificates(args, &clients).start(args.webhook_client_ca.clone(), expiry, parts.clone()).await?;
    let lease = LeaseParams::new(&args.namespace, LEASE, identity).lasting(args.lease_duration());
    let (leadership, mut election) = {
        let _there = vital.enter();
        leader::spawn(clients.lease.clone(), lease, last.clone())
    };
    let (namespaces, (registered, registered_version)) = (Namespaces::default(), watch::channel(Arc::default()));
    let (cache, served) = Cache::new(allowed(args, &clients).await, namespaces.clone(), registered_version);

    let (announcer, announcements) = provisional::channel();
    let pods = Pods {
        served: served.clone(),
        namespaces,
        excluded: Arc::clone(&excluded),
        client: clients.review.clone(),
        metrics: metrics.clone(),
        events: events.clone(),
        large: Large::default(),
        in_vain: InVain::default(),
    };
    let webhook = Service {
        purpose: "webhook",
        router: webhook::router(pods, Sets { served: served.clone(), client: clients.call.clone(), announcer }),
        tls: Some(tls.server_config),
        stop: readiness.clone().stop(parts.clone(), if args.local { Duration::ZERO } else { DRAIN_DELAY }),
        drain: DRAIN,
    };
    let (address, mut webhook_server) = webhook.serve(args.webhook_address()).await?;
    readiness.open("shutdown");

    let (names, endpoint, owner) = if args.local {
        (LOCAL, Endpoint::Url(format!("https://127.0.0.1:{}", address.port())), None)
    } else {
        let (namespace, name) = (args.namespace.clone(), args.webhook_service.clone());
        (IN_CLUSTER, Endpoint::Service { namespace, name }, Some(owner(&clients.call, &args.namespace).await?))
    };
    let registration = Registration {
        client: clients.call.clone(),
        params: Params { name: String::new(), endpoint, ca_bundle: Vec::new(), excluded: excluded.to_vec(), owner },
        names,
        ca_bundle: tls.ca_bundle,
        served,
        leadership: leadership.clone(),
        registered,
    };
    let mut provisionals = tokio::spawn(registration.provisionals(announcements).run());
    let mut registration = tokio::spawn(registration.run(parts.clone()));
    let settings = Settings {
        namespace: args.namespace.clone(),
        excluded,
        write_concurrency: usize::from(args.write_concurrency),
        can_resize: probe::resize(&clients.call).await,
    };
    let context =
        Context::new(clients.clone(), settings, leadership, cache, metrics.clone(), events, readiness.clone());
    let mut controller = tokio::spawn(controller::run(context, parts.clone()));
    let health = health::serve(args.health_address(), readiness.clone(), metrics, last.clone());
    let (health, mut health_server) = vital.run(health).await??;
    tracing::info!(webhook = %address, %health, local = args.local, "serving");
    tokio::spawn(parts.clone().run_until_cancelled_owned(async move {
        readiness.ready().await;
        tracing::info!("operator is ready");
    }));

    let ended = tokio::select! {
        () = stopped.cancelled() => None,
        _ = &mut election => Some("the leader election"),
        _ = &mut webhook_server => Some("the webhook server"),
        _ = &mut registration => Some("the registration"),
        _ = &mut provisionals => Some("the provisional registration"),
        _ = &mut controller => Some("the controller"),
        _ = &mut health_server => Some("the health server"),
    };

    // Writers first; then the lease is given back and a successor starts at once.
    parts.cancel();
    finish(registration).await;
    finish(controller).await;
    if args.local {
        provisionals.abort();
        unregister(&clients.call, LOCAL).await;
    }
    finish(webhook_server).await;
    last.cancel();
    finish(election).await;
    finish(health_server).await;
    tracing::info!("stopped");
    ended.map_or(Ok(()), |part| Err(format!("{part} ended unexpectedly").into()))
}

/// A token cancelled by SIGTERM (the kubelet) or SIGINT (a terminal). Must be called inside a tokio runtime.
fn on_signals() -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot("install the handler of SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot("install the handler of SIGINT"))?;
    let token = CancellationToken::new();
    let guard = token.clone().drop_guard();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "shutting down");
        drop(guard);
    });
    Ok(token)
}

fn certificates(args: &RunArgs, clients: &Clients) -> CertificateSource {
    if let Some(directory) = &args.tls_dir {
        return CertificateSource::Files(directory.clone());
    }
    let names = SelfSigned::names_of_service(&args.webhook_service, &args.namespace);
    let signed = SelfSigned::new(clients.call.clone(), &args.namespace, TLS_SECRET, names);
    CertificateSource::SelfSigned(Box::new(signed))
}

async fn allowed(args: &RunArgs, clients: &Clients) -> Allowed {
    Allowed {
        metadata_keys: AllowedKeys::new(args.pod_metadata_keys.clone()),
        pod_level_resources: probe::pod_level_resources(&clients.call, &args.namespace).await,
    }
}

/// Waits for a part that was told to stop, or has ended already.
async fn finish<T>(part: JoinHandle<T>) {
    if !part.is_finished() {
        let _ = part.await;
    }
}

/// What `kubectl apply -k config/default` does for an operator in the cluster.
async fn install(client: &Client, namespace: &str) -> Result<()> {
    let params = PatchParams::apply(keys::MANAGER).force();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for namespace in [namespace, keys::DRY_RUN_NAMESPACE] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {keys::INJECT: "false"}}});
        namespaces.patch(namespace, &params, &Patch::Apply(&object)).await.map_err(cannot("apply a namespace"))?;
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default"}, "automountServiceAccountToken": false});
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), keys::DRY_RUN_NAMESPACE);
    accounts.patch("default", &params, &Patch::Apply(&account)).await.map_err(cannot("apply a service account"))?;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "no-pods"}, "spec": {"hard": {"pods": "0"}}});
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), keys::DRY_RUN_NAMESPACE);
    quotas.patch("no-pods", &params, &Patch::Apply(&quota)).await.map_err(cannot("apply the quota"))?;
    let definition = crd::crd().map_err(cannot("make the CRD"))?;
    let name = definition.name_any();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.patch(&name, &params, &Patch::Apply(&definition)).await.map_err(cannot("apply the CRD"))?;
    let established = await_condition(definitions, &name, conditions::is_crd_established());
    timeout(CRD_TIMEOUT, established).await.map_err(cannot("wait for the CRD"))?.map_err(cannot("wait for the CRD"))?;
    Ok(())
}

fn cannot<E: std::fmt::Display>(action: &str) -> impl FnOnce(E) -> String {
    move |error| format!("cannot {action}: {error}")
}

/// The Namespace owns what the operator registers: removing it removes the webhooks.
async fn owner(client: &Client, namespace: &str) -> Result<OwnerReference> {
    let api: Api<Namespace> = Api::all(client.clone());
    let object = api.get_metadata(namespace).await.map_err(cannot("read the operator's namespace"))?;
    Ok(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Namespace".to_owned(),
        name: namespace.to_owned(),
        uid: object.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    })
}
