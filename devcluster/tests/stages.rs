//! Each Stage does what a kubelet does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, dead_code)]

mod common;

use common::{Recorded, cluster, condition, observed, phase, ready, restarts, status, waiting};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

fn probe() -> Value {
    json!({"tcpSocket": {"port": 80}, "periodSeconds": 1})
}

/// An app and a sidecar, without probes.
fn two() -> Value {
    json!({"containers": [{"name": "app", "image": "nginx:1"}, {"name": "side", "image": "org/side:1"}]})
}

/// How a container ended that does not run, if nothing is said of what it waits for.
fn end<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStateTerminated> {
    status(pod, name)?.state.as_ref()?.terminated.as_ref()
}

/// How the container before this one ended.
fn last_end<'a>(pod: &'a Pod, name: &str) -> &'a ContainerStateTerminated {
    status(pod, name).unwrap().last_state.as_ref().unwrap().terminated.as_ref().unwrap()
}

async fn start(name: &str, spec: Value) -> Recorded {
    let pod = Recorded::start(&cluster().await.client(), name, spec).await;
    pod.is_ready().await;
    pod
}

#[tokio::test]
async fn a_new_pod_reports_everything_a_kubelet_reports() {
    let spec = json!({
        "initContainers": [
            {"name": "setup", "image": "busybox"},
            {"name": "native", "image": "registry.test:5000/native:1", "restartPolicy": "Always"},
        ],
        "containers": [
            {"name": "app", "image": "nginx:1", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}},
            {"name": "probed", "image": "org/side:1", "readinessProbe": probe()},
        ],
    });
    let pod = start("new", spec).await;
    let seen = pod.forget();
    assert_eq!(phase(&seen), "Running");
    assert!(observed(&seen) && condition(&seen, "Initialized").unwrap());
    let whole = seen.status.as_ref().unwrap();
    assert!(whole.pod_ip.is_some() && whole.host_ip.is_some() && whole.start_time.is_some());
    let app = status(&seen, "app").unwrap();
    assert_eq!(app.image, "docker.io/library/nginx:1");
    assert!(app.image_id.starts_with("sim@sha256:"));
    assert!(app.container_id.as_ref().unwrap().starts_with("sim://"));
    assert!(app.ready && app.started.unwrap() && app.restart_count == 0);
    assert_eq!(app.allocated_resources.as_ref().unwrap()["cpu"].0, "100m");
    assert_eq!(app.resources.as_ref().unwrap().limits.as_ref().unwrap()["cpu"].0, "200m");
    assert_eq!(status(&seen, "probed").unwrap().image, "docker.io/org/side:1");
    let setup = status(&seen, "setup").unwrap();
    assert_eq!(setup.image, "docker.io/library/busybox:latest");
    assert_eq!(setup.state.as_ref().unwrap().terminated.as_ref().unwrap().reason.as_deref(), Some("Completed"));
    let native = status(&seen, "native").unwrap();
    assert_eq!(native.image, "registry.test:5000/native:1");
    assert!(native.started.unwrap() && native.state.as_ref().unwrap().running.is_some());
    pod.delete().await;
}

#[tokio::test]
async fn without_a_probe_a_replaced_container_is_ready_at_once() {
    let pod = start("swap", two()).await;
    let before = pod.set_images("containers", &[("side", "org/side:2")]).await;
    let after = pod.reaches("replaced", |pod| restarts(pod, "side") == 1).await;
    let history = pod.history();
    assert!(history.iter().all(|pod| ready(pod) == Some(true)), "Ready never turns False");
    assert!(
        history.iter().any(|pod| observed(pod) && restarts(pod, "side") == 0 && status(pod, "side").unwrap().ready),
        "the new generation is observed while the old container is still there",
    );
    assert_eq!(status(&before, "app"), status(&after, "app"));
    let (old, new) = (status(&before, "side").unwrap(), status(&after, "side").unwrap());
    assert_ne!(old.container_id, new.container_id);
    assert_ne!(old.image_id, new.image_id);
    assert_eq!(new.image, "docker.io/org/side:2");
    let last = new.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(last.container_id, old.container_id);
    assert_eq!(before.status.as_ref().unwrap().pod_ip, after.status.as_ref().unwrap().pod_ip);
    pod.delete().await;
}

#[tokio::test]
async fn with_a_probe_a_replaced_container_is_not_ready_for_a_while() {
    let spec = json!({"containers": [
        {"name": "app", "image": "nginx:1"},
        {"name": "side", "image": "org/side:1", "readinessProbe": probe()},
    ]});
    let pod = start("probed", spec).await;
    pod.set_images("containers", &[("side", "org/side:2")]).await;
    let between = pod.reaches("unready", |pod| ready(pod) == Some(false)).await;
    assert_eq!(restarts(&between, "side"), 1);
    assert!(condition(&between, "ContainersReady") == Some(false) && !status(&between, "side").unwrap().ready);
    let after = pod.reaches("ready again", |pod| ready(pod) == Some(true) && restarts(pod, "side") == 1).await;
    assert_eq!(status(&between, "side").unwrap().container_id, status(&after, "side").unwrap().container_id);
    pod.delete().await;
}

#[tokio::test]
async fn native_sidecars_are_replaced_alone() {
    let spec = json!({
        "initContainers": [
            {"name": "setup", "image": "busybox:1"},
            {"name": "native", "image": "n:1", "restartPolicy": "Always", "readinessProbe": probe()},
            {"name": "other", "image": "o:1", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "app", "image": "nginx:1"}],
    });
    let pod = start("native", spec).await;
    let before = pod.set_images("initContainers", &[("setup", "busybox:2"), ("native", "n:2")]).await;
    pod.reaches("unready", |pod| ready(pod) == Some(false) && restarts(pod, "native") == 1).await;
    let after = pod.reaches("ready", |pod| ready(pod) == Some(true) && restarts(pod, "native") == 1).await;
    for untouched in ["setup", "other", "app"] {
        assert_eq!(status(&before, untouched), status(&after, untouched));
    }
    assert_ne!(status(&before, "native").unwrap().container_id, status(&after, "native").unwrap().container_id);
    pod.delete().await;
}

#[tokio::test]
async fn containers_start_in_order() {
    let spec = json!({
        "initContainers": [{"name": "native", "image": "n:1", "restartPolicy": "Always", "startupProbe": probe()}],
        "containers": [{"name": "app", "image": "nginx:1"}],
    });
    let pod = start("order", spec).await;
    let history = pod.history();
    let early = history.iter().find(|pod| status(pod, "native").is_some()).unwrap();
    assert_eq!((phase(early), waiting(early, "app")), ("Pending", "PodInitializing"));
    assert_eq!(condition(early, "Initialized"), Some(false));
    pod.delete().await;
}

#[tokio::test]
async fn a_failed_pull_in_place_reads_as_a_crash_loop_without_a_restart() {
    let pod = start("nopull", two()).await;
    let before = pod.set_images("containers", &[("side", "org/side:nopull-1")]).await;
    let failed = pod.reaches("ErrImagePull", |pod| waiting(pod, "side") == "ErrImagePull").await;
    assert!(ready(&failed) == Some(false) && phase(&failed) == "Running");
    pod.reaches("ImagePullBackOff", |pod| waiting(pod, "side") == "ImagePullBackOff").await;
    let waits = pod.reaches("CrashLoopBackOff", |pod| waiting(pod, "side") == "CrashLoopBackOff").await;
    assert_eq!(restarts(&waits, "side"), 0);
    let (old, new) = (status(&before, "side").unwrap(), status(&waits, "side").unwrap());
    assert_eq!(old.container_id, new.container_id);
    assert_eq!(last_end(&waits, "side").container_id, old.container_id);
    assert_eq!(status(&before, "app"), status(&waits, "app"));
    pod.forget();
    pod.reaches("another try", |pod| waiting(pod, "side") == "ErrImagePull" && restarts(pod, "side") == 0).await;
    pod.reaches("CrashLoopBackOff", |pod| waiting(pod, "side") == "CrashLoopBackOff").await;
    // The same image that the killed container had.
    pod.set_images("containers", &[("side", "org/side:1")]).await;
    let back = pod.is_ready().await;
    assert_eq!(restarts(&back, "side"), 1);
    assert_eq!(last_end(&back, "side").message, None);
    pod.delete().await;
}

/// An app and a native sidecar with this image, and what the sidecar's entry has besides.
fn with_native(image: &str, more: &Value) -> Value {
    let mut native = json!({"name": "native", "image": image, "restartPolicy": "Always"});
    native.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"initContainers": [native], "containers": [{"name": "app", "image": "nginx:1"}]})
}

#[tokio::test]
async fn a_native_sidecar_that_exits_with_0_stays_terminated_after_a_failed_pull() {
    let pod = start("native-nopull", with_native("n:1", &json!({}))).await;
    let before = pod.set_images("initContainers", &[("native", "n:nopull")]).await;
    let ended = pod.reaches("terminated", |pod| end(pod, "native").is_some()).await;
    assert_eq!(ready(&ended), Some(false));
    // Another change, seen through to its end, shows that this is all that is said.
    pod.set_images("containers", &[("app", "nginx:2")]).await;
    let later = pod.reaches("app replaced", |pod| restarts(pod, "app") == 1).await;
    assert_eq!(status(&later, "native"), status(&ended, "native"));
    let after = status(&later, "native").unwrap();
    assert_eq!((after.restart_count, after.last_state.clone().unwrap_or_default().terminated), (0, None));
    let end = end(&later, "native").unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (0, Some("Completed")));
    assert_eq!(end.container_id, status(&before, "native").unwrap().container_id);
    pod.set_images("initContainers", &[("native", "n:1")]).await;
    let back = pod.is_ready().await;
    assert_eq!(restarts(&back, "native"), 1);
    pod.delete().await;
}

#[tokio::test]
async fn a_native_sidecar_that_sigterm_kills_waits_after_a_failed_pull() {
    let pod = start("native-sigterm", with_native("n:sigterm-1", &json!({}))).await;
    pod.set_images("initContainers", &[("native", "n:nopull")]).await;
    let failed = pod.reaches("ErrImagePull", |pod| waiting(pod, "native") == "ErrImagePull").await;
    assert_eq!(last_end(&failed, "native").exit_code, 143);
    assert!(pod.history().iter().all(|pod| end(pod, "native").is_none()));
    pod.delete().await;
}

#[tokio::test]
async fn an_image_in_back_off_reads_as_a_failed_pull_and_then_runs() {
    let pod = start("back-off", two()).await;
    pod.set_images("containers", &[("side", "org/side:backoff")]).await;
    let waits = pod.reaches("CrashLoopBackOff", |pod| waiting(pod, "side") == "CrashLoopBackOff").await;
    assert_eq!((restarts(&waits, "side"), ready(&waits)), (0, Some(false)));
    pod.reaches("ready", |pod| restarts(pod, "side") == 1 && ready(pod) == Some(true)).await;
    pod.delete().await;
    let pod = start("back-off-native", with_native("n:1", &json!({}))).await;
    pod.set_images("initContainers", &[("native", "n:backoff")]).await;
    pod.reaches("terminated", |pod| end(pod, "native").is_some() && restarts(pod, "native") == 0).await;
    pod.reaches("ready", |pod| restarts(pod, "native") == 1 && ready(pod) == Some(true)).await;
    pod.delete().await;
}

#[tokio::test]
async fn during_a_long_pull_the_killed_container_looks_ready_unless_a_probe_asks() {
    let mut spec = two();
    spec["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "probed", "image": "p:1", "readinessProbe": probe()}));
    let pod = start("longpull", spec).await;
    pod.set_images("containers", &[("side", "org/side:longpull")]).await;
    let begin = pod.reaches("observed", observed).await;
    pod.reaches("replaced", |pod| restarts(pod, "side") == 1).await;
    assert!(pod.history().iter().all(|pod| ready(pod) == Some(true)));
    let before = pod.set_images("containers", &[("probed", "p:longpull")]).await;
    let unready = pod.reaches("unready", |pod| ready(pod) == Some(false)).await;
    let (old, new) = (status(&before, "probed").unwrap(), status(&unready, "probed").unwrap());
    assert_eq!((&old.container_id, &old.state, new.ready), (&new.container_id, &new.state, false));
    pod.reaches("replaced", |pod| restarts(pod, "probed") == 1 && ready(pod) == Some(true)).await;
    assert_eq!(status(&begin, "app"), status(&before, "app"));
    pod.delete().await;
}

#[tokio::test]
async fn during_a_long_pull_the_reason_of_the_failure_before_it_stays() {
    let pod = start("longpull-after", two()).await;
    pod.set_images("containers", &[("side", "org/side:nopull")]).await;
    pod.reaches("ErrImagePull", |pod| waiting(pod, "side") == "ErrImagePull").await;
    pod.set_images("containers", &[("side", "org/side:longpull")]).await;
    let observed = pod.reaches("observed", observed).await;
    assert!(waiting(&observed, "side").contains("ImagePull"));
    let state = status(&observed, "side").unwrap().state.clone().unwrap();
    assert!(state.waiting.unwrap().message.unwrap().contains("org/side:nopull"));
    pod.reaches("replaced", |pod| restarts(pod, "side") == 1 && ready(pod) == Some(true)).await;
    pod.delete().await;
}

#[tokio::test]
async fn a_new_container_looks_started_and_ready_until_its_startup_probe_reports() {
    let mut spec = two();
    spec["containers"][1]["startupProbe"] = probe();
    let pod = start("stale-ready", spec).await;
    pod.set_images("containers", &[("side", "org/side:2")]).await;
    let stale = pod.reaches("replaced", |pod| restarts(pod, "side") == 1).await;
    assert!(ready(&stale) == Some(true) && status(&stale, "side").unwrap().started == Some(true));
    pod.reaches("unready", |pod| ready(pod) == Some(false)).await;
    pod.forget();
    let proved = pod.is_ready().await;
    assert_eq!(status(&proved, "side").unwrap().container_id, status(&stale, "side").unwrap().container_id);
    pod.delete().await;
}

#[tokio::test]
async fn a_native_sidecar_is_not_replaced_before_its_startup_probe_has_passed() {
    let pod = start("native-startup", with_native("n:1", &json!({"startupProbe": probe()}))).await;
    pod.set_images("initContainers", &[("native", "n:slow")]).await;
    let started = |pod: &_| status(pod, "native").unwrap().started == Some(true);
    pod.reaches("not started", |pod| restarts(pod, "native") == 1 && !started(pod)).await;
    pod.set_images("initContainers", &[("native", "n:2")]).await;
    pod.reaches("observed", |pod| observed(pod) && restarts(pod, "native") == 1 && !started(pod)).await;
    pod.reaches("replaced", |pod| restarts(pod, "native") == 2).await;
    assert!(pod.history().iter().any(|pod| restarts(pod, "native") == 1 && started(pod)));
    pod.delete().await;
}

#[tokio::test]
async fn a_pod_born_with_a_bad_image_is_pending() {
    let spec = json!({"containers": [{"name": "app", "image": "nginx:1"}, {"name": "side", "image": "side:nopull"}]});
    let pod = Recorded::start(&cluster().await.client(), "born-bad", spec).await;
    let waits = pod.reaches("ImagePullBackOff", |pod| waiting(pod, "side") == "ImagePullBackOff").await;
    assert_eq!(phase(&waits), "Pending");
    pod.set_images("containers", &[("side", "side:1")]).await;
    let good = pod.is_ready().await;
    assert_eq!((phase(&good), restarts(&good, "side")), ("Running", 0));
    pod.delete().await;
}

#[tokio::test]
async fn a_native_sidecar_born_with_a_bad_image_holds_the_pod() {
    let spec = json!({
        "initContainers": [{"name": "native", "image": "n:nopull", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "image": "nginx:1"}],
    });
    let pod = Recorded::start(&cluster().await.client(), "native-bad", spec).await;
    let waits = pod.reaches("ImagePullBackOff", |pod| waiting(pod, "native") == "ImagePullBackOff").await;
    assert_eq!((phase(&waits), waiting(&waits, "app")), ("Pending", "PodInitializing"));
    pod.set_images("initContainers", &[("native", "n:1")]).await;
    pod.is_ready().await;
    pod.delete().await;
}

#[tokio::test]
async fn an_image_that_crashes() {
    let pod = start("crash", two()).await;
    pod.set_images("containers", &[("side", "org/side:crash")]).await;
    pod.reaches("ready once", |pod| restarts(pod, "side") == 1 && ready(pod) == Some(true)).await;
    let ended = pod.reaches("ended", |pod| end(pod, "side").is_some()).await;
    assert_eq!((end(&ended, "side").unwrap().exit_code, ready(&ended)), (7, Some(false)));
    // The first time it is started again at once.
    let crashed = pod.reaches("back-off", |pod| waiting(pod, "side") == "CrashLoopBackOff").await;
    assert!(restarts(&crashed, "side") == 2 && ready(&crashed) == Some(false));
    assert_eq!(last_end(&crashed, "side").exit_code, 7);
    pod.reaches("crash again", |pod| restarts(pod, "side") == 3 && waiting(pod, "side") == "CrashLoopBackOff").await;
    pod.set_images("containers", &[("side", "org/side:1")]).await;
    let back = pod.is_ready().await;
    assert!(status(&back, "side").unwrap().container_id.as_ref().unwrap().ends_with("#org/side:1"));
    pod.delete().await;
}

#[tokio::test]
async fn an_image_that_is_slow() {
    let pod = start("slow", two()).await;
    pod.set_images("containers", &[("side", "org/side:slow")]).await;
    let begun = pod.reaches("unready", |pod| ready(pod) == Some(false) && restarts(pod, "side") == 1).await;
    let done = pod.reaches("ready", |pod| ready(pod) == Some(true) && restarts(pod, "side") == 1).await;
    let at = |pod: &_| {
        let status: &k8s_openapi::api::core::v1::Pod = pod;
        let conditions = status.status.clone().unwrap().conditions.unwrap();
        conditions.iter().find(|it| it.type_ == "Ready").and_then(|it| it.last_transition_time.clone()).unwrap().0
    };
    let seconds = at(&done).as_second() - at(&begun).as_second();
    assert!((4..=7).contains(&seconds), "{seconds} s");
    pod.delete().await;
}

#[tokio::test]
async fn a_retagged_image_keeps_its_name_and_id() {
    let pod = start("same", two()).await;
    let before = pod.set_images("containers", &[("side", "org/side:same-1")]).await;
    let after = pod.reaches("replaced", |pod| restarts(pod, "side") == 1).await;
    let (old, new) = (status(&before, "side").unwrap(), status(&after, "side").unwrap());
    assert_eq!((&old.image, &old.image_id), (&new.image, &new.image_id));
    assert_ne!(old.container_id, new.container_id);
    // Another change, seen through to its end, shows that the first one was not repeated.
    pod.set_images("containers", &[("app", "nginx:2")]).await;
    let later = pod.reaches("app replaced", |pod| restarts(pod, "app") == 1).await;
    assert_eq!(restarts(&later, "side"), 1);
    pod.delete().await;
}

#[tokio::test]
async fn in_a_pod_that_never_restarts_a_failed_pull_is_final() {
    let mut spec = two();
    spec["restartPolicy"] = json!("Never");
    let pod = start("never", spec).await;
    pod.set_images("containers", &[("side", "org/side:nopull")]).await;
    pod.reaches("ended", |pod| end(pod, "side").is_some()).await;
    pod.set_images("containers", &[("app", "nginx:2"), ("side", "org/side:1")]).await;
    let after = pod.reaches("app replaced", |pod| restarts(pod, "app") == 1).await;
    assert!(observed(&after) && end(&after, "side").is_some());
    pod.delete().await;
}

#[tokio::test]
async fn with_on_failure_a_container_that_sigterm_kills_recovers_from_a_failed_pull() {
    let mut spec = two();
    spec["restartPolicy"] = json!("OnFailure");
    spec["containers"][1]["image"] = json!("org/side:sigterm");
    let pod = start("on-failure", spec).await;
    pod.set_images("containers", &[("side", "org/side:nopull")]).await;
    pod.reaches("ErrImagePull", |pod| waiting(pod, "side") == "ErrImagePull").await;
    pod.set_images("containers", &[("side", "org/side:1")]).await;
    pod.reaches("ready", |pod| restarts(pod, "side") == 1 && ready(pod) == Some(true)).await;
    pod.delete().await;
}

#[tokio::test]
async fn resized_resources_are_reported() {
    let spec = json!({"containers": [{"name": "app", "image": "nginx:1", "resources": {"requests": {"cpu": "100m"}}}]});
    let pod = start("resize", spec).await;
    let before = pod.forget();
    let patch = json!({"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "300m"}}}]}});
    pod.api.patch_resize(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    let cpu = |pod: &_| Some(status(pod, "app")?.allocated_resources.as_ref()?.get("cpu")?.0.clone());
    let after = pod.reaches("resized", |pod| cpu(pod).as_deref() == Some("300m")).await;
    assert_eq!(status(&before, "app").unwrap().container_id, status(&after, "app").unwrap().container_id);
    pod.delete().await;
}

#[tokio::test]
async fn readiness_gates_are_honoured() {
    let mut spec = two();
    spec["readinessGates"] = json!([{"conditionType": "example.test/gate"}]);
    let pod = Recorded::start(&cluster().await.client(), "gated", spec).await;
    let closed = pod.reaches("running", |pod| condition(pod, "ContainersReady") == Some(true)).await;
    assert_eq!(ready(&closed), Some(false));
    let patch = json!({"status": {"conditions": [{"type": "example.test/gate", "status": "True"}]}});
    pod.api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    pod.is_ready().await;
    pod.delete().await;
}

#[tokio::test]
async fn named_containers_complete_and_native_sidecars_follow() {
    let client = cluster().await.client();
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "native", "image": "n:1", "restartPolicy": "Always"}],
        "containers": [{"name": "work", "image": "busybox"}],
    });
    let annotations = json!({"devcluster.sidecarset.dev/completes": "work"});
    let pod = Recorded::with_annotations(&client, "completes", annotations, spec).await;
    let done = pod.reaches("succeeded", |pod| phase(pod) == "Succeeded").await;
    for name in ["work", "native"] {
        let ended = status(&done, name).unwrap().state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!(ended.exit_code, 0);
    }
    assert!(done.uid().is_some());
    pod.delete().await;
}
