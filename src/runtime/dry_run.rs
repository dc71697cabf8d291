//! Asks the API server whether any pod may have the sidecars of a set. Nothing is stored.

use std::time::Duration;

use axum::http::Request;
use kube::Client;
use kube::core::Status;
use serde_json::Value;
use tokio::time::timeout;

use crate::api::keys;
use crate::api::validate::{FieldError, Problems, ValidSidecarSet};
use crate::core::inject::dry_run::{SmallPod, Verdict, small_pods, small_pods_of_jobs};

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
    timeout(TIMEOUT, try_pods(client, valid)).await.unwrap_or_else(late)
}

async fn try_pods(client: &Client, valid: &ValidSidecarSet) -> Verdict {
    let of_jobs = small_pods_of_jobs(valid);
    match try_all(client, valid, small_pods(valid)).await {
        Verdict::Valid if !of_jobs.is_empty() => try_all(client, valid, of_jobs).await,
        verdict => verdict,
    }
}

/// A set that only some pods may have is valid; of one that none may have, the plainest pod says best what is wrong.
async fn try_all(client: &Client, valid: &ValidSidecarSet, pods: Vec<SmallPod>) -> Verdict {
    let mut refused = None;
    let spec = &valid.set().spec;
    for small in pods {
        let verdict = match create(client, keys::DRY_RUN_NAMESPACE, None, &small.pod).await {
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

/// A namespace of a tenant, in which pods are tried as a user that nobody may be unless `config/dry_run_tenants` is applied.
pub(crate) struct Tenant<'a> {
    pub(crate) client: &'a Client,
    /// Namespace of the operator.
    pub(crate) operator: &'a str,
    pub(crate) namespace: &'a str,
}

/// What the API server says to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Created,
    Refused(String),
}

impl Tenant<'_> {
    /// `None`: it may not be asked, or cannot tell now.
    pub(crate) async fn ask(&self, pod: &Value) -> Option<Answer> {
        let user = format!("system:serviceaccount:{}:sidecarset-dry-run", self.operator);
        match timeout(TIMEOUT, create(self.client, self.namespace, Some(&user), pod)).await.ok()? {
            Ok(_) => Some(Answer::Created),
            Err(kube::Error::Api(status)) => refuses(&status).then(|| Answer::Refused(status.message.clone())),
            Err(_) => None,
        }
    }
}

/// Whether it is the pod that is refused, and not the question.
fn refuses(status: &Status) -> bool {
    match status.code {
        // The words of RBAC, which differ in what follows: `cannot impersonate-on:serviceaccount:create resource`.
        403 => !status.message.contains("is forbidden: User \""),
        400 | 422 => true,
        _ => false,
    }
}

/// Creates a pod, but for storing it. `user`: as whom, if not as the operator.
pub(crate) async fn create(client: &Client, namespace: &str, user: Option<&str>, pod: &Value) -> kube::Result<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict");
    let mut request = Request::post(path).header("content-type", "application/json");
    if let Some(user) = user {
        request = request.header("impersonate-user", user);
    }
    let request = request.body(pod.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_that_is_not_allowed_says_nothing_of_the_pod() {
        let user = "User \"system:serviceaccount:sidecarset-system:sidecarset-operator\"";
        for (code, message, expected) in [
            (403, "pods \"web-x\" is forbidden: violates PodSecurity \"restricted:latest\": …".to_owned(), true),
            (422, "Pod \"web-x\" is invalid: spec: wrong".to_owned(), true),
            (400, "admission webhook \"w\" denied the request: no".to_owned(), true),
            (403, format!("pods is forbidden: {user} cannot create resource \"pods\" in API group \"\""), false),
            (
                403,
                format!("serviceaccounts \"s\" is forbidden: {user} cannot impersonate resource \"serviceaccounts\""),
                false,
            ),
            (
                403,
                format!("pods is forbidden: {user} cannot impersonate-on:serviceaccount:create resource \"pods\""),
                false,
            ),
            (404, "namespaces \"n\" not found".to_owned(), false),
            (429, "too many requests".to_owned(), false),
            (500, "Internal error occurred: failed calling webhook \"w\"".to_owned(), false),
        ] {
            let status = serde_json::from_value(json!({"code": code, "message": message})).unwrap();
            assert_eq!(refuses(&status), expected, "{code} {message}");
        }
    }
}
