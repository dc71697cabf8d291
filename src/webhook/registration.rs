//! Keeps the webhook configurations in step with the sets. Only the leader writes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::api::keys;
use crate::core::inject::{CompiledSets, Served};
use crate::core::registration::{Params, pod_webhooks, set_webhook};
use crate::runtime::leader::Leadership;

/// The configuration is written again this often, in case somebody changed it.
const REAPPLY: Duration = Duration::from_secs(30);

/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Longest wait for one write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names of the two configuration objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// `MutatingWebhookConfiguration` on pods.
    pub(crate) pods: &'static str,
    /// `ValidatingWebhookConfiguration` on sets.
    pub(crate) sets: &'static str,
}

/// Of an operator in the cluster.
pub(crate) const IN_CLUSTER: Names = Names { pods: "sidecarset-pods", sets: "sidecarset-sets" };

/// Of one outside, which removes them when it stops.
pub(crate) const LOCAL: Names = Names { pods: "sidecarset-pods-local", sets: "sidecarset-sets-local" };

/// Why a configuration is not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused or could not be reached.
    #[error("cannot {action} {configuration}: {source}")]
    Api {
        /// `apply` or `delete`.
        action: &'static str,
        /// Name of the object.
        configuration: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// No answer in time, or the lease was lost.
    #[error("cannot {action} {configuration} in time")]
    Timeout {
        /// `apply` or `delete`.
        action: &'static str,
        /// Name of the object.
        configuration: String,
    },
}

/// See the module.
pub(crate) struct Registration {
    /// Writes the configurations.
    pub(crate) client: Client,
    /// Endpoint, exclusions and owner; name and CA bundle are filled in.
    pub(crate) params: Params,
    /// Names of the objects.
    pub(crate) names: Names,
    /// Follows rotations of the CA.
    pub(crate) ca_bundle: watch::Receiver<Vec<u8>>,
    /// The sets.
    pub(crate) served: watch::Receiver<Arc<Served>>,
    /// The right to write.
    pub(crate) leadership: Leadership,
    /// Receives the version of the sets that is registered; 0 for none.
    pub(crate) registered: watch::Sender<u64>,
}

/// What was last written, and when.
struct Written {
    version: u64,
    sets: Arc<CompiledSets>,
    ca_bundle: Vec<u8>,
    at: Instant,
}

impl Registration {
    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut leadership = self.leadership.subscribe();
        let mut written = None;
        loop {
            let wait = if self.leadership.is_leader() { self.write(&mut written).await } else { REAPPLY };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(wait) => {}
                Ok(()) = self.served.changed() => {}
                Ok(()) = self.ca_bundle.changed() => {}
                Ok(()) = leadership.changed() => {}
            }
        }
    }

    /// Writes both configurations if they differ from what was written; returns when to look again.
    async fn write(&mut self, written: &mut Option<Written>) -> Duration {
        let served = Arc::clone(&self.served.borrow_and_update());
        let ca_bundle = self.ca_bundle.borrow_and_update().clone();
        // Without a complete list an empty one would remove the webhook.
        if !served.complete {
            return REAPPLY;
        }
        let same = |last: &&Written| {
            last.version == served.version && Arc::ptr_eq(&last.sets, &served.sets) && last.ca_bundle == ca_bundle
        };
        if let Some(left) = written.as_ref().filter(same).and_then(|last| REAPPLY.checked_sub(last.at.elapsed())) {
            return left;
        }
        self.params.ca_bundle.clone_from(&ca_bundle);
        if let Err(error) = self.apply(&served).await {
            tracing::warn!(%error, "the webhooks are not registered");
            return RETRY;
        }
        *written =
            Some(Written { version: served.version, sets: Arc::clone(&served.sets), ca_bundle, at: Instant::now() });
        self.registered.send_if_modified(|version| std::mem::replace(version, served.version) != served.version);
        REAPPLY
    }

    async fn apply(&self, served: &Served) -> Result<(), Error> {
        let sets = set_webhook(&Params { name: self.names.sets.to_owned(), ..self.params.clone() });
        let pods = Params { name: self.names.pods.to_owned(), ..self.params.clone() };
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let params = PatchParams::apply(keys::MANAGER).force();
        self.call("apply", self.names.sets, api.patch(self.names.sets, &params, &Patch::Apply(&sets))).await?;
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        match pod_webhooks(&served.sets, served.version, &pods) {
            Some(pods) => {
                self.call("apply", self.names.pods, api.patch(self.names.pods, &params, &Patch::Apply(&pods))).await?;
            }
            None => remove(self, &api).await?,
        }
        Ok(())
    }

    async fn call<T>(
        &self,
        action: &'static str,
        configuration: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let timeout = || Error::Timeout { action, configuration: configuration.to_owned() };
        let deadline = self.leadership.write_deadline().ok_or_else(timeout)?.min(Instant::now() + WRITE_TIMEOUT);
        timeout_at(deadline, call).await.map_err(|_| timeout())?.map_err(|source| Error::Api {
            action,
            configuration: configuration.to_owned(),
            source: Box::new(source),
        })
    }
}

async fn remove(registration: &Registration, api: &Api<MutatingWebhookConfiguration>) -> Result<(), Error> {
    let name = registration.names.pods;
    match registration.call("delete", name, api.delete(name, &DeleteParams::default())).await {
        Ok(_) => Ok(()),
        Err(Error::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.is_not_found()) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Removes both configurations: an operator outside the cluster that stops must not leave a webhook that nobody answers.
pub(crate) async fn unregister(client: &Client, names: Names) {
    let pods: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let sets: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let params = DeleteParams::default();
    let (pods, sets) = tokio::join!(pods.delete(names.pods, &params), sets.delete(names.sets, &params));
    for (name, result) in [(names.pods, pods.map(drop)), (names.sets, sets.map(drop))] {
        match result {
            Ok(()) => tracing::info!(name, "the webhooks are unregistered"),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                tracing::error!(name, %error, "the webhooks cannot be unregistered; delete the configuration by hand");
            }
        }
    }
}
