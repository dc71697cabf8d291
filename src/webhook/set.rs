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
use crate::api::validate::{FieldError, Report, conflicts, validate_with};
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
    let old = request.old_object.as_ref();
    if old.is_some_and(|old| old.spec == set.spec && old.annotations() == set.annotations()) {
        return Ok(Json(review(json!({"uid": request.uid, "allowed": true}))));
    }
    let mut report = validate_with(set, &served.borrow().allowed);
    if report.errors.is_empty() {
        let fine = served.wait_for(|served| with_others(set, served).is_empty());
        if matches!(timeout(CATCH_UP, fine).await, Ok(Ok(_))) {
            return Ok(Json(answer(set, &request.uid, &report)));
        }
        let served = served.borrow();
        // What was wrong before this change, such as a set that is gone, must not keep a mended image out.
        let before = old.map(|old| with_others(old, &served)).unwrap_or_default();
        let (known, new) = with_others(set, &served).into_iter().partition(|error| before.contains(error));
        report.errors = new;
        report.warnings.extend(known.iter().map(|error: &FieldError| error.to_string()));
    }
    Ok(Json(answer(set, &request.uid, &report)))
}

fn answer(set: &SidecarSet, uid: &str, report: &Report) -> Value {
    let mut response = json!({"uid": uid, "allowed": report.errors.is_empty(), "warnings": report.warnings});
    if let Some(message) = report.message() {
        let message = format!("SidecarSet {:?} is invalid: {message}", set.name_any());
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    }
    review(response)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::validate::Allowed;
    use crate::core::inject::{CompiledSet, CompiledSets};
    use crate::core::revision::History;

    fn set(name: &str, image: &str, depends_on: &[&str]) -> Value {
        json!({
            "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": name, "image": image, "dependsOn": depends_on}]},
        })
    }

    async fn answer(served: &[&Value], old: &Value, new: &Value) -> Value {
        let specs: Vec<SidecarSet> = served.iter().map(|set| serde_json::from_value((*set).clone()).unwrap()).collect();
        let compiled = specs.iter().map(|set| Arc::new(CompiledSet::new(set, &History::new()).unwrap()));
        let served = Served {
            complete: true,
            sets: Arc::new(CompiledSets::new(compiled)),
            specs: specs.iter().cloned().map(Arc::new).collect(),
            allowed: Arc::new(Allowed::default()),
            ..Served::default()
        };
        let review = json!({"request": {"uid": "1", "object": new, "oldObject": old}});
        let (_sender, receiver) = watch::channel(Arc::new(served));
        check(State(receiver), Bytes::from(review.to_string())).await.unwrap().0["response"].clone()
    }

    #[tokio::test]
    async fn what_was_wrong_before_does_not_stand_in_the_way_of_a_new_image() {
        // The set that it depends on has been deleted.
        let (old, new) = (set("client", "c:bad", &["proxy"]), set("client", "c:1", &["proxy"]));
        let response = answer(&[&old], &old, &new).await;
        assert_eq!(response["allowed"], true, "{response}");
        assert!(response["warnings"][0].as_str().unwrap().contains("proxy"), "{response}");
        let worse = set("client", "c:1", &["proxy", "other"]);
        assert_eq!(answer(&[&old], &old, &worse).await["allowed"], false);
    }
}
