//! The webhook on sets: what the schema and its CEL rules cannot say.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::pod::{Review, review};
use super::provisional::Announcer;
use crate::api::SidecarSet;
use crate::api::validate::{FieldError, Problems, ValidSidecarSet, conflicts, validate_with};
use crate::core::inject::{Served, unknown_revision};
use crate::core::registration::provisional::selects_others;
use crate::runtime::dry_run;

/// How long a set that this one needs may take to be seen: `kubectl apply` writes both within milliseconds.
const CATCH_UP: Duration = Duration::from_millis(500);

/// What the handler needs.
#[derive(Clone)]
pub struct Sets {
    /// What it is to go with.
    pub served: watch::Receiver<Arc<Served>>,
    /// Tries its sidecars on the API server.
    pub client: Client,
    /// Registers its pods before it is stored.
    pub announcer: Announcer,
}

/// `POST /validate-sidecarsets`.
pub(crate) async fn check(
    State(Sets { mut served, client, announcer }): State<Sets>,
    body: Bytes,
) -> Result<Json<Value>, (StatusCode, String)> {
    let Review { request } = serde_json::from_slice::<Review<SidecarSet>>(&body)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("not an AdmissionReview of a SidecarSet: {error}")))?;
    let set = Arc::new(request.object);
    // Whoever removes a finalizer or a label need not mend the spec first.
    let old = request.old_object.as_ref();
    if old.is_some_and(|old| old.spec == set.spec && old.annotations() == set.annotations()) {
        return Ok(Json(review(json!({"uid": request.uid, "allowed": true}))));
    }
    let allowed = Arc::clone(&served.borrow().allowed);
    let old = request.old_object.and_then(|old| validate_with(Arc::new(old), &allowed).ok());
    let problems = match validate_with(Arc::clone(&set), &allowed) {
        Ok(valid) => {
            let mut problems = beside_others(&valid, old.as_ref(), &mut served).await;
            if problems.errors.is_empty() {
                let Problems { errors, warnings } = dry_run::problems(&client, &valid, old.as_ref()).await;
                problems.errors = errors;
                problems.warnings.extend(warnings);
            }
            if problems.errors.is_empty() && !request.dry_run && selects_others(&valid, old.as_ref()) {
                problems.warnings.extend(announcer.announce(&valid).await.err());
            }
            problems
        }
        Err(problems) => problems,
    };
    Ok(Json(answer(&set, &request.uid, &problems)))
}

/// What stands against a set that is valid by itself.
async fn beside_others(
    valid: &ValidSidecarSet,
    old: Option<&ValidSidecarSet>,
    served: &mut watch::Receiver<Arc<Served>>,
) -> Problems {
    let mut warnings = valid.warnings().to_vec();
    let fine = served.wait_for(|served| with_others(valid, served).is_empty());
    if matches!(timeout(CATCH_UP, fine).await, Ok(Ok(_))) {
        return Problems { errors: Vec::new(), warnings };
    }
    let served = served.borrow();
    // What was wrong before this change, such as a set that is gone, must not keep a mended image out.
    let before = old.map(|old| with_others(old, &served)).unwrap_or_default();
    let (known, errors): (Vec<_>, Vec<_>) =
        with_others(valid, &served).into_iter().partition(|error| before.contains(error));
    warnings.extend(known.iter().map(ToString::to_string));
    Problems { errors, warnings }
}

fn answer(set: &SidecarSet, uid: &str, problems: &Problems) -> Value {
    let mut response = json!({"uid": uid, "allowed": problems.errors.is_empty(), "warnings": problems.warnings});
    if !problems.errors.is_empty() {
        let message = format!("SidecarSet {:?} is invalid: {problems}", set.name_any());
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    }
    review(response)
}

/// What is wrong with a set that is valid by itself, next to those that are served.
fn with_others(valid: &ValidSidecarSet, served: &Served) -> Vec<FieldError> {
    let mut errors = conflicts(valid, &served.specs);
    let unknown = unknown_revision(valid.set(), served.sets.get(valid.name()).map(AsRef::as_ref));
    errors.extend(unknown.map(|message| FieldError::new("spec.injectionStrategy.revision", message)));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::validate::{Allowed, validate};
    use crate::core::inject::{CompiledSet, CompiledSets};
    use crate::core::revision::History;

    fn set(name: &str, image: &str, depends_on: &[&str]) -> Value {
        json!({
            "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": name, "image": image, "dependsOn": depends_on}]},
        })
    }

    async fn answer(served: &[&Value], old: &Value, new: &Value) -> Value {
        let specs = served.iter().map(|set| validate(&serde_json::from_value((*set).clone()).unwrap()).unwrap());
        let specs: Vec<ValidSidecarSet> = specs.collect();
        let compiled = specs.iter().map(|set| Arc::new(CompiledSet::new(set, &History::new())));
        let served = Served {
            complete: true,
            sets: Arc::new(CompiledSets::new(compiled)),
            specs: specs.clone(),
            allowed: Arc::new(Allowed::default()),
            ..Served::default()
        };
        let review = json!({"request": {"uid": "1", "object": new, "oldObject": old}});
        let (_sender, served) = watch::channel(Arc::new(served));
        // Nobody answers there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let announcer = crate::webhook::provisional::channel().0;
        check(State(Sets { served, client, announcer }), Bytes::from(review.to_string())).await.unwrap().0["response"]
            .clone()
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
