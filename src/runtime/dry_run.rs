//! Asks the API server whether any pod may have the sidecars of a set. Nothing is stored.

use std::time::Duration;

use axum::http::Request;
use kube::Client;
use serde_json::Value;
use tokio::time::timeout;

use crate::api::keys;
use crate::api::validate::{FieldError, Problems, ValidSidecarSet};
use crate::core::inject::dry_run::{Verdict, small_pods};

/// Longest wait for all answers together: the API server gives the webhook on sets 5 s.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the API server has against the sidecars of a set that is about to be written. What it has against the old ones,
/// too, is a warning: it must not keep a mended image out.
pub(crate) async fn problems(client: &Client, valid: &ValidSidecarSet, old: Option<&ValidSidecarSet>) -> Problems {
    let errors = match ask(client, valid).await {
        Verdict::Valid => return Problems::default(),
        Verdict::Refused(errors) => errors,
        Verdict::Unchecked(why) => {
            let warnings = vec![format!("the API server has not checked the sidecars: {why}")];
            return Problems { errors: Vec::new(), warnings };
        }
    };
    let before = match old {
        Some(old) => ask(client, old).await,
        None => Verdict::Valid,
    };
    let is_known = |error: &FieldError| matches!(&before, Verdict::Refused(before) if before.contains(error));
    let (known, errors): (Vec<_>, Vec<_>) = errors.into_iter().partition(is_known);
    Problems { errors, warnings: known.iter().map(ToString::to_string).collect() }
}

/// What the API server says of a set that validation accepts.
pub(crate) async fn ask(client: &Client, valid: &ValidSidecarSet) -> Verdict {
    let late = |_| Verdict::Unchecked(format!("no answer within {} s", TIMEOUT.as_secs()));
    timeout(TIMEOUT, try_all(client, valid)).await.unwrap_or_else(late)
}

/// A set that only some pods may have is valid; of one that none may have, the plainest pod says best what is wrong.
async fn try_all(client: &Client, valid: &ValidSidecarSet) -> Verdict {
    let mut refused = None;
    let spec = &valid.set().spec;
    for small in small_pods(valid) {
        let verdict = match create(client, &small.pod).await {
            Ok(_) => small.verdict(spec, None),
            Err(kube::Error::Api(status)) => small.verdict(spec, Some(&status)),
            Err(error) => Verdict::Unchecked(error.to_string()),
        };
        match verdict {
            Verdict::Refused(_) => refused.get_or_insert(verdict),
            _ => return verdict,
        };
    }
    refused.unwrap_or_else(|| Verdict::Unchecked("no small pod can have the sidecars".to_owned()))
}

async fn create(client: &Client, pod: &Value) -> kube::Result<Value> {
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All&fieldValidation=Strict", keys::DRY_RUN_NAMESPACE);
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(pod.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}
