//! Keeps the webhook configurations in step with the sets. Only the leader writes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::provisional::{Announcement, Provisionals};
use crate::api::keys;
use crate::core::inject::Served;
use crate::core::registration::{Params, pod_webhooks, set_webhook};
use crate::runtime::call::CallError;
use crate::runtime::leader::Leadership;

/// The configuration is written again this often, in case somebody changed it.
const REAPPLY: Duration = Duration::from_secs(30);

/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names of the configuration objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pods: &'static str,
    /// The apiserver asks in the order of these names.
    provisional: &'static str,
    sets: &'static str,
}

/// Of an operator in the cluster.
pub(crate) const IN_CLUSTER: Names =
    Names { pods: "sidecarset-pods", provisional: "sidecarset-pods-provisional", sets: "sidecarset-sets" };

/// Of one outside, which removes them when it stops.
pub(crate) const LOCAL: Names = Names {
    pods: "sidecarset-pods-local",
    provisional: "sidecarset-pods-provisional-local",
    sets: "sidecarset-sets-local",
};

pub(crate) struct Registration {
    pub(crate) client: Client,
    /// Name and CA bundle are filled in.
    pub(crate) params: Params,
    pub(crate) names: Names,
    /// Follows rotations of the CA.
    pub(crate) ca_bundle: watch::Receiver<Vec<u8>>,
    pub(crate) served: watch::Receiver<Arc<Served>>,
    pub(crate) leadership: Leadership,
    /// Receives the sets that are registered; of version 0 for none.
    pub(crate) registered: watch::Sender<Arc<Served>>,
}

/// What was last written, with which CA bundle, and when.
type Written = (Arc<Served>, Vec<u8>, Instant);

impl Registration {
    /// For the sets that are not among those which this registers yet.
    pub(crate) fn provisionals(&self, announcements: mpsc::Receiver<Announcement>) -> Provisionals {
        Provisionals {
            client: self.client.clone(),
            params: Params { name: self.names.provisional.to_owned(), ..self.params.clone() },
            ca_bundle: self.ca_bundle.clone(),
            registered: self.registered.subscribe(),
            announcements,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut leadership = self.leadership.subscribe();
        let mut written = None;
        loop {
            let wait = if self.leadership.is_leader() { self.follow(&mut written).await } else { REAPPLY };
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
    async fn follow(&mut self, written: &mut Option<Written>) -> Duration {
        let served = Arc::clone(&self.served.borrow_and_update());
        let ca_bundle = self.ca_bundle.borrow_and_update().clone();
        // Without a complete list an empty one would remove the webhook.
        if !served.complete {
            return REAPPLY;
        }
        let is_same = |last: &Served| last.version == served.version && Arc::ptr_eq(&last.sets, &served.sets);
        if let Some((last, bundle, at)) = written
            && is_same(last)
            && *bundle == ca_bundle
            && let Some(left) = REAPPLY.checked_sub(at.elapsed())
        {
            return left;
        }
        self.params.ca_bundle.clone_from(&ca_bundle);
        if let Err(error) = self.apply(&served).await {
            tracing::warn!(%error, "the webhooks are not registered");
            return RETRY;
        }
        self.registered
            .send_if_modified(|known| std::mem::replace(known, Arc::clone(&served)).version != served.version);
        *written = Some((served, ca_bundle, Instant::now()));
        REAPPLY
    }

    async fn apply(&self, served: &Served) -> Result<(), CallError> {
        let Names { pods, sets, .. } = self.names;
        let params = |name: &str| Params { name: name.to_owned(), ..self.params.clone() };
        let apply = PatchParams::apply(keys::MANAGER).force();
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let wanted = Patch::Apply(set_webhook(&params(sets)));
        self.write("apply", sets, api.patch(sets, &apply, &wanted)).await?;
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        if let Some(wanted) = pod_webhooks(&served.sets, served.version, &params(pods)) {
            self.write("apply", pods, api.patch(pods, &apply, &Patch::Apply(wanted))).await?;
            return Ok(());
        }
        match self.write("delete", pods, api.delete(pods, &DeleteParams::default())).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn write<T>(
        &self,
        action: &'static str,
        name: &str,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        self.leadership.write(action, || name.to_owned(), WRITE_TIMEOUT, call).await
    }
}

/// Removes all configurations: an operator outside the cluster that stops must not leave a webhook that nobody answers.
pub(crate) async fn unregister(client: &Client, names: Names) {
    let pods: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let sets: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let params = DeleteParams::default();
    let Names { pods: all, provisional: new, sets: checks } = names;
    let deletions = (pods.delete(all, &params), pods.delete(new, &params), sets.delete(checks, &params));
    let deleted = tokio::join!(deletions.0, deletions.1, deletions.2);
    for (name, result) in [(all, deleted.0.map(drop)), (new, deleted.1.map(drop)), (checks, deleted.2.map(drop))] {
        match result {
            Ok(()) => tracing::info!(name, "the webhooks are unregistered"),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                tracing::error!(name, %error, "the webhooks cannot be unregistered; delete the configuration by hand");
            }
        }
    }
}
