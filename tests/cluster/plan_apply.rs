//! `kubectl sidecarset plan` and `kubectl apply` agree on what becomes of a set that was changed by other means.

use kube::ResourceExt;
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;
use sidecarset::cli::plan::Manifest;

use crate::common::raw::{kubectl, plugin};
use crate::common::shared;
use crate::common::world::World;

/// What kubectl would make of it, asked of the apiserver.
async fn applied(set: &Value) -> SidecarSet {
    let arguments = ["apply", "--dry-run=server", "-o", "json", "-f", "-"];
    serde_json::from_str(&kubectl(shared(), &arguments, &set.to_string()).await.ok()).unwrap()
}

#[tokio::test]
async fn a_plan_merges_as_kubectl_apply_does() {
    let world = World::shared("merge-sets").await;
    let mut last = world.set("agent:v1", json!({"maxUnavailable": 2, "minReadySeconds": 3}));
    last["metadata"]["labels"] = json!({"team": "logs"});
    kubectl(shared(), &["apply", "-f", "-"], &last.to_string()).await.ok();
    let patch = json!({"metadata": {"labels": {"by": "hand"}, "annotations": {"by": "hand"}},
        "spec": {"customVersion": "1", "updateStrategy": {"paused": true, "minReadySeconds": 4}}});
    let patch = ["patch", "scs", "merge-sets", "--type", "merge", "-p", &patch.to_string()];
    kubectl(shared(), &patch, "").await.ok();
    let live = world.sets().get("merge-sets").await.unwrap();

    let without_strategy = {
        let mut set = world.set("agent:v2", json!({}));
        set["spec"].as_object_mut().unwrap().remove("updateStrategy");
        set
    };
    for set in [
        world.set("agent:v2", json!({"maxUnavailable": 1})),
        world.set("agent:v1", json!({"maxUnavailable": 2, "paused": null})),
        world.set("agent:v2", json!({"steps": [{"replicas": 1}], "paused": false})),
        without_strategy,
    ] {
        let (ours, theirs) = (Manifest::read(&set).unwrap().applied_to(Some(&live)).unwrap().set, applied(&set).await);
        assert_eq!(ours.spec, theirs.spec, "{set}");
        assert_eq!(ours.labels(), theirs.labels(), "{set}");
        assert_eq!(ours.annotations().get("by"), theirs.annotations().get("by"), "{set}");
        assert_eq!(ours.metadata.generation, theirs.metadata.generation, "{set}");
    }

    let set = world.set("agent:v2", json!({"maxUnavailable": 2, "minReadySeconds": 3}));
    let text = plugin(shared(), &["plan", "-f", "-"], &set.to_string()).await.stdout;
    assert!(
        text.contains("kept from the live object: spec.customVersion=\"1\", spec.updateStrategy.paused=true\n"),
        "{text}"
    );
    world.end().await;
}
