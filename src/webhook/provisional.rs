//! Registers the pods of a set before the set is stored. Runs on every replica: each may be asked about a set.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::api::keys;
use crate::api::validate::ValidSidecarSet;
use crate::core::inject::Served;
use crate::core::inject::dry_run::is_of_later_admission;
use crate::core::registration::Params;
use crate::core::registration::provisional::{MAX_PROVISIONAL, Provisional, Renewed, is_denial, probe_pod, renewed};
use crate::runtime::call::{CallError, Cause, until};
use crate::runtime::dry_run;

/// How long a set waits for its registration. It takes 20 ms, and a second where etcd's disk is busy. The apiserver gives
/// the webhook on sets 5 s, of which 2 s are for the dry run.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sets that wait at a time.
const WAITING: usize = 1024;

/// How often a replica looks whether another has left entries.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// And whether those that it knows of are too old.
const END: Duration = Duration::from_secs(1);

/// Wait before what failed, or found no room, is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Wait before the apiserver is asked again whether it applies the entries; it takes some milliseconds.
const PROBE_AGAIN: Duration = Duration::from_millis(5);

/// Sets that pods wait for in vain at a time: a pod may match the entries of many, and waits for one after the other.
const MAX_IN_VAIN: usize = 3;

/// Sets that did not come while a pod waited for them. Nobody waits for them again, nor for others if they are many.
#[derive(Clone, Debug, Default)]
pub struct InVain(Arc<Mutex<Vec<(Provisional, Instant)>>>);

impl InVain {
    pub(super) fn is_hopeless(&self, set: &Provisional) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, since)| since.elapsed() < LOOK_AGAIN);
        all.len() >= MAX_IN_VAIN || all.iter().any(|(other, _)| other == set)
    }

    pub(super) fn remember(&self, set: &Provisional) {
        if !self.is_hopeless(set) {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.push((set.clone(), Instant::now()));
        }
    }
}

/// A set that is about to be stored.
#[derive(Debug)]
pub struct Announcement {
    set: ValidSidecarSet,
    done: oneshot::Sender<()>,
}

/// For the webhook on sets.
#[derive(Clone, Debug)]
pub struct Announcer(mpsc::Sender<Announcement>);

/// From the webhook on sets to the task that registers.
pub fn channel() -> (Announcer, mpsc::Receiver<Announcement>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Announcer(sender), receiver)
}

impl Announcer {
    /// Returns when the apiserver asks about the pods of this set, or a warning.
    pub(super) async fn announce(&self, set: &ValidSidecarSet) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let is_sent = self.0.try_send(Announcement { set: set.clone(), done }).is_ok();
        if is_sent && matches!(timeout(TIMEOUT, answer).await, Ok(Ok(()))) {
            return Ok(());
        }
        Err("pods that are created in this moment may miss the sidecars: the API server has not taken note of the selector yet".to_owned())
    }
}

/// The writer of the configuration; others are the same task of other replicas.
pub(crate) struct Provisionals {
    pub(super) client: Client,
    /// The CA bundle is filled in.
    pub(super) params: Params,
    pub(super) ca_bundle: watch::Receiver<Vec<u8>>,
    /// The sets that this replica has registered while it led.
    pub(super) registered: watch::Receiver<Arc<Served>>,
    pub(super) announcements: mpsc::Receiver<Announcement>,
}

impl Provisionals {
    /// Runs as long as sets can be announced. Those that are announced meanwhile are written together. In the beginning
    /// goes what has ended.
    pub(crate) async fn run(mut self) {
        let (mut waiting, mut wait) = (Vec::new(), Duration::ZERO);
        loop {
            tokio::select! {
                () = sleep(wait) => {}
                // At once: a set that is gone by the next look would seem never to have been stored.
                Ok(()) = self.registered.changed() => {}
                sets = self.announcements.recv_many(&mut waiting, MAX_PROVISIONAL) => if sets == 0 { return },
            }
            waiting.retain(|announcement: &Announcement| !announcement.done.is_closed());
            wait = self.renew(&mut waiting).await.unwrap_or_else(|error| {
                tracing::warn!(%error, sets = waiting.len(), "the pods of new sets are not registered");
                LOOK_AGAIN
            });
            if !waiting.is_empty() {
                wait = RETRY;
            }
        }
    }

    /// Returns when to look again.
    async fn renew(&mut self, waiting: &mut Vec<Announcement>) -> Result<Duration, CallError> {
        let deadline = Instant::now() + TIMEOUT;
        let Renewed { added, entries, .. } = loop {
            match self.write(waiting, deadline).await {
                // Another replica was faster.
                Err(error) if error.cause.is_lost_race() && Instant::now() < deadline => {}
                written => break written?,
            }
        };
        let added: Vec<Announcement> = waiting.drain(..added).collect();
        if let Some(any) = added.first()
            && self.is_in_effect(&any.set, deadline).await
        {
            for announcement in added {
                let _ = announcement.done.send(());
            }
        }
        Ok(if entries > 0 { END } else { LOOK_AGAIN })
    }

    async fn write(&mut self, waiting: &[Announcement], deadline: Instant) -> Result<Renewed, CallError> {
        let name = self.params.name.clone();
        let call_error = |action| {
            let object = name.clone();
            move |cause| CallError { action, object, cause }
        };
        self.params.ca_bundle.clone_from(&self.ca_bundle.borrow_and_update());
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let current = until(deadline, api.get_opt(&name)).await.map_err(call_error("read"))?;
        let new: Vec<&ValidSidecarSet> = waiting.iter().map(|announcement| &announcement.set).collect();
        let registered = Arc::clone(&self.registered.borrow());
        let now = Timestamp::now().as_second();
        let renewed = renewed(current.as_ref(), &new, &registered, now, &self.params);
        if let Some(wanted) = &renewed.configuration {
            self.replace(current.as_ref(), wanted, deadline).await.map_err(call_error("write"))?;
        }
        Ok(renewed)
    }

    /// Writes what is wanted over what was read, and nothing else. Without entries there is no configuration.
    async fn replace(
        &self,
        current: Option<&MutatingWebhookConfiguration>,
        wanted: &MutatingWebhookConfiguration,
        deadline: Instant,
    ) -> Result<(), Cause> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let name = &self.params.name;
        match current {
            None => until(deadline, api.create(&PostParams::default(), wanted)).await.map(drop),
            Some(_) if wanted.webhooks.is_some() => {
                // Of the version that was read.
                let (params, patch) = (PatchParams::default(), Patch::Merge(wanted));
                until(deadline, api.patch(name, &params, &patch)).await.map(drop)
            }
            Some(current) => {
                let same = Preconditions { resource_version: current.resource_version(), uid: current.uid() };
                let params = DeleteParams::default().preconditions(same);
                until(deadline, api.delete(name, &params)).await.map(drop)
            }
        }
    }

    /// Waits until the apiserver applies what was written, the entry of this set among it: its cache is behind the object.
    async fn is_in_effect(&self, set: &ValidSidecarSet, deadline: Instant) -> bool {
        let (pod, started, mut last) = (probe_pod(set), Instant::now(), String::from("none"));
        let denied = async {
            loop {
                match dry_run::create(&self.client, keys::DRY_RUN_NAMESPACE, None, &pod).await {
                    Err(kube::Error::Api(status)) if is_denial(&status.message) => return,
                    // Not yet: the webhook was not called, and the quota of that namespace lets nobody in.
                    Err(kube::Error::Api(status)) if is_of_later_admission(&status.message) => {
                        "it has no webhook for them".clone_into(&mut last);
                    }
                    answer => last = answer.map_or_else(|error| error.to_string(), |_| "created".to_owned()),
                }
                sleep(PROBE_AGAIN).await;
            }
        };
        let is_in_effect = timeout_at(deadline, denied).await.is_ok();
        let (set, elapsed) = (set.name(), started.elapsed());
        if is_in_effect {
            tracing::debug!(set, ?elapsed, "the pods of new sets are registered");
        } else {
            tracing::warn!(
                set,
                ?elapsed,
                answer = last,
                "the API server does not apply the registration of new sets in time"
            );
        }
        is_in_effect
    }
}
