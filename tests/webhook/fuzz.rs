//! Reviews that nobody would write: whatever comes, the webhook answers, and what it answers is sound.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sidecarset::api::SidecarSet;
use tokio::runtime::Runtime;

use super::*;

/// All cases share one: only the answers count.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static WEBHOOK: LazyLock<Webhook> = LazyLock::new(|| {
    let _context = RUNTIME.enter();
    webhook_of(&sets())
});

/// Sets that add something of every kind; together they select pods whatever their labels are.
fn sets() -> [SidecarSet; 2] {
    let set = |name: &str, mut spec: Value| {
        spec["selector"] = json!({"matchExpressions": [{"key": "never", "operator": "DoesNotExist"}]});
        let set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": name}, "spec": spec});
        serde_json::from_value(set).unwrap()
    };
    [
        set(
            "logs",
            json!({
                "containers": [
                    {"name": "agent", "image": "agent:1", "volumeMounts": [{"name": "logs", "mountPath": "/logs"}]},
                    {"name": "late", "image": "late:1", "podInjectPolicy": "AfterAppContainer"},
                ],
                "initContainers": [{"name": "native", "image": "native:1", "restartPolicy": "Always"}],
                "volumes": [{"name": "logs", "emptyDir": {}}],
                "imagePullSecrets": [{"name": "registry"}],
                "patchPodMetadata": [{"annotations": {"a/b": "1"}, "patchPolicy": "Overwrite"}],
            }),
        ),
        set("mesh", json!({"containers": [{"name": "proxy", "image": "proxy:1"}]})),
    ]
}

/// A pod with something in every place that injection looks at, and fields that no Kubernetes knows.
fn full_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "unknown": {"a": [null, {}]},
        "metadata": {
            "generateName": "web-", "unknown": [[]],
            "labels": {"app": "web", "a/b~c": "d", "sidecarset.dev/injected": "true", "revision.sidecarset.dev/logs": "x"},
            "annotations": {
                "x~/y": "z",
                "injection.sidecarset.dev/logs": r#"{"containers":["agent"],"initContainers":["native"],"volumes":["logs"]}"#,
                "injection.sidecarset.dev/gone": r#"{"containers":["agent"]}"#,
                "update.sidecarset.dev/logs": "{}",
            },
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": true}],
        },
        "spec": {
            "unknown": 1.5,
            "containers": [
                {"name": "app", "image": "app", "unknown": {"deep": [1, "x"]}, "env": [{"name": "A", "value": "b", "unknown": 1}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "unknown": {}}]},
                {"name": "agent", "image": "agent:0", "unknown": true},
            ],
            "initContainers": [{"name": "native", "image": "native:0", "restartPolicy": "Always"}, {"name": "migrate", "image": "m"}],
            "volumes": [{"name": "data", "emptyDir": {}, "unknown": [1]}, {"name": "logs", "emptyDir": {}}],
            "imagePullSecrets": [{"name": "own", "unknown": null}],
        },
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let names =
        select(vec!["", "agent", "app", "name", "logs", "containers", "metadata", "a/b~c", "\u{0}\u{feff}é", "false"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        names.clone().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((names.clone().prop_map(str::to_owned), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Every path of a value.
fn pointers(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, v)| pointers(v, &format!("{here}/{}", escaped(key)), found));
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| pointers(v, &format!("{here}/{i}"), found)),
        _ => {}
    }
}

/// The value with something else at some of its paths.
fn mutated(original: Value, mutations: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Value> {
    prop::collection::vec((any::<Index>(), prop::option::of(any_json())), mutations).prop_map(move |mutations| {
        let mut value = original.clone();
        for (place, replacement) in mutations {
            let mut paths = Vec::new();
            pointers(&value, "", &mut paths);
            let path = place.get(&paths);
            match (replacement, path.rsplit_once('/')) {
                (None, Some((parent, key))) if value.pointer(parent).is_some_and(Value::is_object) => {
                    let key = key.replace("~1", "/").replace("~0", "~");
                    value.pointer_mut(parent).and_then(Value::as_object_mut).unwrap().remove(&key);
                }
                (replacement, _) => *value.pointer_mut(path).unwrap() = replacement.unwrap_or_default(),
            }
        }
        value
    })
}

fn review_of(pod: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "namespace": "default", "operation": "CREATE", "dryRun": true, "oldObject": null, "object": pod}})
}

fn post(path: &str, body: Vec<u8>) -> (StatusCode, Value) {
    RUNTIME.block_on(WEBHOOK.post(path, body))
}

/// Sends a review of a pod and checks what must hold of every answer; the pod after the patch, if there is an answer.
fn answered(review: &Value) -> Result<Option<Value>, TestCaseError> {
    let (status, answer) = post(&format!("/mutate-pods/{SEEN}"), review.to_string().into_bytes());
    match status {
        StatusCode::OK => {}
        // 503: the namespace is another one, which cannot be read here.
        StatusCode::BAD_REQUEST => return Ok(None),
        StatusCode::SERVICE_UNAVAILABLE if review["request"]["namespace"] != "default" => return Ok(None),
        _ => return Err(TestCaseError::fail(format!("{status}: {answer}"))),
    }
    prop_assert_eq!(&answer["response"]["uid"], &review["request"]["uid"]);
    prop_assert_eq!(&answer["response"]["allowed"], true);
    let mut pod = review["request"]["object"].clone();
    if !answer["response"]["patch"].is_null() {
        let patch: ByteString = serde_json::from_value(answer["response"]["patch"].clone()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
        let applied = json_patch::patch(&mut pod, &patch);
        prop_assert!(applied.is_ok(), "{:?}: {}", applied, json!(patch));
    }
    Ok(Some(pod))
}

/// True if nothing of `before` is lost: members and elements may have come, none may have changed.
fn keeps(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Null, _) => true,
        (Value::Object(before), Value::Object(after)) => {
            before.iter().all(|(key, value)| after.get(key).map_or(value.is_null(), |after| keeps(value, after)))
        }
        (Value::Array(before), Value::Array(after)) => before.iter().all(|element| after.contains(element)),
        _ => before == after,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pod_is_answered_with_a_patch_that_applies_and_is_complete(pod in mutated(full_pod(), 0..6)) {
        let Some(once) = answered(&review_of(&pod))? else { return Ok(()) };
        // The apiserver sends nothing that it cannot decode; of the rest an answer is enough.
        if serde_json::from_value::<Pod>(pod).is_err() {
            return Ok(());
        }
        let twice = answered(&review_of(&once))?;
        prop_assert_eq!(twice, Some(once), "a second call must find nothing to do");
    }

    #[test]
    fn any_review_is_answered(review in prop_oneof![mutated(review_of(&full_pod()), 1..6), any_json()]) {
        answered(&review)?;
        let (status, _) = post("/validate-sidecarsets", review.to_string().into_bytes());
        prop_assert!([StatusCode::OK, StatusCode::BAD_REQUEST].contains(&status), "{}", status);
    }

    #[test]
    fn any_set_is_answered(set in mutated(serde_json::to_value(&sets()[0]).unwrap(), 1..6)) {
        let review = json!({"request": {"uid": "u", "object": set}}).to_string();
        let (status, _) = post("/validate-sidecarsets", review.into_bytes());
        prop_assert!([StatusCode::OK, StatusCode::BAD_REQUEST].contains(&status), "{}", status);
    }

    #[test]
    fn any_bytes_are_answered(cut in any::<Index>(), noise in prop::collection::vec(any::<u8>(), 0..20), whole in any::<bool>()) {
        let body = review_of(&full_pod()).to_string().into_bytes();
        let place = cut.index(body.len());
        let rest: &[u8] = if whole { &body[place..] } else { &[] };
        let body = [&body[..place], &noise, rest].concat();
        let (status, _) = post(&format!("/mutate-pods/{SEEN}"), body);
        let expected = [StatusCode::OK, StatusCode::BAD_REQUEST, StatusCode::SERVICE_UNAVAILABLE];
        prop_assert!(expected.contains(&status), "{}", status);
    }

    #[test]
    fn nothing_of_a_pod_is_lost(extra in any_json(), place in any::<Index>()) {
        let mut pod = full_pod();
        // Without marks: what a copy brought along may go.
        pod["metadata"]["annotations"] = json!({"x~/y": "z"});
        pod["metadata"]["labels"] = json!({"app": "web", "a/b~c": "d"});
        pod["spec"]["containers"].as_array_mut().unwrap().pop();
        pod["spec"]["initContainers"].as_array_mut().unwrap().remove(0);
        let objects = ["", "/metadata", "/spec", "/spec/containers/0", "/spec/containers/0/env/0", "/spec/volumes/0"];
        pod.pointer_mut(objects[place.index(objects.len())]).unwrap()["another"] = extra;
        let after = answered(&review_of(&pod))?.unwrap();
        prop_assert!(keeps(&pod, &after), "{}", after);
        prop_assert_eq!(after["spec"]["containers"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn a_body_that_is_nested_too_deep_is_refused() {
    for depth in [100, 200, 100_000] {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let body = review_of(&full_pod()).to_string().replace("1.5", &deep);
        let (status, _) = post(&format!("/mutate-pods/{SEEN}"), body.into_bytes());
        assert_eq!(status == StatusCode::OK, depth == 100, "{depth}: {status}");
    }
}
