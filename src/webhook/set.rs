//! The webhook on sets: what the schema and its CEL rules cannot say.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::pod::{Review, review};
use crate::api::SidecarSet;
use crate::api::validate::{FieldError, conflicts, validate_with};
use crate::core::inject::{Served, unknown_revision};

/// How long a set that this one needs may take to be seen: `kubectl apply` writes both within milliseconds.
const CATCH_UP: Duration = Duration::from_millis(500);

/// `POST /validate-sidecarsets`.
pub async fn check(
    State(mut served): State<watch::Receiver<Arc<Served>>>,
    body: Bytes,
) -> Result<Json<Value>, (StatusCode, String)> {
    let Review { request } = serde_json::from_slice::<Review<SidecarSet>>(&body)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("not an AdmissionReview of a SidecarSet: {error}")))?;
    let set = &request.object;
    // Whoever removes a finalizer or a label need not mend the spec first.
    if request.old_object.is_some_and(|old| old.spec == set.spec && old.annotations() == set.annotations()) {
        return Ok(Json(review(json!({"uid": request.uid, "allowed": true}))));
    }
    let mut report = validate_with(set, &served.borrow().allowed);
    if report.errors.is_empty() {
        let _ = timeout(CATCH_UP, served.wait_for(|served| with_others(set, served).is_empty())).await;
        report.errors = with_others(set, &served.borrow());
    }
    let mut response = json!({"uid": request.uid, "allowed": report.errors.is_empty(), "warnings": report.warnings});
    if let Some(message) = report.message() {
        let message = format!("SidecarSet {:?} is invalid: {message}", set.name_any());
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    }
    Ok(Json(review(response)))
}

/// What is wrong with a set that is valid by itself, next to those that are served.
fn with_others(set: &SidecarSet, served: &Served) -> Vec<FieldError> {
    // Only sets that are served are valid by themselves.
    let valid = served.specs.iter().filter(|other| served.sets.get(&other.name_any()).is_some());
    let mut errors = conflicts(set, valid.map(AsRef::as_ref));
    let unknown = unknown_revision(set, served.sets.get(&set.name_any()).map(AsRef::as_ref));
    errors.extend(unknown.map(|message| FieldError::new("spec.injectionStrategy.revision", message)));
    errors
}
