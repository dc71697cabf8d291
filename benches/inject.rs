//! What it takes to decide about one pod that one set selects, among many cluster-wide sets that do not:
//! `cargo bench --bench inject`, or `make bench`. criterion measures the mean of the pure decision and of the handler
//! (the decision, and the review from and to JSON); percentiles of the handler are printed at the end.
//!
//! Exits non-zero if the handler's p99 among 1,000 sets is 1 ms or more.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/webhook/alone.rs"]
mod alone;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use criterion::{BenchmarkId, Criterion};
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;
use sidecarset::api::validate::validate;
use sidecarset::core::inject::{self, CompiledSet, CompiledSets, Served};
use sidecarset::core::revision::History;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tower::ServiceExt;

const SETS: [usize; 4] = [1, 100, 1_000, 5_000];
const CALLS: usize = 10_000;
const LARGEST_P99: Duration = Duration::from_millis(1);

fn main() {
    let runtime = Runtime::new().unwrap();
    let _context = runtime.enter();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    means(&mut criterion, &runtime);
    criterion.final_summary();
    let fine = percentiles(&runtime);
    std::process::exit(i32::from(!fine));
}

fn means(criterion: &mut Criterion, runtime: &Runtime) {
    let pod = pod(5_000);
    let review = review(&pod);
    let labels = BTreeMap::new();
    let request = inject::Request { pod: &pod, namespace: "default", namespace_labels: &labels, excluded: &[] };
    let mut group = criterion.benchmark_group("inject");
    for count in SETS {
        let sets = sets(count);
        group.bench_with_input(BenchmarkId::new("decision", count), &sets, |bencher, sets| {
            bencher.iter(|| inject::inject(sets, black_box(&request)));
        });
        let webhook = Webhook::new(sets);
        group.bench_with_input(BenchmarkId::new("handler", count), &webhook, |bencher, webhook| {
            bencher.iter(|| runtime.block_on(webhook.post(review.clone())));
        });
    }
    group.bench_function("read the review only", |bencher| {
        bencher.iter(|| serde_json::from_str::<Value>(black_box(&review)).unwrap());
    });
    group.finish();
}

fn percentiles(runtime: &Runtime) -> bool {
    let mut fine = true;
    for (count, pod_size, calls) in SETS.map(|count| (count, 5_000, CALLS)).into_iter().chain([(1_000, 3 << 20, 100)]) {
        let webhook = Webhook::new(sets(count));
        let review = review(&pod(pod_size));
        let mut times: Vec<Duration> = (0..calls)
            .map(|_| {
                let body = review.clone();
                let started = Instant::now();
                let answer = runtime.block_on(webhook.post(body));
                let time = started.elapsed();
                assert!(answer > 500, "it was injected");
                time
            })
            .collect();
        times.sort();
        let at = |percent: usize| times[(calls * percent / 100).min(calls - 1)];
        let (p50, p99, max) = (at(50), at(99), at(100));
        println!("handler among {count:5} sets, pod of {pod_size:7} bytes: p50 {p50:?}, p99 {p99:?}, longest {max:?}");
        fine &= (count, pod_size) != (1_000, 5_000) || p99 < LARGEST_P99;
    }
    fine
}

/// Sets on one label; the pod's value is that of one of them.
fn sets(count: usize) -> Arc<CompiledSets> {
    let compiled = (0..count).map(|i| {
        let set: SidecarSet = serde_json::from_value(json!({
            "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": format!("set-{i}")},
            "spec": {
                "selector": {"matchLabels": {"app": format!("app-{i}")}},
                "containers": [{
                    "name": "agent", "image": "registry.example.com/agent:v1.2.3", "args": ["--config", "/etc/agent/config.yaml"],
                    "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
                    "volumeMounts": [{"name": "logs", "mountPath": "/logs"}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
                }],
                "volumes": [{"name": "logs", "emptyDir": {}}],
            },
        }))
        .unwrap();
        Arc::new(CompiledSet::new(&validate(&set).unwrap(), &History::new()))
    });
    Arc::new(CompiledSets::new(compiled))
}

/// A pod of about this many bytes, as a Deployment makes them, with managed fields.
fn pod(size: usize) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-7d4b9c-", "namespace": "default",
            "labels": {"app": "app-0", "app.kubernetes.io/name": "web", "pod-template-hash": "7d4b9c"},
            "annotations": {"example.com/team": "shop"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c", "uid": "1", "controller": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:containers": {
                    "k:{\"name\":\"web\"}": {"f:image": {}, "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}}}}}}}],
        },
        "spec": {
            "containers": [{
                "name": "web", "image": "registry.example.com/web:v4.5.6",
                "env": (0..20).map(|i| json!({"name": format!("VARIABLE_{i}"), "value": format!("value of variable {i}")})).collect::<Vec<_>>(),
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10},
                "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
                "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
            }],
            "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}}],
            "serviceAccountName": "default", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
    });
    let padding = size.saturating_sub(pod.to_string().len());
    pod["spec"]["containers"][0]["args"] = json!(["x".repeat(padding)]);
    pod
}

fn review(pod: &Value) -> String {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816", "namespace": "default", "operation": "CREATE", "object": pod}})
    .to_string()
}

struct Webhook {
    router: Router,
}

impl Webhook {
    fn new(sets: Arc<CompiledSets>) -> Self {
        let served = Served { complete: true, sets, ..Served::default() };
        let (_, served) = watch::channel(Arc::new(served));
        let pods = alone::pods(served);
        Self { router: alone::router(pods) }
    }

    /// Sends a review; the length of the answer.
    async fn post(&self, review: String) -> usize {
        let request = Request::post("/mutate-pods/0").header("content-type", "application/json");
        let response = self.router.clone().oneshot(request.body(Body::from(review)).unwrap()).await.unwrap();
        to_bytes(response.into_body(), usize::MAX).await.unwrap().len()
    }
}
