//! A log collector like fluentd: it reads the application's file over a volume that it shares, across its own upgrade.

use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::world::World;
use crate::place::{NATIVE, ORDINARY, real, set_with, settled, status, world};
use crate::programs::{COLLECTOR, WRITER, running};
use crate::requests::get;

/// A pod whose application logs into a file on an emptyDir.
fn writer() -> Value {
    let mut app = running(WRITER, "app", "app:v1", 8080);
    app["volumeMounts"] = json!([{"name": "logs", "mountPath": "/logs"}]);
    real(json!({"containers": [app], "volumes": [{"name": "logs", "emptyDir": {}}]}))
}

/// The collector gets the application's mounts.
async fn apply(world: &World, list: &str, image: &str) {
    let mut collector = running(COLLECTOR, "collector", image, 8081);
    collector["shareVolumePolicy"] = json!({"type": "enabled"});
    world.apply(&set_with(world, list, collector, &json!({"minReadySeconds": 1}))).await;
}

/// The numbers of the lines in a file of the volume.
async fn lines(pod: &Pod, file: &str) -> Vec<u64> {
    let text = get(pod, 8080, file).await.unwrap_or_default();
    // The last one may not have been written to its end.
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    whole.map(|line| line.strip_prefix("line ").unwrap().parse().unwrap()).collect()
}

/// Waits until the line with this number is delivered, and returns all that are.
async fn delivered(pod: &Pod, number: u64) -> Vec<u64> {
    eventually("the line is delivered", async || {
        let lines = lines(pod, "delivered").await;
        if lines.contains(&number) { Ok(lines) } else { Err(lines.last().copied()) }
    })
    .await
}

async fn no_line_is_lost(name: &str, list: &str) {
    let Some(world) = world(name).await else { return };
    apply(&world, list, "sidecar:v1").await;
    world.pod("web", writer()).await.unwrap();
    let before = settled(&world, "web").await;
    delivered(&before, 100).await;
    apply(&world, list, "sidecar:v2").await;
    let after = settled(&world, "web").await;
    assert_eq!(status(&after, "app"), status(&before, "app"));
    assert_eq!(status(&after, "collector").restart_count, 1);

    let written = *lines(&after, "app.log").await.last().unwrap();
    let delivered = delivered(&after, written).await;
    let mut once = delivered.clone();
    once.dedup();
    let gap = once.iter().zip(1..).find(|(number, expected)| **number != *expected);
    assert_eq!(gap, None, "a line that is missing or out of order, and the one expected there");
    // A line that was delivered, but not yet noted when the old collector ended, comes twice.
    let twice = delivered.len() - once.len();
    assert!(twice <= 1, "{twice} lines came twice");
    let log = LogParams { container: Some("collector".into()), ..LogParams::default() };
    let log = world.api::<Pod>().logs("web", &log).await.unwrap();
    let position = log.split("goes on after ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    println!("{name}: {written} lines, {twice} twice; the new collector went on after {position} bytes");
    assert_ne!(position, "0");
    world.end().await;
}

#[tokio::test]
async fn an_ordinary_log_collector_loses_no_line_when_it_is_upgraded() {
    no_line_is_lost("logs-ordinary", ORDINARY).await;
}

#[tokio::test]
async fn a_native_log_collector_loses_no_line_when_it_is_upgraded() {
    no_line_is_lost("logs-native", NATIVE).await;
}
