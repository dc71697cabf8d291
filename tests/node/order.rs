//! The start order of injected sidecars, as containers really started.

use serde_json::{Value, json};

use crate::common::world::{World, is_ready, lists};
use crate::place::{application, container, probe, started_at, world};

/// A native sidecar that is started 5 s after it runs.
fn slow_native(name: &str, port: u16) -> Value {
    let mut native = container(name, "sidecar:slowstart", port);
    native["restartPolicy"] = json!("Always");
    native["startupProbe"] = probe(port);
    native
}

#[tokio::test]
async fn sidecars_start_in_the_declared_order_each_when_the_one_before_has_started() {
    let Some(world) = world("order").await else { return };
    let mut set = world.set("devcluster.test/sidecar:v1", json!({}));
    set["spec"]["initContainers"] = json!([slow_native("proxy", 8091), slow_native("mysql-client", 8092)]);
    set["spec"]["containers"] = json!([]);
    world.apply(&set).await;
    let created = world.pod("ordered", application()).await.unwrap();
    assert_eq!(lists(&created), (vec!["app"], vec!["proxy", "mysql-client"]));
    let pod = world.until_pod("ordered", "the pod is ready", is_ready).await;
    let [proxy, client, app] = ["proxy", "mysql-client", "app"].map(|name| started_at(&pod, name).unwrap());
    // Whole seconds: 5 s may show as 4.
    assert!(client.duration_since(proxy).as_secs() >= 4, "{proxy} {client}");
    assert!(app.duration_since(client).as_secs() >= 4, "{client} {app}");
    World::end(world).await;
}
