//! The operator dies and another goes on: within the same budgets, and nothing is forgotten. Each test has a cluster of
//! its own, as the shared operator must live.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use devcluster::DevCluster;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::common::budget::BudgetWatcher;
use crate::common::operator::Operator;
use crate::common::world::{World, condition, identities};
use crate::common::{client, eventually};

/// Leases of three seconds, so that a successor need not be waited for long.
const SHORT_LEASE: [&str; 1] = ["--lease-duration-seconds=3"];

fn strategy(max_unavailable: usize) -> Value {
    json!({"maxUnavailable": max_unavailable, "minReadySeconds": 1})
}

/// Pods with v1, all ready.
async fn fleet(world: &World, pods: usize, max_unavailable: usize) {
    world.apply(&world.set("agent:v1", strategy(max_unavailable))).await;
    world.deploy(pods).await;
    world
        .until_set("all pods are counted", |set| {
            usize::try_from(set.status.as_ref().unwrap().updated_ready_pods) == Ok(pods)
        })
        .await;
}

/// Begins the rollout to v2; does not wait for anything.
async fn begin(world: &World, max_unavailable: usize) {
    world.apply_without_waiting(&world.set("agent:v2", strategy(max_unavailable))).await;
}

async fn until_updated(world: &World, pods: usize) {
    eventually("so many pods are patched", async || match world.with_image("agent:v2").await {
        count if count >= pods => Ok(()),
        less => Err(less),
    })
    .await;
}

async fn until_done(world: &World, pods: usize) {
    world
        .until_set("the rollout ends", |set| {
            let status = set.status.as_ref().unwrap();
            condition(set, "Ready") == "True" && usize::try_from(status.updated_ready_pods) == Ok(pods)
        })
        .await;
    assert_eq!(world.with_image("agent:v2").await, pods);
}

#[tokio::test]
async fn an_operator_that_is_killed_again_and_again_finishes_within_the_budget() {
    let cluster = DevCluster::start().await.unwrap();
    let mut operator = Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    let world = World::new(cluster.kubeconfig(), "crash").await;
    fleet(&world, 12, 2).await;
    let before = identities(&world.pods().await, "agent");
    let budget = BudgetWatcher::start(world.api());
    begin(&world, 2).await;
    for patched in [1, 4, 8] {
        until_updated(&world, patched).await;
        operator.kill();
        operator = Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    }
    until_done(&world, 12).await;
    assert_eq!(identities(&world.pods().await, "agent"), before);
    let worst = budget.worst();
    assert!((1..=2).contains(&worst), "{worst} pods were unavailable at once");
    assert!(operator.terminate());
    cluster.stop().await;
}

#[tokio::test]
async fn an_operator_killed_between_a_patch_and_its_answer_patches_no_pod_twice() {
    let cluster = DevCluster::start().await.unwrap();
    let proxy = Proxy::start(cluster.kubeconfig()).await;
    let world = World::new(cluster.kubeconfig(), "answer").await;
    let operator = Operator::start(&proxy.kubeconfig, "through-the-proxy", &SHORT_LEASE).await;
    fleet(&world, 6, 2).await;
    let budget = BudgetWatcher::start(world.api());
    proxy.hold_answers.store(true, Ordering::SeqCst);
    begin(&world, 2).await;
    tokio::time::timeout(crate::common::DEADLINE, proxy.held.notified()).await.expect("a patch is sent");
    until_updated(&world, 2).await;
    assert_eq!(world.with_image("agent:v2").await, 2, "the API server has the patches, the operator no answer");
    operator.kill();

    let successor = Operator::start(cluster.kubeconfig(), "successor", &SHORT_LEASE).await;
    until_done(&world, 6).await;
    let worst = budget.worst();
    assert!((1..=2).contains(&worst), "{worst} pods were unavailable at once");
    for pod in world.pods().await {
        let restarts = pod.status.unwrap().container_statuses.unwrap();
        let agent = restarts.iter().find(|status| status.name == "agent").unwrap();
        assert_eq!(agent.restart_count, 1, "one image change is one restart");
    }
    assert!(successor.terminate());
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_is_warm_writes_nothing_and_takes_over() {
    let cluster = DevCluster::start().await.unwrap();
    let leader = Operator::start(cluster.kubeconfig(), "first", &SHORT_LEASE).await;
    let follower = Operator::start(cluster.kubeconfig(), "second", &SHORT_LEASE).await;
    let world = World::new(cluster.kubeconfig(), "follower").await;
    fleet(&world, 8, 1).await;
    begin(&world, 1).await;
    until_updated(&world, 2).await;
    assert!(!follower.logged().contains("this replica leads"), "{}", follower.logged());
    let budget = BudgetWatcher::start(world.api());
    leader.kill();
    until_done(&world, 8).await;
    assert!(budget.worst() <= 1);
    let lease: Lease =
        Api::namespaced(world.client.clone(), "sidecarset-system").get("sidecarset-operator").await.unwrap();
    assert!(lease.spec.unwrap().holder_identity.unwrap().starts_with("second_"));
    assert!(follower.terminate());
    cluster.stop().await;
}

#[tokio::test]
async fn patches_that_an_overloaded_api_server_does_not_answer_are_sent_again() {
    let cluster = DevCluster::start().await.unwrap();
    let proxy = Proxy::start(cluster.kubeconfig()).await;
    let world = World::new(cluster.kubeconfig(), "overload").await;
    let operator = Operator::start(&proxy.kubeconfig, "through-the-proxy", &[]).await;
    fleet(&world, 6, 3).await;
    let budget = BudgetWatcher::start(world.api());
    proxy.overloaded.store(5, Ordering::SeqCst);
    begin(&world, 3).await;
    until_done(&world, 6).await;
    assert_eq!(proxy.overloaded.load(Ordering::SeqCst), 0);
    let worst = budget.worst();
    assert!((1..=3).contains(&worst), "{worst} pods were unavailable at once");
    assert!(operator.terminate());
    cluster.stop().await;
}

/// Stands between the operator and the API server. Plain HTTP on 127.0.0.1; it forwards with its own credentials.
struct Proxy {
    kubeconfig: PathBuf,
    hold_answers: Arc<AtomicBool>,
    held: Arc<Notify>,
    /// So many patches of pods are answered with 503 and not forwarded.
    overloaded: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Forward {
    upstream: Client,
    hold_answers: Arc<AtomicBool>,
    held: Arc<Notify>,
    overloaded: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(kubeconfig: &Path) -> Self {
        let (hold_answers, held) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let upstream = client(kubeconfig).await;
        let overloaded = Arc::new(AtomicUsize::new(0));
        let state = Forward {
            upstream,
            hold_answers: Arc::clone(&hold_answers),
            held: Arc::clone(&held),
            overloaded: Arc::clone(&overloaded),
        };
        let router = Router::new().fallback(forward).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let listener = listener.into_std().unwrap();
            axum_server::from_tcp(listener).unwrap().serve(router.into_make_service()).await.unwrap();
        });
        let through_proxy = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": server}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "users": [{"name": "proxy", "user": {}}],
        });
        let path = kubeconfig.with_file_name("kubeconfig-proxy");
        std::fs::write(&path, through_proxy.to_string()).unwrap();
        Self { kubeconfig: path, hold_answers, held, overloaded }
    }
}

/// Forwards a request; while answers are held, a patch of a pod reaches the API server and its answer nobody.
async fn forward(State(state): State<Forward>, request: Request) -> Response {
    let is_pod_patch = request.method() == "PATCH" && request.uri().path().contains("/pods/");
    let one_less = |left: usize| left.checked_sub(1);
    if is_pod_patch && state.overloaded.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
        return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let (mut parts, body) = request.into_parts();
    parts.headers.remove("host");
    let body = axum::body::to_bytes(body, 16 << 20).await.unwrap();
    let request = axum::http::Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    match state.upstream.send(request).await {
        Ok(_) if is_pod_patch && state.hold_answers.load(Ordering::SeqCst) => {
            state.held.notify_one();
            std::future::pending().await
        }
        Ok(response) => {
            let (parts, body) = response.into_parts();
            Response::from_parts(parts, Body::new(body))
        }
        Err(error) => (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
