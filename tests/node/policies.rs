//! Pods that end by themselves.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::world::{container_image, is_ready, reason};
use crate::place::{ORDINARY, agent, application, real, status, until_done, world};

fn strategy() -> Value {
    json!({"maxUnavailable": "100%", "minReadySeconds": 1})
}

#[tokio::test]
async fn an_ordinary_sidecar_in_a_pod_that_is_never_restarted_is_left_alone_with_a_reason() {
    let Some(world) = world("never").await else { return };
    world.apply(&agent(&world, ORDINARY, "sidecar:v1", &strategy())).await;
    let mut spec = application();
    spec["restartPolicy"] = json!("Never");
    world.pod("never", spec).await.unwrap();
    let before = world.until_pod("never", "the pod is ready", is_ready).await;
    world.apply(&agent(&world, ORDINARY, "sidecar:v2", &strategy())).await;
    let set = world.until_set("it is not updated", |set| reason(set, "Ready") == "NotInPlace").await;
    let message = set.status.unwrap().message.unwrap();
    assert!(message.contains("an ordinary sidecar in a pod whose restartPolicy is not Always"), "{message}");
    let after = world.pods().await.remove(0);
    assert_eq!(container_image(&after, "agent"), "devcluster.test/sidecar:v1");
    assert_eq!(status(&after, "agent"), status(&before, "agent"));
    world.end().await;
}

#[tokio::test]
async fn a_job_completes_after_its_native_sidecar_was_upgraded() {
    let Some(world) = world("job").await else { return };
    // Ordinary in the set, and native in the pods of Jobs.
    let set = |image: &str| {
        let mut set = agent(&world, ORDINARY, image, &strategy());
        set["spec"]["jobPods"] = json!("Native");
        set
    };
    world.apply(&set("sidecar:v1")).await;
    // Its work is over when it has talked to the new sidecar.
    let work = r#"until case "$(wget -q -O - http://127.0.0.1:8081/)" in *v2) ;; *) false ;; esac; do sleep 0.2; done"#;
    let app = json!({"name": "app", "image": "devcluster.test/app:v1", "command": ["sh", "-c", work]});
    let spec = real(json!({"restartPolicy": "Never", "containers": [app]}));
    let job = json!({
        "metadata": {"name": "job"},
        "spec": {"template": {"metadata": {"labels": {"app": world.name}}, "spec": spec}},
    });
    let jobs = world.api::<Job>();
    jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    until_done(&world, 1).await;
    let before = world.pods().await.remove(0);
    world.apply(&set("sidecar:v2")).await;
    eventually("the Job completes", async || {
        let status = jobs.get("job").await.unwrap().status.unwrap_or_default();
        if status.succeeded == Some(1) { Ok(()) } else { Err(status) }
    })
    .await;
    let after = world.pods().await.remove(0);
    assert_eq!(after.uid(), before.uid());
    assert_eq!((status(&after, "agent").restart_count, status(&after, "app").restart_count), (1, 0));
    world.end().await;
}
