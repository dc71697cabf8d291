//! What the parts of the controller share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::cache::Cache;
use super::state::{SharedState, State};
use crate::api::{SidecarSet, keys};
use crate::core::pod::PodKey;
use crate::core::rollout::state::index::Index;
use crate::core::round::Unconfirmed;
use crate::runtime::call::{CallError, Cause};
use crate::runtime::client::Clients;
use crate::runtime::events::Events;
use crate::runtime::health::Readiness;
use crate::runtime::leader::Leadership;
use crate::runtime::metrics::Metrics;

pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a task that only a leader runs asks whether this is one.
pub(super) const NOT_LEADER: Duration = Duration::from_secs(1);

/// One that cannot be decoded must not break the watch of the others.
pub(super) type WatchedSet = DeserializeGuard<SidecarSet>;

pub(crate) struct Context {
    pub(super) clients: Clients,
    pub(super) settings: Settings,
    pub(super) writer: Writer,
    pub(super) cache: Cache,
    pub(super) metrics: Metrics,
    pub(super) events: Events,
    pub(super) shared: SharedState,
}

/// What does not change while the operator runs.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Of the operator's own objects.
    pub(crate) namespace: String,
    /// Namespaces besides [`keys::EXCLUDED_NAMESPACES`] that no set reaches.
    pub(crate) excluded: Arc<[String]>,
    /// Pods written at the same time.
    pub(crate) write_concurrency: usize,
    /// The apiserver lets resources of running pods be changed.
    pub(crate) can_resize: bool,
}

/// Who may write, and how much at a time.
pub(super) struct Writer {
    pub(super) leadership: Leadership,
    /// One per pod that is written, whatever the set.
    pub(super) permits: Semaphore,
    /// Counts the beginnings and the ends of leading, so it is odd while this replica leads.
    term: AtomicU64,
}

impl Writer {
    /// A leader that has read what the one before may have done: it may plan. A number that no other term has.
    pub(super) fn term(&self) -> Option<u64> {
        let term = self.term.load(Ordering::SeqCst);
        (term % 2 == 1 && self.leadership.is_leader()).then_some(term)
    }

    pub(super) fn begin_term(&self) {
        self.term.fetch_or(1, Ordering::SeqCst);
    }

    pub(super) fn end_term(&self) {
        let term = self.term.load(Ordering::SeqCst);
        self.term.store(term + term % 2, Ordering::SeqCst);
    }
}

impl Context {
    pub(crate) fn new(
        clients: Clients,
        settings: Settings,
        leadership: Leadership,
        cache: Cache,
        metrics: Metrics,
        events: Events,
        readiness: Readiness,
    ) -> Arc<Self> {
        let mut index = Index::default();
        index.set_can_resize(settings.can_resize);
        let permits = Semaphore::new(settings.write_concurrency);
        let writer = Writer { leadership, permits, term: AtomicU64::new(0) };
        Arc::new(Self { clients, settings, writer, cache, metrics, events, shared: SharedState::new(index, readiness) })
    }

    /// Never held across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    pub(super) fn enqueue(&self, sets: impl IntoIterator<Item = String>) {
        self.shared.queue.add(sets);
    }

    pub(super) fn is_active_leader(&self) -> bool {
        self.writer.term().is_some()
    }

    /// Runs one write: only while this replica leads, and ending before another may.
    pub(super) async fn write<T>(
        &self,
        action: &'static str,
        object: impl FnOnce() -> String,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        self.writer.leadership.write(action, object, WRITE_TIMEOUT, call).await
    }

    /// Changes the status of a set, and takes note of the answer.
    pub(super) async fn patch_status(&self, name: &str, patch: Value) -> Result<(), CallError> {
        let (api, params, patch) = (self.sets_api(), patch_params(), Patch::Merge(patch));
        let call = api.patch_status(name, &params, &patch);
        let written = self.write("patch status of", || format!("SidecarSet {name}"), call).await?;
        self.cache.apply_answer(written);
        Ok(())
    }

    /// Changes a pod's metadata.
    pub(super) async fn patch_metadata(
        &self,
        action: &'static str,
        key: &PodKey,
        metadata: Value,
    ) -> Result<(), CallError> {
        let api: Api<Pod> = Api::namespaced(self.clients.call.clone(), &key.namespace);
        let (params, patch) = (patch_params(), Patch::Merge(json!({"metadata": metadata})));
        let call = api.patch_metadata(&key.name, &params, &patch);
        self.write(action, || format!("pod {key}"), call).await.map(drop)
    }

    /// A set as the API has it: the cache may lag behind the last leader's writes.
    pub(super) async fn live_set(&self, name: &str) -> Result<Option<SidecarSet>, CallError> {
        self.sets_api().get_opt(name).await.map_err(CallError::api("get", format!("SidecarSet {name}")))
    }

    fn sets_api(&self) -> Api<SidecarSet> {
        Api::all(self.clients.call.clone())
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Call(CallError),
    /// The lease was lost: nothing may be written.
    #[error("this replica does not lead any more")]
    NotLeader,
    /// Nothing under the names that a revision may have is that revision.
    #[error(
        "all names that the ControllerRevision of SidecarSet {0} may have are taken by other data: delete those that this program ignores"
    )]
    NamesTaken(String),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        if matches!(error.cause, Cause::NotLeader) { Self::NotLeader } else { Self::Call(error) }
    }
}

impl Error {
    /// Name for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Call(CallError { cause: Cause::Timeout, .. }) => "timeout",
            Self::Call(_) => "api",
            Self::NotLeader => "not_leader",
            Self::NamesTaken(_) => "names_taken",
            Self::Unconfirmed(_) => "unconfirmed",
        }
    }
}

pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

pub(super) fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(keys::MANAGER.to_owned()), ..PatchParams::default() }
}
