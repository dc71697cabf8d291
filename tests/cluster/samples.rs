//! Each file of `config/samples` does what its comments promise.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::common::raw::{documents, kubectl, repository};
use crate::common::world::{World, container_image, is_ready, lists, names, reason};
use crate::common::{eventually, shared};

/// Applies a sample into a namespace of its own; returns its applications.
async fn apply(world: &World, file: &str) -> Vec<Value> {
    let yaml = std::fs::read_to_string(repository("config/samples").join(file)).unwrap();
    let (sets, mut others): (Vec<Value>, Vec<Value>) =
        documents(&yaml).into_iter().partition(|document| document["kind"] == "SidecarSet");
    for mut set in sets {
        // Other tests' pods must not meet a sample's set.
        set["spec"]["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": world.name}});
        world.apply(&set).await;
    }
    for document in &mut others {
        document["metadata"]["namespace"] = json!(world.name);
        if document["kind"] == "Job" {
            // The work of a simulated container ends where this says so.
            let container = document["spec"]["template"]["spec"]["containers"][0]["name"].clone();
            document["spec"]["template"]["metadata"]["annotations"] =
                json!({"devcluster.sidecarset.dev/completes": container});
        }
        kubectl(shared(), &["apply", "-f", "-"], &document.to_string()).await.ok();
    }
    others
}

/// Applies a sample and returns its injected, ready pods.
async fn injected(world: &World, file: &str, containers: &[&str], init_containers: &[&str]) -> Vec<Pod> {
    let replicas = |deployment: Value| serde_json::from_value::<Deployment>(deployment).unwrap().spec?.replicas;
    let wanted: i32 = apply(world, file).await.into_iter().filter_map(replicas).sum();
    let wanted = usize::try_from(wanted).unwrap();
    let pods = eventually("the sample's pods are ready", async || {
        let pods = world.pods().await;
        if pods.len() == wanted && pods.iter().all(is_ready) { Ok(pods) } else { Err(pods.len()) }
    })
    .await;
    for pod in &pods {
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(names(&spec.containers), containers, "{file}");
        assert_eq!(names(spec.init_containers.as_deref().unwrap_or_default()), init_containers, "{file}");
    }
    pods
}

async fn end(world: World, set: &str) {
    world.remove_set(set).await;
    world.end().await;
}

fn volumes(pod: &Pod) -> BTreeSet<&str> {
    pod.spec.as_ref().unwrap().volumes.iter().flatten().map(|volume| volume.name.as_str()).collect()
}

#[test]
fn every_sample_is_tested() {
    let files = std::fs::read_dir(repository("config/samples")).unwrap().map(|file| file.unwrap().file_name());
    let files: BTreeSet<String> = files.map(|name| name.into_string().unwrap()).collect();
    let tested = [
        "envoy-redis",
        "fluentd-logs",
        "git-sync",
        "health-prober",
        "istio-proxy",
        "job-and-service",
        "linkerd-proxy",
        "mysql-start-order",
        "post-sidecar",
        "volume-backup",
    ];
    let tested = tested.iter().map(|name| format!("{name}.yaml")).chain(["kustomization.yaml".to_owned()]);
    assert_eq!(files, tested.collect());
}

#[tokio::test]
async fn envoy_redis() {
    let world = World::shared("sample-redis").await;
    let pods = injected(&world, "envoy-redis.yaml", &["redis", "envoy"], &[]).await;
    assert_eq!(pods[0].annotations()["prometheus.io/port"], "9901");
    end(world, "redis-proxy").await;
}

#[tokio::test]
async fn fluentd_logs() {
    let world = World::shared("sample-logs").await;
    let pods = injected(&world, "fluentd-logs.yaml", &["nginx", "fluentd"], &[]).await;
    for container in &pods[0].spec.as_ref().unwrap().containers {
        let mounts: Vec<&str> = container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
        assert!(mounts.contains(&"nginx-logs"), "{} shares the volume: {mounts:?}", container.name);
    }
    end(world, "log-agent").await;
}

#[tokio::test]
async fn git_sync() {
    let world = World::shared("sample-git").await;
    let pods = injected(&world, "git-sync.yaml", &["website"], &["git-sync"]).await;
    assert!(volumes(&pods[0]).contains("content"));
    end(world, "git-sync").await;
}

#[tokio::test]
async fn health_prober() {
    let world = World::shared("sample-prober").await;
    injected(&world, "health-prober.yaml", &["shop", "health-prober"], &[]).await;
    end(world, "health-prober").await;
}

#[tokio::test]
async fn istio_proxy() {
    let world = World::shared("sample-istio").await;
    let pods = injected(&world, "istio-proxy.yaml", &["istio-proxy", "productpage"], &["istio-init"]).await;
    let status: Value = serde_json::from_str(&pods[0].annotations()["sidecar.istio.io/status"]).unwrap();
    assert_eq!(status["containers"], json!(["istio-proxy"]));
    assert!(volumes(&pods[0]).is_superset(&["istio-envoy", "istio-certs"].into()));
    let init = serde_json::to_value(&pods[0].spec.as_ref().unwrap().init_containers).unwrap();
    assert_eq!(init[0]["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
    let proxy = container_image(&pods[0], "istio-proxy");
    let newer = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": format!("{proxy}-next")},
        {"op": "replace", "path": "/spec/updateStrategy/minReadySeconds", "value": 0}]);
    let newer: json_patch::Patch = serde_json::from_value(newer).unwrap();
    world.sets().patch("istio-proxy", &PatchParams::default(), &Patch::Json::<()>(newer)).await.unwrap();
    let set = world
        .until_named("istio-proxy", "one pod has the new proxy", |set| reason(set, "Ready") == "WaitingForApproval")
        .await;
    assert_eq!(set.status.unwrap().updated_pods, 1);
    end(world, "istio-proxy").await;
}

#[tokio::test]
async fn job_and_service() {
    let world = World::shared("sample-job").await;
    apply(&world, "job-and-service.yaml").await;
    let job = eventually("the Job completes", async || {
        let job = world.api::<Job>().get("invoices").await.unwrap();
        if job.status.as_ref().is_some_and(|status| status.succeeded == Some(1)) { Ok(job) } else { Err(job.status) }
    })
    .await;
    assert!(job.status.unwrap().failed.is_none());
    let pods = eventually("the pods of the Deployment are ready", async || {
        let pods = world.pods().await;
        if pods.iter().filter(|pod| is_ready(pod)).count() == 2 { Ok(pods) } else { Err(pods.len()) }
    })
    .await;
    for pod in pods {
        let expected = match pod.labels()["app"].as_str() {
            "invoices" => (vec!["invoices"], vec!["metrics-agent"]),
            app => (vec!["metrics-agent", app], vec![]),
        };
        assert_eq!(lists(&pod), expected);
    }
    end(world, "metrics-agent").await;
}

#[tokio::test]
async fn linkerd_proxy() {
    let world = World::shared("sample-linkerd").await;
    let pods = injected(&world, "linkerd-proxy.yaml", &["greeter"], &["mesh-proxy"]).await;
    let native = &pods[0].spec.as_ref().unwrap().init_containers.as_ref().unwrap()[0];
    assert_eq!(native.restart_policy.as_deref(), Some("Always"));
    end(world, "mesh-proxy").await;
}

#[tokio::test]
async fn mysql_start_order() {
    let world = World::shared("sample-mysql").await;
    let pods = injected(&world, "mysql-start-order.yaml", &["orders"], &["mysql-proxy", "mysql-client"]).await;
    for native in pods[0].spec.as_ref().unwrap().init_containers.iter().flatten() {
        assert_eq!(native.restart_policy.as_deref(), Some("Always"), "{}", native.name);
        assert!(native.startup_probe.is_some(), "{}: the next one waits for it", native.name);
    }
    world.remove_set("mysql-client").await;
    end(world, "database-proxy").await;
}

#[tokio::test]
async fn post_sidecar() {
    let world = World::shared("sample-post").await;
    let pods = injected(&world, "post-sidecar.yaml", &["site", "content"], &[]).await;
    let content = &pods[0].spec.as_ref().unwrap().containers[1];
    assert!(content.volume_mounts.iter().flatten().any(|mount| mount.mount_path == "/site"), "{content:?}");
    end(world, "site-content").await;
}

#[tokio::test]
async fn volume_backup() {
    let world = World::shared("sample-backup").await;
    let pods = injected(&world, "volume-backup.yaml", &["guestbook", "backup"], &[]).await;
    let mounts = &pods[0].spec.as_ref().unwrap().containers[1].volume_mounts;
    let data = mounts.iter().flatten().find(|mount| mount.name == "data").unwrap();
    assert_eq!((data.mount_path.as_str(), data.read_only), ("/data", Some(true)));
    assert!(volumes(&pods[0]).contains("backup-target"));
    end(world, "volume-backup").await;
}
