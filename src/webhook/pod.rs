//! The webhook on pods: reads the review, lets the pure core decide, and answers.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
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
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::api::SidecarSet;
use crate::api::reasons::Reason;
use crate::core::inject::{Injection, Outcome, Request, Served, inject};
use crate::runtime::call::{CallError, until};
use crate::runtime::events::{Events, Note};
use crate::runtime::metrics::Metrics;
use crate::runtime::namespaces::Namespaces;

/// How long a replica that is behind the registration waits before it gives up; failurePolicy applies then.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How long a namespace that the cache does not know may take to be read.
const NAMESPACE_TIMEOUT: Duration = Duration::from_millis(500);

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
}

/// The part of an `AdmissionReview` that is used; the object stays raw.
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
    dry_run: bool,
    pub(super) object: T,
    #[serde(default = "Option::default")]
    pub(super) old_object: Option<T>,
}

/// A pod as the apiserver sent it, without `metadata.managedFields`: nobody here reads or patches them, they are a large
/// part of the review, and the only part of a pod that may be nested deeper than `serde_json` reads (128 levels).
#[derive(Clone, Debug)]
struct RawPod(Value);

impl Deref for RawPod {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl<'de> Deserialize<'de> for RawPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Without(&["metadata", "managedFields"]).deserialize(deserializer).map(Self)
    }
}

/// An object without the member at a path.
struct Without(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Without {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Without {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = match self.0 {
                [first, rest @ ..] if key == *first => {
                    if rest.is_empty() {
                        members.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    members.next_value_seed(Without(rest))?
                }
                _ => members.next_value()?,
            };
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Why a review gets no answer; the apiserver applies failurePolicy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The body is no review of a pod.
    #[error("not an AdmissionReview of a pod: {0}")]
    Body(#[from] serde_json::Error),
    /// This replica has not seen all sets that are registered.
    #[error("this replica has not seen version {wanted} of the SidecarSets yet")]
    Behind { wanted: u64 },
    #[error(transparent)]
    Namespace(#[from] CallError),
}

impl axum::response::IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        let status = match self {
            Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Behind { .. } | Self::Namespace(_) => StatusCode::SERVICE_UNAVAILABLE,
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
    let Review { request } = serde_json::from_slice::<Review<RawPod>>(&body)?;
    let served = caught_up(pods.served.clone(), version).await?;
    let labels = namespace_labels(&pods, &request.namespace).await?;
    let (pod, namespace) = (&request.object, &request.namespace);
    let asked = Request { pod, namespace, namespace_labels: &labels, excluded: &pods.excluded };
    let injection = inject(&served.sets, &asked);
    for outcome in &injection.outcomes {
        let result = result(outcome.reason, injection.refused.is_some());
        pods.metrics.injection(&outcome.set, result, outcome.reason.as_str());
        if outcome.reason.is_failed_injection() && !request.dry_run {
            tell_owner(&pods.events, &request, outcome);
        }
    }
    pods.metrics.injection_duration.observe(started.elapsed().as_secs_f64());
    Ok(Json(answer(&request.uid, &injection)))
}

/// The sets, at least as new as the registration.
async fn caught_up(mut served: watch::Receiver<Arc<Served>>, version: u64) -> Result<Arc<Served>, Error> {
    match timeout(CATCH_UP, served.wait_for(|served| served.seen >= version)).await {
        Ok(Ok(served)) => Ok(Arc::clone(&served)),
        _ => Err(Error::Behind { wanted: version }),
    }
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
fn tell_owner(events: &Events, request: &ReviewRequest<RawPod>, outcome: &Outcome) {
    let owners = request.object["metadata"]["ownerReferences"].as_array();
    let Some(owner) = owners.into_iter().flatten().find(|owner| owner["controller"] == true) else { return };
    let Ok(owner) = ObjectReference::deserialize(owner) else { return };
    let about = ObjectReference { namespace: Some(request.namespace.clone()), ..owner };
    let message = format!("SidecarSet {:?}: {}", outcome.set, outcome.message);
    events.publish(Note {
        to_top_owner: true,
        related: Some(ObjectRef::<SidecarSet>::new(&outcome.set).into()),
        ..Note::new(about, outcome.reason, "Inject", message)
    });
}

/// What people should know. That all went well is said by the metric and the audit annotation only: a warning for it
/// would teach them not to read warnings.
fn warnings(outcome: &Outcome, injection: &Injection) -> Vec<String> {
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

fn answer(uid: &str, injection: &Injection) -> Value {
    let warnings: Vec<String> = injection.outcomes.iter().flat_map(|outcome| warnings(outcome, injection)).collect();
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
