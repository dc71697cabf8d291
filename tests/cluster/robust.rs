//! What the webhook costs those who do not use it, and what happens when it does not answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use devcluster::DevCluster;
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sidecarset::webhook::tls::SelfSigned;
use sidecarset::webhook::tls::ca::{self, Contents, PUBLISH_DELAY, Plan};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::operator::Operator;
use crate::common::raw::{Answer, kubectl, post, repository, until_crd_is_served};
use crate::common::world::World;
use crate::common::{client, eventually};

const CONFIGURATION: &str = "sidecarset-pods-local";
const PROVISIONAL: &str = "sidecarset-pods-provisional-local";

async fn cluster() -> DevCluster {
    DevCluster::builder().without_kwok().start().await.unwrap()
}

/// Asks for a pod with these labels without keeping it; how long that took.
async fn dry_run(client: &Client, namespace: &str, labels: &Value) -> (Answer, Duration) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "app-", "labels": labels},
        "spec": {"containers": [{"name": "app", "image": "app:v1"}]}});
    let started = Instant::now();
    let answer = post(client, &format!("/api/v1/namespaces/{namespace}/pods?dryRun=All"), &pod).await;
    (answer, started.elapsed())
}

fn is_injected(pod: &Value) -> bool {
    pod["spec"]["containers"].as_array().unwrap().iter().any(|container| container["name"] != "app")
}

/// A set that puts `agent` into pods. The containers' names differ, so that several may select one pod.
fn set(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["containers"] = json!([{"name": name, "image": "agent:v1"}]);
    json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": name}, "spec": spec})
}

fn labels(labels: Value) -> Value {
    json!({"selector": {"matchLabels": labels}})
}

/// Sets of all shapes that a condition has; nothing in these tests matches those with a number above 0.
fn many_sets(namespace: &str) -> Vec<Value> {
    let mut sets = Vec::new();
    for i in 0..125 {
        sets.push(set(&format!("value-{i}"), labels(json!({"app": format!("value-{i}")}))));
        sets.push(set(&format!("key-{i}"), labels(json!({format!("key-{i}"): "on"}))));
        sets.push(set(
            &format!("two-{i}"),
            labels(json!({"app.kubernetes.io/name": format!("n-{i}"), "tier": format!("t-{i}")})),
        ));
        let mut named = labels(json!({"team": format!("t-{i}")}));
        let other = if i == 0 { namespace.to_owned() } else { format!("other-{i}") };
        named["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": other}});
        sets.push(set(&format!("named-{i}"), named));
    }
    let expressions = json!([
        {"key": "kind", "operator": "In", "values": ["a", "b"]}, {"key": "size", "operator": "In", "values": ["s", "m"]},
        {"key": "skip", "operator": "NotIn", "values": ["yes"]}, {"key": "never", "operator": "DoesNotExist"}]);
    sets.push(set("expressions", json!({"selector": {"matchExpressions": expressions}})));
    sets.push(set("exists", json!({"selector": {"matchExpressions": [{"key": "special", "operator": "Exists"}]}})));
    sets
}

/// Calls that the webhook on pods has answered.
async fn calls(operator: &Operator) -> u64 {
    let metrics = operator.metrics().await;
    let count = metrics.lines().find_map(|line| line.strip_prefix("sidecarset_injection_duration_seconds_count "));
    count.unwrap().parse().unwrap()
}

#[tokio::test]
async fn five_hundred_sets_cost_nothing_where_they_select_nothing() {
    let cluster = cluster().await;
    let world = World::new(cluster.kubeconfig(), "quiet").await;
    let crd = repository("crds/sidecarsets.yaml");
    kubectl(cluster.kubeconfig(), &["create", "-f", crd.to_str().unwrap()], "").await.ok();
    until_crd_is_served(cluster.kubeconfig()).await;
    let sets = many_sets(&world.name);
    let create = |set: Value| {
        let client = world.client.clone();
        async move { post(&client, crate::common::raw::SETS, &set).await.accepted() }
    };
    futures::stream::iter(sets).map(create).buffer_unordered(16).collect::<Vec<_>>().await;
    let operator = Operator::start(cluster.kubeconfig(), "quiet", &[]).await;
    let selected = [
        json!({"app": "value-7", "other": "x"}),
        json!({"key-124": "on"}),
        json!({"app.kubernetes.io/name": "n-3", "tier": "t-3"}),
        json!({"team": "t-0"}),
        json!({"kind": "b", "size": "s"}),
        json!({"kind": "a", "size": "m", "skip": "no"}),
        json!({"special": ""}),
    ];
    eventually("the sets are registered", async || {
        let pod = dry_run(&world.client, &world.name, &selected[0]).await.0.accepted();
        if is_injected(&pod) { Ok(()) } else { Err(pod) }
    })
    .await;
    for labels in &selected {
        let pod = dry_run(&world.client, &world.name, labels).await.0.accepted();
        assert!(is_injected(&pod), "{labels}: {pod}");
    }

    let answered = calls(&operator).await;
    let unselected = [
        json!({"app": "value", "key-1": "off", "team": "t-1", "tier": "t-1", "app.kubernetes.io/name": "n-2"}),
        Value::Null,
        json!({}),
        json!({"app": "key-1", "value-1": "app"}),
        json!({"app.kubernetes.io/name": "n-3", "tier": "t-4"}),
        json!({"tier": "t-3"}),
        json!({"team": "t-5"}),
        json!({"kind": "b", "size": "s", "skip": "yes"}),
        json!({"kind": "b", "size": "s", "never": ""}),
        json!({"kind": "b", "size": "l"}),
        json!({"app": "value-7", "sidecarset.dev/inject": "false"}),
    ];
    for labels in &unselected {
        let pod = dry_run(&world.client, &world.name, labels).await.0.accepted();
        assert!(!is_injected(&pod), "{labels}: {pod}");
    }
    assert_eq!(calls(&operator).await, answered, "a pod that no set selects was asked about");
    drop(operator);
    cluster.stop().await;
}

/// A Secret whose leaf is an old CA's, and is due in a moment to be issued by a new CA that everybody knows already.
fn about_to_rotate(due: Timestamp) -> Contents {
    let names = SelfSigned::names_of_service("sidecarset-webhook", "sidecarset-system").into_iter().collect();
    let published = due - PUBLISH_DELAY;
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    // The CA is past two thirds of its two years when the new one is published, its last leaf is a month old.
    [published - days(500), published - days(30), published].into_iter().fold(Contents::default(), |contents, at| {
        match ca::plan(&contents, at, &names).unwrap() {
            Plan::Rotate { contents, .. } => contents,
            Plan::Keep { next_check } => panic!("nothing to do at {at} before {next_check}"),
        }
    })
}

#[tokio::test]
async fn no_pod_is_refused_while_certificates_rotate() {
    let cluster = cluster().await;
    let client = client(cluster.kubeconfig()).await;
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "sidecarset-system"}})).unwrap();
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let data = about_to_rotate(Timestamp::now() + SignedDuration::from_secs(10)).into_data();
    let data: Value =
        data.into_iter().map(|(key, part)| (key, json!(ByteString(part)))).collect::<serde_json::Map<_, _>>().into();
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "sidecarset-webhook-tls"}, "data": data})).unwrap();
    Api::<Secret>::namespaced(client.clone(), "sidecarset-system")
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();

    let mut operator = Operator::start(cluster.kubeconfig(), "rotation", &[]).await;
    let world = World::new(cluster.kubeconfig(), "rotation").await;
    let mut spec = labels(json!({"app": "web"}));
    spec["injectionStrategy"] = json!({"failurePolicy": "Fail"});
    world.apply(&set("needed", spec)).await;
    assert!(!operator.logged().contains("serving a new webhook certificate"), "it was too early");

    let (stop, created) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = async || {
        while !stop.load(Ordering::SeqCst) {
            let (answer, _) = dry_run(&client, &world.name, &json!({"app": "web"})).await;
            assert!(is_injected(&answer.accepted()));
            created.fetch_add(1, Ordering::SeqCst);
        }
    };
    let rotation = async {
        operator.wait_for_log("serving a new webhook certificate").await;
        let rotated = created.load(Ordering::SeqCst);
        // Another bundle makes the apiserver connect anew, so that it sees the new certificate.
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let configuration = configurations.get(CONFIGURATION).await.unwrap();
        let patches = configuration.webhooks.unwrap().into_iter().enumerate().map(|(i, webhook)| {
            let mut bundle = webhook.client_config.ca_bundle.unwrap();
            assert_eq!(String::from_utf8(bundle.0.clone()).unwrap().matches("BEGIN").count(), 2, "old and new CA");
            bundle.0.extend(b"\n");
            json!({"op": "replace", "path": format!("/webhooks/{i}/clientConfig/caBundle"), "value": bundle})
        });
        let patch: json_patch::Patch = serde_json::from_value(patches.collect()).unwrap();
        configurations.patch(CONFIGURATION, &PatchParams::default(), &Patch::Json::<()>(patch)).await.unwrap();
        eventually("more pods are created", async || {
            let more = created.load(Ordering::SeqCst) - rotated;
            if more >= 500 { Ok(()) } else { Err(more) }
        })
        .await;
        stop.store(true, Ordering::SeqCst);
        rotated
    };
    let (before, (), ()) = tokio::join!(rotation, load(), load());
    assert!(before > 0);
    println!("{before} pods created before the rotation, {} in all, none refused", created.load(Ordering::SeqCst));
    drop(operator);
    cluster.stop().await;
}

/// What a pod may have to wait beside the webhook's timeout; the machine may be busy.
const SLACK: Duration = Duration::from_millis(1500);

/// Creates pods of every kind while nobody answers for `outage`; `holds` if calls end by the timeout only.
async fn suffer(world: &World, outage: &str, holds: bool) {
    let (ignore, fail) =
        if holds { (Duration::from_secs(2), Duration::from_secs(5)) } else { (Duration::ZERO, Duration::ZERO) };
    let create = async |labels: Value| dry_run(&world.client, &world.name, &labels).await;
    let accepted = async |labels: Value, limit: Duration| {
        let (answer, time) = create(labels.clone()).await;
        assert!(!is_injected(&answer.accepted()), "{outage}: somebody answered");
        assert!(time >= limit && time < limit + SLACK, "{outage}: {labels} took {time:?}");
        time
    };
    let refused = async |labels: Value, by: &str| {
        let (answer, time) = create(labels.clone()).await;
        let message = answer.refusal();
        assert!(
            message.contains(&format!("failed calling webhook \"{by}.fail.pods.sidecarset.dev\"")),
            "{outage}: {message}"
        );
        assert!(time < fail + SLACK, "{outage}: {labels} took {time:?}");
        time
    };
    let zero = Duration::ZERO;
    let times = tokio::join!(
        accepted(json!({"app": "other"}), zero),
        accepted(Value::Null, zero),
        // Two sets with different namespaceSelectors: one wait.
        accepted(json!({"log": "on"}), ignore),
        refused(json!({"app": "needed"}), "needed"),
        refused(json!({"tier": "needed"}), "needed-too"),
        refused(json!({"app": "needed", "log": "on"}), "needed"),
    );
    println!("{outage}: pods without and with Ignore sets, of Fail sets: {times:?}");
}

#[tokio::test]
async fn while_nobody_answers_only_pods_of_fail_sets_are_refused_and_others_wait_once() {
    let cluster = cluster().await;
    let operator = Operator::start(cluster.kubeconfig(), "outage", &[]).await;
    let world = World::new(cluster.kubeconfig(), "outage").await;
    let team = json!({"metadata": {"labels": {"team": "a"}}});
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces.patch(&world.name, &PatchParams::default(), &Patch::Merge(&team)).await.unwrap();
    let with = |mut spec: Value, field: &str, value: Value| {
        spec[field] = value;
        spec
    };
    let fail = json!({"failurePolicy": "Fail"});
    let sets = [
        set("needed", with(labels(json!({"app": "needed"})), "injectionStrategy", fail.clone())),
        set("needed-too", with(labels(json!({"tier": "needed"})), "injectionStrategy", fail)),
        set("wanted", labels(json!({"log": "on"}))),
        set(
            "wanted-by-team",
            with(labels(json!({"log": "on"})), "namespaceSelector", json!({"matchLabels": {"team": "a"}})),
        ),
    ];
    for set in &sets {
        world.apply(set).await;
    }
    let all = json!({"app": "needed", "tier": "needed", "log": "on"});
    eventually("all sets inject", async || {
        let pod = dry_run(&world.client, &world.name, &all).await.0.accepted();
        if pod["spec"]["containers"].as_array().unwrap().len() == 5 { Ok(()) } else { Err(pod) }
    })
    .await;

    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    eventually("no set is new any more", async || match configurations.get_opt(PROVISIONAL).await.unwrap() {
        None => Ok(()),
        left => Err(left),
    })
    .await;

    operator.signal("STOP");
    suffer(&world, "black hole", true).await;
    let address = operator.address("webhook");
    operator.kill();
    suffer(&world, "connection refused", false).await;
    let _full = full_backlog(address).await;
    suffer(&world, "connection not accepted", true).await;
    cluster.stop().await;
}

/// A listener whose queue is full: the kernel answers no further connection.
async fn full_backlog(address: SocketAddr) -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    (listener, waiting)
}
