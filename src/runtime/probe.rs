//! What this cluster can do, asked once at the start.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use tokio::time::timeout;

use crate::api::keys;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the apiserver keeps `spec.resources` of a pod: a server where the feature is off drops the field. Asked by a
/// dry-run create. True if that is not known: a set is not refused for a guess.
pub(crate) async fn pod_level_resources(client: &Client, namespace: &str) -> bool {
    let pod = json!({
        "metadata": {"generateName": "sidecarset-probe-", "labels": {keys::INJECT: "false"}},
        "spec": {
            "resources": {"requests": {"cpu": "1m"}},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "probe", "image": "probe",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    });
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Ok(pod) = serde_json::from_value(pod) else { return true };
    let keeps = async {
        let answer = api.create(&params, &pod).await?;
        Ok(answer.spec.is_some_and(|spec| spec.resources.is_some()))
    };
    or_yes("the cluster has pod-level resources", keeps).await
}

/// As `has_resize`. True if that is not known, as no pod is evicted for a guess.
pub(crate) async fn resize(client: &Client) -> bool {
    or_yes("running pods can be resized", has_resize(client)).await
}

/// Whether the apiserver lets resources of running pods be changed: it has the subresource `pods/resize`, as Kubernetes
/// does from 1.33 on.
pub(crate) async fn has_resize(client: &Client) -> kube::Result<bool> {
    Ok(client.list_core_api_resources("v1").await?.resources.iter().any(|resource| resource.name == "pods/resize"))
}

async fn or_yes(what: &str, question: impl Future<Output = kube::Result<bool>>) -> bool {
    match timeout(TIMEOUT, question).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot tell whether {what}; taken as yes");
            true
        }
        Err(_) => {
            tracing::warn!("no answer on whether {what}; taken as yes");
            true
        }
    }
}
