//! One request to evict a pod, and what the answer says.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use kube::core::Status;
use serde_json::json;

use super::context::Context;
use super::error::Error;
use crate::core::pod::PodKey;

/// Through the Eviction API, so that `PodDisruptionBudgets` decide.
pub(super) async fn evict(context: &Context, pod: &PodKey, uid: &str) -> Result<Answer, Error> {
    // Not `Api::evict`: it misspells deleteOptions, and the apiserver would evict a later pod of that name.
    let body = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod.name, "namespace": pod.namespace},
        "deleteOptions": {"preconditions": {"uid": uid}},
    });
    let api: Api<Pod> = Api::namespaced(context.clients.call.clone(), &pod.namespace);
    let params = PostParams::default();
    let call = api.create_subresource::<_, Status>("eviction", &pod.name, &params, &body);
    match context.write("evict", || format!("pod {pod}"), call).await {
        Ok(_) => Ok(Answer::Evicted),
        Err(Error::Api { source, .. }) => Ok(verdict(&source)),
        Err(Error::NotLeader) => Err(Error::NotLeader),
        Err(error) => Ok(Answer::Unknown(error.to_string())),
    }
}

/// What the apiserver said to a request to evict a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Evicted,
    /// The pod is gone, or another one has its name.
    Gone,
    /// A `PodDisruptionBudget` does not allow it now.
    Blocked(String),
    /// It will not be evicted.
    Refused(String),
    /// It may have been evicted.
    Unknown(String),
}

impl Answer {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Gone => "gone",
            Self::Blocked(_) => "blocked",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }

    pub(super) fn why(self) -> Option<String> {
        match self {
            Self::Evicted | Self::Gone => None,
            Self::Blocked(why) | Self::Refused(why) | Self::Unknown(why) => Some(why),
        }
    }
}

fn verdict(error: &kube::Error) -> Answer {
    let kube::Error::Api(status) = error else { return Answer::Unknown(error.to_string()) };
    // The budget is named in the causes.
    let causes = status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.message.as_str());
    let text = std::iter::once(status.message.as_str()).chain(causes).collect::<Vec<_>>().join(" ");
    match status.code {
        404 | 409 => Answer::Gone,
        429 => Answer::Blocked(text),
        // 500 is the answer where two budgets select one pod.
        503 | 504 => Answer::Unknown(text),
        _ => Answer::Refused(text),
    }
}
