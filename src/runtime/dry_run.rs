//! Asks the API server whether any pod may have the sidecars of a set. Nothing is stored.

use std::time::Duration;

use axum::http::Request;
use kube::Client;
use serde_json::Value;
use tokio::time::timeout;

use crate::api::keys;
use crate::api::validate::ValidSidecarSet;
use crate::core::inject::dry_run::{Verdict, read, small_pods};

/// Longest wait for all answers together: the API server gives the webhook on sets 5 s.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the API server says of a set that validation accepts.
pub(crate) async fn ask(client: &Client, valid: &ValidSidecarSet) -> Verdict {
    let late = |_| Verdict::Unchecked(format!("no answer within {} s", TIMEOUT.as_secs()));
    timeout(TIMEOUT, try_all(client, valid)).await.unwrap_or_else(late)
}

/// A set that only some pods may have is valid; of one that none may have, the plainest pod says best what is wrong.
async fn try_all(client: &Client, valid: &ValidSidecarSet) -> Verdict {
    let mut refused = None;
    for pod in small_pods(valid) {
        let verdict = match create(client, &pod).await {
            Ok(_) => Verdict::Valid,
            Err(kube::Error::Api(status)) => read(&valid.set().spec, &pod, &status),
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
