//! The webhook on pods with the sets of one pair.

#[path = "../webhook/alone.rs"]
mod alone;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;
use sidecarset::api::validate::{ValidSidecarSet, validate};
use sidecarset::core::inject::{CompiledSet, CompiledSets, Served};
use sidecarset::core::revision::History;
use tokio::sync::{Mutex, watch};
use tower::ServiceExt;

/// One for all pairs, one pair at a time.
pub struct Webhook {
    router: Router,
    sender: Mutex<watch::Sender<Arc<Served>>>,
}

/// What the webhook did.
#[derive(Clone, Debug)]
pub struct Injected {
    /// The pod that it made.
    pub pod: Value,
    /// `set=Reason`, separated by commas.
    pub audit: String,
}

impl Injected {
    /// True if all sets are in.
    pub fn is_complete(&self) -> bool {
        !self.audit.is_empty() && self.audit.split(',').all(|outcome| outcome.ends_with("=Injected"))
    }
}

impl Webhook {
    pub fn start() -> Self {
        let (sender, served) = watch::channel(Arc::default());
        let pods = alone::pods(served);
        Self { router: alone::router(pods), sender: Mutex::new(sender) }
    }

    /// The pod with the sidecars of these sets; `Err` if the webhook refuses it.
    pub async fn inject(&self, sets: &[ValidSidecarSet], pod: &Value) -> Result<Injected, String> {
        let compiled = sets.iter().map(|set| Arc::new(CompiledSet::new(set, &History::new())));
        let served = Served {
            complete: true,
            sets: Arc::new(CompiledSets::new(compiled)),
            specs: sets.to_vec(),
            ..Served::default()
        };
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "namespace": "default", "operation": "CREATE", "dryRun": true, "object": pod}});
        let request = Request::post("/mutate-pods/0").header("content-type", "application/json");
        let request = request.body(Body::from(review.to_string())).unwrap();
        let response = {
            let sender = self.sender.lock().await;
            sender.send_replace(Arc::new(served));
            self.router.clone().oneshot(request).await.unwrap()
        };
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if !status.is_success() || answer["response"]["allowed"] != true {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)));
        }
        let mut pod = pod.clone();
        if !answer["response"]["patch"].is_null() {
            let patch: ByteString = serde_json::from_value(answer["response"]["patch"].clone()).unwrap();
            let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
            json_patch::patch(&mut pod, &patch).map_err(|error| format!("the patch does not apply: {error}"))?;
        }
        let audit = answer["response"]["auditAnnotations"]["injection"].as_str().unwrap_or_default().to_owned();
        Ok(Injected { pod, audit })
    }
}

/// The set, if `validate` takes it.
pub fn valid(set: &Value) -> Result<ValidSidecarSet, String> {
    let set: SidecarSet = serde_json::from_value(set.clone()).map_err(|error| error.to_string())?;
    validate(&set).map_err(|problems| problems.to_string())
}
