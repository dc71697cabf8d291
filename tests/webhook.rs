//! The webhooks through their router, as the apiserver calls them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "webhook/alone.rs"]
mod alone;
#[path = "webhook/fuzz.rs"]
mod fuzz;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;
use sidecarset::api::validate::{ValidSidecarSet, validate};
use sidecarset::core::inject::{CompiledSet, CompiledSets, Served};
use sidecarset::core::revision::History;
use sidecarset::runtime::metrics::Metrics;
use sidecarset::webhook::pod::Pods;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

/// Version of the sets that the served state has seen.
const SEEN: u64 = 7;

fn set(failure_policy: &str) -> SidecarSet {
    serde_json::from_value(json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "logs"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "containers": [{"name": "agent", "image": "agent:1"}],
            "injectionStrategy": {"failurePolicy": failure_policy},
        },
    }))
    .unwrap()
}

fn served(sets: &[SidecarSet]) -> Served {
    let specs: Vec<ValidSidecarSet> = sets.iter().map(|set| validate(set).unwrap()).collect();
    let compiled = specs.iter().map(|set| Arc::new(CompiledSet::new(set, &History::new())));
    Served {
        complete: true,
        sets: Arc::new(CompiledSets::new(compiled)),
        specs: specs.clone(),
        seen: SEEN,
        version: SEEN,
        ..Served::default()
    }
}

struct Webhook {
    router: Router,
    sender: watch::Sender<Arc<Served>>,
    metrics: Metrics,
}

fn webhook(failure_policy: &str) -> Webhook {
    webhook_of(&[set(failure_policy)])
}

fn webhook_of(sets: &[SidecarSet]) -> Webhook {
    let (sender, receiver) = watch::channel(Arc::new(served(sets)));
    let pods = Pods { excluded: Arc::from(["sidecarset-system".to_owned()]), ..alone::pods(receiver) };
    let metrics = pods.metrics.clone();
    Webhook { router: alone::router(pods), sender, metrics }
}

impl Webhook {
    async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let request = Request::post(path).header("content-type", "application/json").body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    async fn review(&self, namespace: &str, pod: Value) -> (StatusCode, Value) {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "u", "namespace": namespace, "operation": "CREATE", "object": pod}});
        self.post(&format!("/mutate-pods/{SEEN}"), review.to_string()).await
    }
}

fn pod() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

/// The pod after the patch of a response.
fn patched(mut pod: Value, review: &Value) -> Value {
    let patch: ByteString = serde_json::from_value(review["response"]["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[tokio::test]
async fn a_pod_is_injected_and_the_decision_is_audited_and_counted() {
    let webhook = webhook("Ignore");
    let (status, review) = webhook.review("default", pod()).await;
    assert_eq!(
        (status, &review["response"]["allowed"], &review["response"]["uid"]),
        (StatusCode::OK, &json!(true), &json!("u"))
    );
    assert_eq!(patched(pod(), &review)["spec"]["containers"][0]["name"], "agent");
    assert_eq!(review["response"]["auditAnnotations"], json!({"injection": "logs=Injected"}));
    let metrics = webhook.metrics.encode().unwrap();
    let counted = r#"sidecarset_injection_total{set="logs",result="injected",reason="Injected"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_conflict_is_a_warning_or_a_refusal_as_the_set_says() {
    let mut taken = pod();
    taken["spec"]["containers"][0]["name"] = json!("agent");
    let (_, review) = webhook("Ignore").review("default", taken.clone()).await;
    assert_eq!(review["response"]["allowed"], true);
    let warning = review["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("NameConflict") && warning.contains("logs"), "{warning}");

    let (status, review) = webhook("Fail").review("default", taken).await;
    assert_eq!((status, &review["response"]["allowed"]), (StatusCode::OK, &json!(false)));
    assert_eq!(review["response"]["status"]["code"], 422);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_behind_waits_and_then_gives_up() {
    let webhook = webhook("Ignore");
    let review = json!({"request": {"uid": "u", "namespace": "default", "object": pod()}}).to_string();
    let (status, _) = webhook.post(&format!("/mutate-pods/{}", SEEN + 1), review.clone()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);

    let newer = Arc::new(Served { seen: SEEN + 1, ..served(&[set("Ignore")]) });
    let path = format!("/mutate-pods/{}", SEEN + 1);
    let (answer, ()) = tokio::join!(webhook.post(&path, review), async {
        tokio::task::yield_now().await;
        webhook.sender.send_replace(newer);
    });
    assert_eq!(answer.0, StatusCode::OK);
}

/// A review of a pod for an entry of the second generation of a set, and the time that the answer took.
async fn review_provisionally(webhook: &Webhook, set: &str) -> (Value, Duration) {
    let review = json!({"request": {"uid": "u", "namespace": "default", "object": pod()}}).to_string();
    let started = Instant::now();
    let (status, answer) = webhook.post(&format!("/mutate-pods/provisional/{set}/uid-1/2/1800000000"), review).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    (answer["response"].clone(), started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_a_set_that_is_about_to_be_stored() {
    let webhook = webhook_of(&[]);
    let stored = |generation: i64| {
        let mut set = set("Fail");
        (set.metadata.uid, set.metadata.generation) = (Some("uid-1".into()), Some(generation));
        Arc::new(served(&[set]))
    };
    let ((response, _), ()) = tokio::join!(review_provisionally(&webhook, "logs"), async {
        for generation in [1, 2] {
            tokio::task::yield_now().await;
            webhook.sender.send_replace(stored(generation));
        }
    });
    assert_eq!(response["warnings"], json!([]));
    assert_eq!(patched(pod(), &json!({"response": response}))["spec"]["containers"][0]["name"], "agent");
}

#[tokio::test(start_paused = true)]
async fn sets_that_are_never_stored_keep_no_pod_from_being_created_nor_for_long() {
    let webhook = webhook_of(&[]);
    let second = Duration::from_secs(1);
    for (set, waits) in [("a", true), ("a", false), ("b", true), ("c", true), ("d", false), ("e", false)] {
        let (response, took) = review_provisionally(&webhook, set).await;
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
        let warning = format!("SidecarSet {set:?} is not injected as it was announced: it is not stored");
        assert_eq!(response["warnings"], json!([warning]));
        assert_eq!(took >= second, waits, "{set}: {took:?}");
    }
    tokio::time::advance(Duration::from_secs(31)).await;
    let (_, first) = review_provisionally(&webhook, "a").await;
    let (_, again) = review_provisionally(&webhook, "a").await;
    assert!(first >= second && again < second, "{first:?} {again:?}");
}

#[tokio::test]
async fn what_cannot_be_decided_is_an_error_so_that_the_failure_policy_applies() {
    let webhook = webhook("Ignore");
    let (status, _) = webhook.review("never-seen", pod()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "the namespace's labels are not known");
    for body in ["", "{}", "[]", r#"{"request": {"uid": 1}}"#] {
        let (status, _) = webhook.post("/mutate-pods/1", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[tokio::test]
async fn a_pod_of_three_megabytes_is_read() {
    let mut large = pod();
    large["spec"]["containers"][0]["env"] = json!([{"name": "LARGE", "value": "x".repeat(3 << 20)}]);
    let (status, review) = webhook("Ignore").review("default", large.clone()).await;
    assert_eq!(status, StatusCode::OK);
    let patch: ByteString = serde_json::from_value(review["response"]["patch"].clone()).unwrap();
    assert!(patch.0.len() < 4096, "the patch has what is added, not the pod: {} bytes", patch.0.len());
    assert_eq!(patched(large, &review)["spec"]["containers"][0]["name"], "agent");
}

#[tokio::test]
async fn managed_fields_may_be_nested_deeper_than_anything_else() {
    // The apiserver takes these from whoever creates a pod; no other part of a pod can be deep.
    let deep = format!("{}{{}}{}", r#"{"f:a":"#.repeat(1000), "}".repeat(1000));
    let review = json!({"request": {"uid": "u", "namespace": "default", "object": pod()}}).to_string();
    let metadata = format!(r#""metadata":{{"managedFields":[{{"fieldsV1":{deep}}}],"#);
    let review = review.replace(r#""metadata":{"#, &metadata);
    let (status, answer) = webhook("Ignore").post(&format!("/mutate-pods/{SEEN}"), review).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(patched(pod(), &answer)["spec"]["containers"][0]["name"], "agent");
}

#[tokio::test]
async fn what_openkruise_injected_stays() {
    let kruise = |name: &str| {
        json!({"metadata": {
                "labels": {"app": "web"},
                "annotations": {"kruise.io/sidecarset-hash": r#"{"old":{"hash":"h"}}"#, "kruise.io/sidecarset-injected-list": "old"}},
            "spec": {"containers": [
                {"name": name, "image": "agent:0", "env": [{"name": "IS_INJECTED", "value": "true"}]},
                {"name": "app", "image": "app"}]}})
    };
    let (_, review) = webhook("Ignore").review("default", kruise("agent")).await;
    assert_eq!(review["response"]["patch"], Value::Null, "the name is taken: nothing changes");
    let warning = review["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("container name \"agent\" is taken"), "{warning}");

    let before = kruise("other-agent");
    let (_, review) = webhook("Ignore").review("default", before.clone()).await;
    let after = patched(before.clone(), &review);
    let containers = after["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers[0]["name"], "agent");
    assert_eq!(json!(containers[1..]), before["spec"]["containers"]);
    for (key, value) in before["metadata"]["annotations"].as_object().unwrap() {
        assert_eq!(after["metadata"]["annotations"][key], *value);
    }
}

#[tokio::test]
async fn a_set_is_refused_with_the_field_and_a_metadata_change_never_is() {
    let webhook = webhook("Ignore");
    let mut wrong = set("Ignore");
    wrong.spec.containers[0].container.name = "Agent".into();
    let review =
        |old: Option<&SidecarSet>| json!({"request": {"uid": "u", "object": wrong, "oldObject": old}}).to_string();
    let (_, answer) = webhook.post("/validate-sidecarsets", review(None)).await;
    assert_eq!(answer["response"]["allowed"], false);
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(message.contains("spec.containers[0].name"), "{message}");
    let (_, answer) = webhook.post("/validate-sidecarsets", review(Some(&wrong))).await;
    assert_eq!(answer["response"]["allowed"], true);
}
