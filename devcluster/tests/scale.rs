//! How long 1,000 pods take; run by hand with `cargo test -p devcluster --test scale -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, dead_code)]

mod common;

use std::collections::HashSet;
use std::time::Instant;

use common::{cluster, namespace, ready, restarts};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;

const PODS: usize = 1000;

/// Watches, as an operator does: listing 1,000 pods again and again would be most of what is measured.
async fn all(pods: &Api<Pod>, done: impl Fn(&Pod) -> bool) {
    let mut finished = HashSet::new();
    let mut events = watcher(pods.clone(), watcher::Config::default()).default_backoff().applied_objects().boxed();
    while finished.len() < PODS {
        let pod = events.try_next().await.unwrap().unwrap();
        if done(&pod) {
            finished.insert(pod.metadata.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn a_thousand_pods() {
    let begin = Instant::now();
    let client = cluster().await.client();
    println!("cluster ready after {:?}", begin.elapsed());
    let ns = namespace(&client, "scale").await;
    let pods: Api<Pod> = Api::namespaced(client, &ns);
    let begin = Instant::now();
    stream::iter(0..PODS)
        .for_each_concurrent(32, async |index| {
            let pod = json!({"metadata": {"name": format!("p-{index}")}, "spec": {
                "initContainers": [{"name": "native", "image": "n:1", "restartPolicy": "Always"}],
                "containers": [{"name": "app", "image": "nginx:1"}, {"name": "side", "image": "s:1"}],
            }});
            pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        })
        .await;
    println!("{PODS} pods created after {:?}", begin.elapsed());
    all(&pods, |pod| ready(pod) == Some(true)).await;
    println!("{PODS} pods ready after {:?}", begin.elapsed());
    let begin = Instant::now();
    stream::iter(0..PODS)
        .for_each_concurrent(32, async |index| {
            let patch = json!({"spec": {"containers": [{"name": "side", "image": "s:2"}]}});
            pods.patch(&format!("p-{index}"), &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        })
        .await;
    println!("{PODS} images patched after {:?}", begin.elapsed());
    all(&pods, |pod| restarts(pod, "side") == 1 && ready(pod) == Some(true)).await;
    println!("{PODS} sidecars replaced and ready after {:?}", begin.elapsed());
}
