//! The parts of Kubernetes that the operator and its tests rely on are there and work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, dead_code)]

mod common;

use std::process::Stdio;

use common::{cluster, create, namespace, until};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{LimitRange, Node, Pod, ResourceQuota};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": image}]}})
}

fn deployment(name: &str, replicas: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("nginx:1"),
    }})
}

async fn kubectl(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("kubectl")
        .args(arguments)
        .env("KUBECONFIG", cluster().await.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn deployments_roll_out_and_are_garbage_collected() {
    let client = cluster().await.client();
    let ns = namespace(&client, "deployments").await;
    let (deployments, pods): (Api<Deployment>, Api<Pod>) =
        (Api::namespaced(client.clone(), &ns), Api::namespaced(client.clone(), &ns));
    create(&deployments, deployment("web", 3)).await;
    let available = async |generation: i64| {
        until("the rollout", async || {
            let status = deployments.get("web").await.unwrap().status?;
            (status.observed_generation? >= generation
                && status.updated_replicas == Some(3)
                && status.available_replicas == Some(3)
                && status.replicas == Some(3))
            .then_some(())
        })
        .await;
    };
    available(1).await;
    let patch = json!({"spec": {"template": template("nginx:2")}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    available(2).await;
    let images: Vec<_> = until("the old pods' end", async || {
        let list = pods.list(&ListParams::default()).await.unwrap().items;
        (list.len() == 3).then_some(list)
    })
    .await;
    assert!(images.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("nginx:2")));
    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    let sets: Api<ReplicaSet> = Api::namespaced(client, &ns);
    until("garbage collection", async || {
        let left = sets.list(&ListParams::default()).await.unwrap().items.len()
            + pods.list(&ListParams::default()).await.unwrap().items.len();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn jobs_complete() {
    let client = cluster().await.client();
    let ns = namespace(&client, "jobs").await;
    let jobs: Api<Job> = Api::namespaced(client, &ns);
    create(
        &jobs,
        json!({"metadata": {"name": "work"}, "spec": {"completions": 2, "template": {
            "metadata": {"annotations": {"devcluster.sidecarset.dev/completes": "work"}},
            "spec": {
                "restartPolicy": "Never",
                "initContainers": [{"name": "native", "image": "n:1", "restartPolicy": "Always"}],
                "containers": [{"name": "work", "image": "busybox"}],
            },
        }}}),
    )
    .await;
    until("completion", async || {
        let status = jobs.get("work").await.unwrap().status?;
        (status.succeeded == Some(2) && status.completion_time.is_some()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn quotas_are_enforced() {
    let client = cluster().await.client();
    let ns = namespace(&client, "quota").await;
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &ns);
    create(&quotas, json!({"metadata": {"name": "one"}, "spec": {"hard": {"pods": "1"}}})).await;
    until("the quota's status", async || quotas.get("one").await.unwrap().status?.hard).await;
    let pods: Api<Pod> = Api::namespaced(client, &ns);
    let pod =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "app", "image": "nginx:1"}]}});
    create(&pods, pod("first")).await;
    let second = serde_json::from_value(pod("second")).unwrap();
    let refusal = pods.create(&PostParams::default(), &second).await.unwrap_err();
    assert!(refusal.to_string().contains("exceeded quota"), "{refusal}");
}

#[tokio::test]
async fn limit_ranges_and_tokens_are_put_into_pods() {
    let client = cluster().await.client();
    let ns = namespace(&client, "limits").await;
    let limits: Api<LimitRange> = Api::namespaced(client.clone(), &ns);
    create(
        &limits,
        json!({"metadata": {"name": "default"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "7m"}}]}}),
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(client, &ns);
    let spec = json!({"containers": [{"name": "app", "image": "nginx:1"}]});
    // The admission plugin's cache follows the new LimitRange with a delay.
    let pod = until("the default limit", async || {
        let pod = create(&pods, json!({"metadata": {"generateName": "p-"}, "spec": spec})).await;
        let limits = pod.spec.as_ref()?.containers[0].resources.as_ref()?.limits.as_ref()?.get("cpu")?.0.clone();
        (limits == "7m").then_some(pod)
    })
    .await;
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let mounts = container.volume_mounts.as_ref().unwrap();
    assert!(mounts.iter().any(|mount| mount.mount_path == "/var/run/secrets/kubernetes.io/serviceaccount"));
}

#[tokio::test]
async fn the_stock_kubectl_works() {
    let ns = namespace(&cluster().await.client(), "kubectl").await;
    let manifest = |replicas| {
        let mut object = deployment("web", replicas);
        object["apiVersion"] = json!("apps/v1");
        object["kind"] = json!("Deployment");
        object.to_string()
    };
    assert!(kubectl(&["apply", "-n", &ns, "-f", "-"], &manifest(1)).await.contains("created"));
    assert!(kubectl(&["apply", "-n", &ns, "-f", "-"], &manifest(2)).await.contains("configured"));
    assert!(
        kubectl(&["apply", "-n", &ns, "--server-side", "--force-conflicts", "-f", "-"], &manifest(2))
            .await
            .contains("applied")
    );
    kubectl(&["rollout", "status", "-n", &ns, "deployment/web", "--timeout=30s"], "").await;
    let token = kubectl(&["create", "token", "default", "-n", &ns], "").await;
    let who = kubectl(&["auth", "whoami", "-o", "json", "--token", token.trim()], "").await;
    // The client certificate of the kubeconfig wins over the token, so the token is reviewed instead.
    assert!(who.contains("devcluster-admin"));
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token.trim()},
    });
    let reviewed = kubectl(&["create", "-o", "json", "-f", "-"], &review.to_string()).await;
    assert!(reviewed.contains(&format!("system:serviceaccount:{ns}:default")), "{reviewed}");
}

#[tokio::test]
async fn rbac_refuses_a_service_account() {
    let ns = namespace(&cluster().await.client(), "rbac").await;
    let user = format!("system:serviceaccount:{ns}:default");
    let answer = kubectl(
        &["create", "-o", "json", "-f", "-"],
        &json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {"verb": "create", "resource": "pods", "namespace": ns}},
        })
        .to_string(),
    )
    .await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["status"]["allowed"], json!(false));
}

#[tokio::test]
async fn nodes_report_their_version() {
    let nodes: Api<Node> = Api::all(cluster().await.client());
    let list = nodes.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(list.len(), 3);
    for node in list {
        let info = node.status.as_ref().unwrap().node_info.as_ref().unwrap();
        assert_eq!(info.kubelet_version, "v1.36.3", "{}", node.name_any());
        assert!(node.spec.as_ref().unwrap().taints.is_none());
    }
    let version = cluster().await.client().apiserver_version().await.unwrap();
    assert_eq!(version.git_version, "v1.36.3");
}
