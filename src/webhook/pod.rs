//! The webhook on pods: reads the review, lets the pure core decide, and answers.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::limits::LARGE;
use super::provisional::InVain;
use super::raw_pod::{MAX_VALUES, RawPod};
use crate::api::SidecarSet;
use crate::api::reasons::Reason;
use crate::core::base::controller::controller;
use crate::core::inject::{Injection, Outcome, Request, Served, inject};
use crate::core::registration::provisional::Provisional;
use crate::runtime::call::{CallError, until};
use crate::runtime::events::{Events, Note};
use crate::runtime::metrics::Metrics;
use crate::runtime::namespaces::Namespaces;

/// How long a replica that is behind the registration waits before it gives up; failurePolicy applies then.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How long a namespace that the cache does not know may take to be read.
const NAMESPACE_TIMEOUT: Duration = Duration::from_millis(500);

/// Each may take some 30 MB of memory.
const LARGE_AT_ONCE: usize = 2;

/// What the handler needs.
#[derive(Clone)]
pub struct Pods {
    /// What to inject.
    pub served: watch::Receiver<Arc<Served>>,
    /// Labels of namespaces.
    pub namespaces: Namespaces,
    /// Namespaces that no set reaches.
    pub excluded: Arc<[String]>,
    /// Reads a namespace that is new.
    pub client: Client,
    /// Counts decisions.
    pub metrics: Metrics,
    /// Tells the owner of a pod what it did not get.
    pub events: Events,
    /// Large reviews that are decided at a time.
    pub large: Large,
    /// Sets that were announced and did not come.
    pub in_vain: InVain,
}

/// Room for the decisions of large reviews, on threads of their own: small ones need not wait for them. Clones share it.
#[derive(Clone, Debug)]
pub struct Large(Arc<Semaphore>);

impl Default for Large {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_AT_ONCE)))
    }
}

/// The part of an `AdmissionReview` that is used.
#[derive(Deserialize)]
pub(super) struct Review<T> {
    pub(super) request: ReviewRequest<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReviewRequest<T> {
    pub(super) uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    pub(super) dry_run: bool,
    pub(super) object: T,
    #[serde(default = "Option::default")]
    pub(super) old_object: Option<T>,
}

/// Why a review gets no answer; the apiserver applies failurePolicy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The body is no review of a pod.
    #[error("not an AdmissionReview of a pod: {0}")]
    Body(#[from] serde_json::Error),
    /// It would take too much memory.
    #[error("the pod has more than {MAX_VALUES} values: too many to be looked at")]
    TooManyValues,
    /// This replica has not seen all sets that are registered.
    #[error("this replica has not seen {0} yet")]
    Behind(String),
    #[error(transparent)]
    Namespace(#[from] CallError),
}

impl axum::response::IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        let status = match self {
            Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::TooManyValues => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Behind(_) | Self::Namespace(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        tracing::warn!(error = %self, "a pod is not reviewed");
        (status, self.to_string()).into_response()
    }
}

/// `POST /mutate-pods/<version>`.
pub(crate) async fn mutate(
    State(pods): State<Pods>,
    Path(version): Path<u64>,
    body: Bytes,
) -> Result<Json<Value>, Error> {
    let started = Instant::now();
    let served = caught_up(&pods, CATCH_UP, |served| served.seen >= version).await;
    let served = served.ok_or_else(|| Error::Behind(format!("version {version} of the SidecarSets")))?;
    answered(pods, served, body, None, started).await
}

/// `POST /mutate-pods/provisional/…`. A set that is not stored refuses nobody.
pub(crate) async fn mutate_provisionally(
    State(pods): State<Pods>,
    Path(provisional): Path<Provisional>,
    body: Bytes,
) -> Result<Json<Value>, Error> {
    let started = Instant::now();
    let wait = if pods.in_vain.is_hopeless(&provisional) { Duration::ZERO } else { CATCH_UP };
    if let Some(served) = caught_up(&pods, wait, |served| provisional.is_known(served)).await {
        return answered(pods, served, body, None, started).await;
    }
    pods.in_vain.remember(&provisional);
    let served = Arc::clone(&pods.served.borrow());
    if !served.complete {
        return Err(Error::Behind("all SidecarSets".to_owned()));
    }
    let warning = format!("SidecarSet {:?} is not injected as it was announced: it is not stored", provisional.set);
    answered(pods, served, body, Some(warning), started).await
}

/// `POST /mutate-pods/probe`: says no, so that the one who asks knows that he is asked about.
pub(crate) async fn probe(body: Bytes) -> Result<Json<Value>, Error> {
    let Review { request } = serde_json::from_slice::<Review<IgnoredAny>>(&body)?;
    let status = json!({"message": "the registration is in effect"});
    Ok(Json(review(json!({"uid": request.uid, "allowed": false, "status": status}))))
}

async fn answered(
    pods: Pods,
    served: Arc<Served>,
    body: Bytes,
    warning: Option<String>,
    started: Instant,
) -> Result<Json<Value>, Error> {
    // The pod is read last: while this waits for others, all that is held is the body.
    let Review { request } = serde_json::from_slice::<Review<IgnoredAny>>(&body)?;
    let labels = namespace_labels(&pods, &request.namespace).await?;
    let (large, duration) = (pods.large.clone(), pods.metrics.injection_duration.clone());
    let is_large = body.len() > LARGE;
    let decide = move || decide(&pods, &served, &labels, &body, warning);
    let answer = if is_large { large.run(decide).await } else { decide() };
    duration.observe(started.elapsed().as_secs_f64());
    answer.map(Json)
}

impl Large {
    async fn run<T: Send + 'static>(&self, decide: impl FnOnce() -> T + Send + 'static) -> T {
        // It is never closed.
        let room = Arc::clone(&self.0).acquire_owned().await;
        // The room is held until the decision is made, also if nobody waits for it any more.
        let decided = spawn_blocking(move || (decide(), drop(room)).0).await;
        decided.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }
}

fn decide(
    pods: &Pods,
    served: &Served,
    labels: &BTreeMap<String, String>,
    body: &[u8],
    warning: Option<String>,
) -> Result<Value, Error> {
    let Review { request } = serde_json::from_slice::<Review<RawPod>>(body)?;
    let pod = request.object.0.as_ref().ok_or(Error::TooManyValues)?;
    let asked = Request { pod, namespace: &request.namespace, namespace_labels: labels, excluded: &pods.excluded };
    let injection = inject(&served.sets, &asked);
    for outcome in &injection.outcomes {
        let result = result(outcome.reason, injection.refused.is_some());
        pods.metrics.injection(&outcome.set, result, outcome.reason.as_str());
        if outcome.reason.is_failed_injection() && !request.dry_run {
            tell_owner(&pods.events, pod, &request.namespace, outcome);
        }
    }
    let warnings = injection.outcomes.iter().flat_map(|outcome| warnings_of(outcome, &injection));
    let warnings: Vec<String> = warning.into_iter().chain(warnings).collect();
    Ok(answer(&request.uid, &injection, &warnings))
}

/// The sets, when they are as new as is needed.
async fn caught_up(pods: &Pods, wait: Duration, is_new: impl Fn(&Served) -> bool) -> Option<Arc<Served>> {
    let mut served = pods.served.clone();
    let served = timeout(wait, served.wait_for(|served| is_new(served))).await.ok()?;
    Some(Arc::clone(&*served.ok()?))
}

async fn namespace_labels(pods: &Pods, name: &str) -> Result<Arc<BTreeMap<String, String>>, Error> {
    if let Some(labels) = pods.namespaces.get(name) {
        return Ok(labels);
    }
    let api: Api<Namespace> = Api::all(pods.client.clone());
    let read = until(Instant::now() + NAMESPACE_TIMEOUT, api.get_metadata(name)).await;
    let read = read.map_err(|cause| CallError { action: "read", object: format!("namespace {name}"), cause })?;
    Ok(Arc::new(read.metadata.labels.unwrap_or_default()))
}

fn result(reason: Reason, refused: bool) -> &'static str {
    match reason {
        Reason::Injected | Reason::AlreadyInjected => "injected",
        _ if refused => "refused",
        _ => "skipped",
    }
}

/// The event is queued; nothing is written before the answer. A pod without a controller does not exist yet, and may
/// never: the look for pods without sidecars reports it.
fn tell_owner(events: &Events, pod: &Value, namespace: &str, outcome: &Outcome) {
    let Some(owner) = controller(pod) else { return };
    let Ok(owner) = ObjectReference::deserialize(owner) else { return };
    let about = ObjectReference { namespace: Some(namespace.to_owned()), ..owner };
    let message = format!("SidecarSet {:?}: {}", outcome.set, outcome.message);
    events.publish(Note {
        to_top_owner: true,
        related: Some(ObjectRef::<SidecarSet>::new(&outcome.set).into()),
        ..Note::new(about, outcome.reason, "Inject", message)
    });
}

/// What people should know. That all went well is said by the metric and the audit annotation only: a warning for it
/// would teach them not to read warnings.
fn warnings_of(outcome: &Outcome, injection: &Injection) -> Vec<String> {
    let Outcome { set, reason, message, notes } = outcome;
    match reason {
        // The refusal says it all.
        _ if injection.refused.is_some() => Vec::new(),
        Reason::Injected | Reason::AlreadyInjected => {
            notes.iter().map(|note| format!("SidecarSet {set:?}: {note}")).collect()
        }
        Reason::Removed => vec![format!("SidecarSet {set:?} is removed: {message} ({reason})")],
        _ => vec![format!("SidecarSet {set:?} is not injected: {message} ({reason})")],
    }
}

fn answer(uid: &str, injection: &Injection, warnings: &[String]) -> Value {
    let audit = injection.outcomes.iter().map(|outcome| format!("{}={}", outcome.set, outcome.reason));
    let audit = audit.collect::<Vec<_>>().join(",");
    let mut response = json!({"uid": uid, "allowed": injection.refused.is_none(), "warnings": warnings});
    if !audit.is_empty() {
        response["auditAnnotations"] = json!({"injection": audit});
    }
    if let Some(message) = &injection.refused {
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    } else if !injection.patch.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(ByteString(json!(injection.patch).to_string().into_bytes()));
    }
    review(response)
}

pub(super) fn review(response: Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}
